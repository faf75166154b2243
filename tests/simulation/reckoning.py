"""After the faults: does the cluster come back by itself, and is everything there that it ever promised?"""

import asyncio
from random import Random

from storage.buried import RELEASE
from storage.position import RecordKind
from tests.simulation.checks_compacting import chains_equal, leftovers
from tests.simulation.checks_relearning import left_in_bucket
from tests.simulation.cluster import Cluster
from tests.simulation.keeping import note
from tests.simulation.machine import Machine
from tests.simulation.process import Process
from tests.simulation.workload import Workload
from tests.simulation.world import Violation

RESCUE_MS = 60_000
WRITABLE_MS = 30_000
REDUNDANT_MS = 60_000
SCRUB_AGAIN_MS = 70_000
"""A scrub that met an error, such as a full disk, goes on a minute later."""
QUIET_MS = 1500
WHOLE_SESSION = 0.2
COMPACT_MS = 30_000
COMPACT_LOOK_MS = 100
READ_BACK = 20
"""Instances, of all that are owed, that each node but the leader is asked for; the media are judged besides."""


class Reckoning:
    """The checks at the end of a run. Numbers are those of protocol section 14."""

    def __init__(self, cluster: Cluster, workload: Workload) -> None:
        self.cluster = cluster
        self.workload = workload

    def reckon(self) -> None:
        """Raises Violation."""
        self._rescue()
        self._live()
        self._quiet()
        self._compacted()
        self._read_everything()
        self._media()

    def _rescue(self) -> None:
        """Where nobody may lead any more, an operator's verb helps."""
        rescuer = self.cluster.rescuer
        if rescuer.needed:
            rescuer.begin()
            if not self.cluster.run_ms(RESCUE_MS, lambda: not rescuer.needed):
                raise Violation(f"no rescue {RESCUE_MS // 1000} s after healing: {rescuer.why}; {self.complaint()}")

    def _rescue_from_damage(self) -> None:
        """No disk that counts was lost, so what was committed is not the operator's to give up, as it is elsewhere."""
        checks, rescuer = self.cluster.checks, self.cluster.rescuer
        before, checks.bereft = rescuer.forgotten, True
        self._rescue()
        if rescuer.forgotten > before:
            lost = rescuer.forgotten - before
            raise Violation(f"{lost} committed records were given up, since each member of the set was damaged")

    def _live(self) -> None:
        """16: writable within 30 simulated seconds at every node, fully redundant soon after."""
        cluster, workload = self.cluster, self.workload
        before = cluster.checks.acknowledgements
        probes = {m.number: workload.make(f"1.2.840.99.{m.number}") for m in cluster.machines.values()}
        for number, probe in probes.items():
            workload.offer(probe, 0, then=False, machine=cluster.machines[number])
        cluster.rescuer.damaged_since_us = cluster.world.now_us
        took = cluster.run_ms(
            WRITABLE_MS, lambda: cluster.checks.acknowledgements > before or cluster.rescuer.nobody_can
        )
        if took and cluster.checks.acknowledgements == before:
            self._rescue_from_damage()
            took = cluster.run_ms(WRITABLE_MS, lambda: cluster.checks.acknowledgements > before)
        if not took:
            raise Violation(f"not writable {WRITABLE_MS // 1000} s after everything healed: {self.complaint()}")
        if not cluster.run_ms(REDUNDANT_MS, lambda: all(p.done or p.refused for p in probes.values())):
            raise Violation(f"some node takes no store {REDUNDANT_MS // 1000} s after healing: {self.complaint()}")
        workload.stopped = True
        scrub_ms = SCRUB_AGAIN_MS if cluster.shape.scrubs else 0
        if not cluster.run_ms(REDUNDANT_MS + scrub_ms, self._redundant):
            raise Violation(f"not redundant {REDUNDANT_MS // 1000} s after healing: {self.complaint()}")

    def _redundant(self) -> bool:
        self.cluster.notice_recovery()
        return self.cluster.redundant()

    def _settled(self) -> bool:
        leader, state = self.cluster.leader(), self.cluster.state
        process = leader.running if leader is not None else None
        leadership = process.core.leadership if process is not None else None
        handing_over = leadership is None or leadership.handover is not None
        asked = any(not operation.result for operation in self.cluster.service.operations.values())
        return state is not None and state.transfer is None and not handing_over and not asked

    def complaint(self) -> str:
        """What each node says of itself."""
        said: list[str] = []
        for machine in self.cluster.machines.values():
            process = machine.running
            if process is None:
                said.append(f"{machine.name}: no process, {machine.stops or 'stopped'}")
                continue
            situation = process.core.situation
            role = "leader" if process.core.leadership else "candidate" if process.core.candidacy else "follower"
            what = process.core.refusal() or situation.fenced or ("" if process.log.intact else "damaged")
            said.append(f"{machine.name}: {role}, end {situation.ledger.end.sequence}, harm {machine.harm!r}, {what!r}")
        return "; ".join(said)

    def _quiet(self) -> None:
        """16: nothing fails, so no epoch grows. Handing over what was asked for before is no failure."""
        cluster = self.cluster
        cluster.run_ms(QUIET_MS)
        cluster.run_ms(5000, self._settled)
        elections = cluster.checks.elections
        # In some, long enough for a session that nobody keeps to expire: that takes as long as all the rest.
        cluster.run_ms(QUIET_MS + (cluster.shape.session_ms if cluster.chance.random() < WHOLE_SESSION else 0))
        if cluster.checks.elections != elections:
            raise Violation("an election although nothing failed")

    def _compacted(self) -> None:
        """ADR 0014: what was deleted, and permitted to go, is gone from every node, and nothing else changed."""
        if self.cluster.shape.undo_us is None:
            return
        left = [""]
        for _ in range(COMPACT_MS // COMPACT_LOOK_MS):
            if not (left := leftovers(self.cluster)):
                break
            self._let_go()
            self.cluster.run_ms(COMPACT_LOOK_MS)
        if left:
            raise Violation(f"not compacted {COMPACT_MS // 1000} s after healing: {'; '.join(left[:3])}")
        self._compacted_in_bucket()
        chains_equal(self.cluster)

    def _compacted_in_bucket(self) -> None:
        """The same of the bucket, object by object, as fast as it answers."""
        left = left_in_bucket(self.cluster)
        while left:
            self.cluster.run_ms(COMPACT_MS)
            before, left = left, left_in_bucket(self.cluster)
            if len(left) >= len(before):
                raise Violation(f"nothing goes from the bucket in {COMPACT_MS // 1000} s: {'; '.join(left[:3])}")

    def _let_go(self) -> None:
        """Nothing is on hold any more."""
        leader, checks = self.cluster.leader(), self.cluster.checks
        if leader is None or leader.running is None or not checks.reclaimed.held(len(checks.history.committed)):
            return
        leader.running.loop.create_task(note(leader.running, RELEASE))

    def _read_everything(self) -> None:
        """1, 10 and 11: what was acknowledged is read back with the same bytes, from the leader all and from the
        others some, and what was deleted is not.
        """
        cluster, workload = self.cluster, self.workload
        now_us = cluster.world.now_us
        wanted = sorted({i.uid for i in workload.instances if workload.fates.owed(i.uid, now_us)})
        gone = sorted({i.uid for i in workload.instances if workload.fates.gone(i.uid, now_us)})
        chance = Random(f"read back {cluster.world.seed}")
        answers: list[tuple[str, str, bool]] = []
        asked = 0

        async def read(process: Process, uid: str) -> None:
            there = False
            for _ in range(20):  # a link may have died unnoticed: whoever reads asks again
                there = await workload.read(process, uid, strictly=True)
                if there or uid in gone:
                    break
                await asyncio.sleep(0.5)
            answers.append((process.name, uid, there))

        for machine in cluster.machines.values():
            process = machine.running
            if process is None:
                raise Violation(f"{machine.name} is gone after healing")
            some = wanted if machine is cluster.leader() else chance.sample(wanted, min(len(wanted), READ_BACK))
            for uid in [*some, *gone]:
                process.loop.create_task(read(process, uid))
                asked += 1
        if not cluster.run_ms(30_000, lambda: len(answers) == asked):
            raise Violation(f"{asked - len(answers)} reads without an answer after healing")
        missing = [f"{uid} at {name}" for name, uid, there in answers if not there and uid not in gone]
        if missing:
            raise Violation(f"acknowledged and not to be read: {missing[:3]}")

    def _media(self) -> None:
        """1 and 7: on the media themselves. Copies of what was acknowledged, and no valid record dropped anywhere."""
        cluster = self.cluster
        history = cluster.checks.history
        for digest, uid in history.acknowledged.items():
            sequence = history.committed_at[digest]
            if cluster.checks.reclaimed.may_be_gone(history.committed[sequence], sequence):
                continue  # deleted, although nobody was told
            head = history.head(history.committed[sequence])
            holders = [m for m in cluster.machines.values() if m.holds(history.content[digest], sequence, head)]
            wanted = min(cluster.shape.copies_required, len(cluster.machines))
            if history.committed[sequence] in cluster.bucket.lost and any(
                m.evicted(sequence) for m in cluster.machines.values()
            ):
                wanted -= 1  # what was done to the bucket is what the other copies are for: they must be there
            if len(holders) < wanted and not self._in_bucket(sequence, wanted - len(holders)):
                raise Violation(f"{uid}, acknowledged as record {sequence}, is on {[m.name for m in holders]} only")
        for machine in cluster.machines.values():
            if not machine.harm:
                self._conserved(machine)
                mirror, durable = cluster.mirror, machine.durable.sequence
                wrong = mirror.damage(machine.name, machine.medium, durable)[0] if mirror is not None else ""
                if wrong:
                    raise Violation(f"{machine.name} is in the in-sync set, and is damaged: {wrong}")

    def _in_bucket(self, sequence: int, missing: int) -> bool:
        """Whether the bucket makes up for the copies that are missing: it is one."""
        cluster = self.cluster
        return missing == 1 and cluster.bucket.holds(cluster.checks.history.committed[sequence])

    def _conserved(self, machine: Machine) -> None:
        """Every record that was durable on this disk is in its log or in its lost+found."""
        history = self.cluster.checks.history
        for chain in machine.kept:
            header = history.headers[chain]
            if header.kind is not RecordKind.INSTANCE:
                continue
            content = history.content[header.dataset]
            sequence = header.position.sequence
            if self.cluster.checks.reclaimed.may_be_gone(chain, sequence):
                continue  # 7: reclaimed under a committed tombstone
            if machine.evicted(sequence) and chain == history.committed[sequence]:
                if self.cluster.bucket.had(chain):
                    continue
                raise Violation(f"{machine.name} evicted record {sequence}, which is not in the bucket")
            if machine.holds(content, header.position.sequence) or machine.medium.saved(content):
                continue
            if not machine.medium.holds(content):
                raise Violation(f"{machine.name} dropped record {header.position}, which was durable there")
