"""What operators order, carried out by simulated leaders: one person, two persons, and a leader that dies over it."""

import itertools
import json
import struct
from dataclasses import replace
from typing import Any

from replication.coordination.port import Operation
from replication.pages import APPROVAL, DELETE_VERB, REQUEST, WITHDRAWAL
from tests.simulation.deletes import SERIES, STUDY
from tests.simulation.machine import Machine
from tests.simulation.process import CT
from tests.simulation.stage import Stage, process_of
from tests.simulation.test_absence import asked
from tests.simulation.workload import Instance

_IDS = itertools.count(1)


def stored(stage: Stage, machine: Machine, uid: str) -> Instance:
    """Send an instance that says what study it is of, and wait until it is promised."""

    def element(group: int, tag: int, value: str) -> bytes:
        return struct.pack("<HHI", group, tag, len(value) + len(value) % 2) + value.encode() + b"\0" * (len(value) % 2)

    names = element(8, 0x16, CT) + element(8, 0x18, uid) + element(0x20, 0x0D, STUDY) + element(0x20, 0x0E, SERIES)
    pixels = stage.world.random.randbytes(400)
    instance = Instance(uid, names + struct.pack("<HHI", 0x7FE0, 0x10, len(pixels)) + pixels)
    stage.workload.instances.append(instance)
    stage.workload.versions.setdefault(uid, []).append(instance.dataset)
    stage.workload.stopped = True  # nobody tries again
    stage.until(lambda: stage.takes(machine))
    stage.workload.offer(instance, 0, then=False, machine=machine)
    stage.until(lambda: instance.done)
    return instance


class Order:
    """One order under way."""

    def __init__(self, stage: Stage, do: str, **body: Any) -> None:
        self._stage = stage
        self._id = f"order-{next(_IDS)}"
        arguments = {"do": do, "body": json.dumps(body)}
        stage.cluster.service.request(Operation(DELETE_VERB, self._id, arguments))

    @property
    def answer(self) -> dict[str, Any] | None:
        found = self._stage.cluster.service.operations[DELETE_VERB]
        if found.id != self._id or found.result is None:
            return None
        answer: dict[str, Any] = json.loads(found.result)
        return answer


def ordered(stage: Stage, do: str, **body: Any) -> dict[str, Any]:
    order = Order(stage, do, **body)
    stage.until(lambda: order.answer is not None)
    assert order.answer is not None
    return order.answer


def covers(stage: Stage) -> list[list[str]]:
    """Everything that a delete of the study would take, as the leader lists it."""
    before = ordered(stage, "look", level="study", uids=[STUDY])["before"]
    items = ordered(stage, "list", level="study", uids=[STUDY], before=before, after=0)["items"]
    return [item[1:5] for item in items]


def buried(stage: Stage, what: list[list[str]], request: str = "r1", part: int = 1, before: int = 0) -> dict[str, Any]:
    """The stage's own checks must know of the delete, so the fates of what is covered are forgotten here."""
    stage.cluster.checks.history.acknowledged.clear()
    stage.cluster.checks.fates.known.clear()
    said = {"reason": "a test", "by": "anna", "asked_us": 1, "request": request, "part": part, "before": before}
    return ordered(stage, "bury", covers=what, **said)


def gone(stage: Stage, instance: Instance) -> bool:
    return not any(asked(stage, machine, instance.uid) for machine in stage.cluster.machines.values())


def test_one_person_lists_deletes_and_brings_back() -> None:
    with Stage(3) as stage:
        instances = [stored(stage, stage.followers[0], f"1.{number}") for number in range(5)]
        assert len(what := covers(stage)) == 5
        assert buried(stage, what[:3]) == {"outcome": "stored", "deleted": 3}
        assert buried(stage, what[:3]) == {"outcome": "duplicate", "deleted": 3}
        stage.until(lambda: gone(stage, instances[0]))
        assert covers(stage) == what[3:]
        items = ordered(stage, "deleted", request="r1", study="", after=0)["items"]
        assert [item[1:5] for item in items] == what[:3]
        outcomes = ordered(stage, "restore", sequences=[item[0] for item in items])["restored"]
        assert set(outcomes.values()) == {"stored"}
        assert asked(stage, stage.leader, "1.0") and len(covers(stage)) == 5
        assert ordered(stage, "deleted", request="r1", study="", after=0)["items"] == []
        stage.reckon()


