"""Goal: whoever is refused leaves a line in the log, and a thousand of them leave not many more."""

import logging

import pytest

# The tables that must name whatever the association may say.
from monitoring.metrics import CLOSES, REJECTIONS, SERVICES, STATUSES
from perenne.dimse import command
from perenne.dimse import status as codes
from perenne.dimse.association import Closed
from perenne.dimse.command import service_of
from perenne.dimse.negotiation import Rejection
from perenne.dimse.refusals import Refusals
from perenne.dimse.sender import Sender
from perenne.dimse.uids import EXPLICIT_LE
from replication.api import NotPromised
from tests.dimse.helpers import CT, MemoryArchive, RawPeer, dataset, run, serving, settings, until

CONTEXTS = [(CT, [EXPLICIT_LE])]
Line = tuple[str, str, int]


def told(caplog: pytest.LogCaptureFixture) -> list[Line]:
    return [
        (record.message, str(vars(record)["reason"]), int(vars(record)["count"]))
        for record in caplog.records
        if record.name == "perenne.dimse.refusals"
    ]


@pytest.mark.parametrize(
    "archive", [MemoryArchive(refusing="too few copies"), MemoryArchive(failing=NotPromised("too few copies"))]
)
def test_a_refused_store_is_in_the_log_with_its_reason(
    archive: MemoryArchive, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving(archive=archive) as rig, await Sender.associate("127.0.0.1", rig.port, CONTEXTS) as sender:
            for _ in range(5):
                answer = await sender.store(CT, "1.2.3.4.5.6", EXPLICIT_LE, [dataset()])
                assert answer.status == codes.OUT_OF_RESOURCES
            assert told(caplog) == [("C-STORE answered A700", "too few copies", 1)]
        assert told(caplog)[1:] == [("C-STORE answered A700", "too few copies", 4)]

    run(main, twice=False)


def test_a_connection_beyond_the_limit_is_counted_and_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving(settings(max_associations=1)) as rig:
            peers = [await RawPeer.connect(rig.port) for _ in range(68)]
            await until(lambda: rig.ledger.refused == 3)
            assert told(caplog) == [("connection dropped", "too many connections", 1)]
            for peer in peers:
                await peer.close()
        assert told(caplog)[1:] == [("connection dropped", "too many connections", 2)]

    run(main, twice=False)


def test_the_first_is_told_at_once_and_the_others_once_a_period(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        refusals = Refusals(period_s=0.05)
        for _ in range(100):
            refusals.tell("refused", "why")
        assert told(caplog) == [("refused", "why", 1)]
        await until(lambda: len(told(caplog)) == 2)
        assert told(caplog)[1] == ("refused", "why", 99)
        for _ in range(2):
            refusals.tell("refused", "something else")
        await until(lambda: len(told(caplog)) == 4)  # its period began later, and is over
        refusals.tell("refused", "why")
        assert told(caplog)[4:] == [("refused", "why", 1)]
        caplog.clear()
        for number in range(1000):
            refusals.tell("refused", str(number))
        assert len(told(caplog)) < 70
        refusals.close()
        assert sum(count for _, _, count in told(caplog)) == 1000

    caplog.set_level(logging.WARNING)
    run(main, twice=False)


def test_metrics_know_every_reason_and_status_from_the_start() -> None:
    assert {closed.value for closed in Closed} == set(CLOSES)
    assert {rejection.name.lower() for rejection in Rejection} == set(REJECTIONS)
    of_a_store = {value for name, value in vars(codes).items() if name.isupper() and name != "COMMENT_LIMIT"}
    assert {service_of(field) for field in (*command.SERVICES, 0x0150)} == set(SERVICES)
    assert of_a_store - {codes.UNRECOGNIZED_OPERATION} == {int(status, 16) for status in STATUSES}
