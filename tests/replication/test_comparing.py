"""Goal: two committed logs that differ are an alarm, and nothing else is.

Method: two logs in memory, and two comparers whose questions and answers are handed over at once.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from replication.comparing import Comparer
from replication.core.values import Identity, ReplicaId
from replication.messages import Chains, ChainsAnswer, Message
from storage.log import Log
from tests.storage.log_helpers import IDENTITY, append
from tests.storage.memory_disk import MemoryDisk

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from replication.replicator import Replicator

LINK = 1


@dataclass
class Side:
    """One node, as far as a comparer sees it. committed: how far it knows its log to be committed."""

    name: str
    log: Log
    committed: int
    readers: ThreadPoolExecutor
    other: "Side | None" = None
    tasks: "list[asyncio.Task[None]]" = field(default_factory=list["asyncio.Task[None]"])

    def __post_init__(self) -> None:
        self.comparer = Comparer(cast("Replicator", self))

    @property
    def core(self) -> SimpleNamespace:
        assert self.other is not None
        link = SimpleNamespace(number=LINK, peer=Identity(ReplicaId(self.other.name), "disk", "boot"))
        point = self.log.point_at(self.committed)

        def link_to(replica: ReplicaId) -> SimpleNamespace:
            return link

        situation = SimpleNamespace(committed=point, links={LINK: link}, link_to=link_to)
        return SimpleNamespace(situation=situation)

    @property
    def network(self) -> "Side":
        return self

    def send(self, link: int, message: Message) -> None:
        assert self.other is not None
        if isinstance(message, Chains):
            self.other.spawn(self.other.comparer.answer(link, message))
        elif isinstance(message, ChainsAnswer):
            self.other.comparer.answered(message)

    def spawn(self, work: "Coroutine[None, None, None]") -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))


def log_of(salts: str) -> Log:
    """One record for each letter; a capital one begins an epoch, and with it a segment."""
    log, epoch = Log.open(MemoryDisk(), IDENTITY, host_rebooted=False, spares=0)[0], 1
    for salt in salts:
        epoch += salt.isupper()
        append(log, 500, epoch, salt=ord(salt))
    log.sync()
    return log


def compared(one: str, other: str, *, committed: tuple[int, int]) -> dict[str, int]:
    """What the first finds out about the second."""

    async def play() -> dict[str, int]:
        with ThreadPoolExecutor(1) as readers:
            first = Side("n1", log_of(one), committed[0], readers)
            second = Side("n2", log_of(other), committed[1], readers)
            first.other, second.other = second, first
            await first.comparer.compare()
            return {str(replica): at for replica, at in first.comparer.differs.items()}

    return asyncio.run(play())


def test_equal_logs_are_equal_however_far_each_knows() -> None:
    assert compared("abCdeFg", "abCdeFg", committed=(7, 7)) == {}
    assert compared("abCdeFg", "abCd", committed=(7, 3)) == {}
    assert compared("abC", "abCdeFg", committed=(3, 7)) == {}


def test_a_difference_that_both_call_committed_is_an_alarm() -> None:
    assert compared("abCdeFg", "xbCdeFg", committed=(7, 7)) == {"n2": 2}, "the end of the first segment"
    assert compared("abCdeFg", "abCdeFx", committed=(7, 7)) == {"n2": 7}
    assert compared("abCdeFg", "abCxeFg", committed=(7, 6)) == {"n2": 5}


def test_a_difference_beyond_either_commit_point_is_none() -> None:
    assert compared("abCdeFg", "abCdeFx", committed=(7, 6)) == {}
    assert compared("abCde", "abCdx", committed=(4, 5)) == {}


def test_an_alarm_stays_while_nothing_new_is_known() -> None:
    async def play() -> dict[ReplicaId, int]:
        with ThreadPoolExecutor(1) as readers:
            first, second = Side("n1", log_of("ab"), 2, readers), Side("n2", log_of("xb"), 2, readers)
            first.other, second.other = second, first
            await first.comparer.compare()
            second.committed = 0
            await first.comparer.compare()
            assert first.comparer.differs == {"n2": 2}
            second.log, second.committed = log_of("ab"), 2
            await first.comparer.compare()
            return first.comparer.differs

    assert asyncio.run(play()) == {}
