"""Who is told what happens inside a simulated process."""

from typing import TYPE_CHECKING

from replication.core import effects as fx
from replication.core import events as ev
from storage.position import RecordHeader
from storage.relearning import Relearned
from storage.rewriting import Compacted

if TYPE_CHECKING:
    from tests.simulation.process import Process


class Observer:
    """Hears what happens inside; the checks are one. This one listens to nothing."""

    def appended(self, process: "Process", header: RecordHeader, chain: bytes) -> None: ...

    def said(self, header: RecordHeader, payload: bytes) -> None: ...

    def stepped(self, process: "Process", event: ev.Event, effects: list[fx.Effect]) -> None: ...

    def evicted(self, process: "Process") -> None: ...

    def scrubbed(self, process: "Process") -> None: ...

    def may_go(self, process: "Process", upto: int) -> None: ...

    def rewriting(self, process: "Process") -> None: ...

    def compacted(self, process: "Process", compacted: Compacted) -> None: ...

    def relearned(self, process: "Process", what: Relearned) -> None: ...

    def failed(self, process: "Process", message: str, error: BaseException | None) -> None: ...