def test_one_person_deletes_nothing_that_was_stored_again_since_it_was_listed() -> None:
    """Two people at once, and a sender: what the first listed was deleted by the second, and is promised anew."""
    with Stage(3) as stage:
        stored(stage, stage.followers[0], "1.1")
        before = ordered(stage, "look", level="study", uids=[STUDY])["before"]
        what = covers(stage)
        assert buried(stage, what)["outcome"] == "stored"
        items = ordered(stage, "deleted", request="r1", study="", after=0)["items"]
        assert set(ordered(stage, "restore", sequences=[item[0] for item in items])["restored"].values()) == {"stored"}
        late = buried(stage, what, request="r2", before=before)
        assert "stored again since" in late.get("refused", ""), late
        assert len(covers(stage)) == 1
        stage.reckon()


def test_what_is_on_hold_is_not_deleted_until_it_is_released() -> None:
    with Stage(3) as stage:
        stored(stage, stage.leader, "1.1")
        what = covers(stage)
        facts = {"by": "anna", "reason": "court"}
        ordered(stage, "note", what="hold", subject=STUDY, facts=facts)
        assert ordered(stage, "look", level="study", uids=[STUDY])["held"] == [STUDY]
        assert "hold" in buried(stage, what)["refused"]
        lies = [["9.9", *row[1:]] for row in what]
        assert "hold" in buried(stage, lies)["refused"], "the leader goes by its own index"
        ordered(stage, "note", what="release", subject=STUDY, facts=facts)
        assert buried(stage, what)["outcome"] == "stored"
        stage.reckon()


def test_two_persons_delete_what_was_there_when_the_first_asked_and_nothing_else() -> None:
    with Stage(3) as stage:
        for machine in stage.cluster.machines.values():
            replicator = process_of(machine).replicator
            replicator.settings = replace(replicator.settings, two_person=True)
        instance = stored(stage, stage.followers[0], "1.1")
        (old,) = covers(stage)
        assert "no request" in buried(stage, [old], "r1")["refused"]
        wish = {"level": "instance", "uids": "1.1", "reason": "blurred", "by": "Anna"}
        ordered(stage, "note", what=REQUEST, subject="r1", facts=wish)
        assert "approved" in buried(stage, [old], "r1")["refused"]
        mine = ordered(stage, "note", what=APPROVAL, subject="r1", facts={"by": " anna"})
        assert "second person" in mine["refused"]
        other = stored(stage, stage.followers[0], "1.2")
        ordered(stage, "note", what=APPROVAL, subject="r1", facts={"by": "Berg"})
        more = next(row for row in covers(stage) if row[2] == "1.2")
        assert "not of what" in buried(stage, [more], "r1")["refused"]
        assert buried(stage, [old], "r1")["outcome"] == "stored"
        stage.until(lambda: gone(stage, instance))
        stage.workload.offer(instance, 0, then=False, machine=stage.followers[0])
        stage.until(lambda: asked(stage, stage.leader, "1.1"))
        assert "stored again" in buried(stage, [old], "r1", part=2)["refused"]
        assert asked(stage, stage.leader, other.uid)
        stage.reckon()


def test_a_request_that_was_withdrawn_is_not_carried_out() -> None:
    with Stage(2) as stage:
        for machine in stage.cluster.machines.values():
            replicator = process_of(machine).replicator
            replicator.settings = replace(replicator.settings, two_person=True)
        stored(stage, stage.leader, "1.1")
        what = covers(stage)
        wish = {"level": "study", "uids": STUDY, "reason": "wrong", "by": "Anna"}
        ordered(stage, "note", what=REQUEST, subject="r1", facts=wish)
        ordered(stage, "note", what=WITHDRAWAL, subject="r1", facts={"by": "Anna"})
        assert "withdrawn" in ordered(stage, "note", what=APPROVAL, subject="r1", facts={"by": "Berg"})["refused"]
        assert "withdrawn" in buried(stage, what, "r1")["refused"]
        stage.reckon()


def test_an_order_that_a_dying_leader_took_is_carried_out_once_by_the_next() -> None:
    with Stage(3) as stage:
        instance = stored(stage, stage.followers[0], "1.1")
        what = covers(stage)
        first = stage.leader
        end = process_of(first).core.situation.ledger.end.sequence
        stage.cluster.checks.fates.known.clear()
        body = {"covers": what, "reason": "a test", "by": "anna", "asked_us": 1, "request": "r1", "part": 1}
        Order(stage, "bury", **body)
        stage.until(lambda: process_of(first).core.situation.ledger.end.sequence > end)
        stage.strike("kill", first)
        stage.until(lambda: stage.cluster.leader() not in (None, first))
        stage.until(stage.cluster.redundant)
        assert ordered(stage, "bury", **body)["outcome"] in ("stored", "duplicate")
        stage.until(lambda: gone(stage, instance))
        tombstones = [
            header
            for chain in stage.cluster.checks.history.committed[1:]
            if "tombstone" in (header := stage.cluster.checks.history.headers[chain]).path
        ]
        assert len(tombstones) == 1
        stage.reckon()
