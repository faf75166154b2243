"""Bytes in flight: received in memory and not yet answered. Decides whose socket is read."""

from collections.abc import Callable
from typing import Final

_PATIENCE_S: Final = 3.0
_PROGRESS: Final = 16 * 1024
"""Bytes that a receiver which is read must bring within `_PATIENCE_S`, or its turn passes."""


class Account:
    """What one association holds. resume: called when it may be read again. brought: counts bytes that arrive."""

    __slots__ = ("brought", "held", "judged_from", "resume", "waiting_for_answer")

    def __init__(self, resume: Callable[[], None]) -> None:
        self.held = 0
        self.waiting_for_answer = 0
        self.brought = 0
        self.judged_from = 0.0
        self.resume = resume


class Budget:
    """A limit per association and one for all together.

    Nothing can stall for ever: whoever is held back waits for answers that are due. When none is due and the
    common limit is reached all the same, by instances that have not yet arrived whole, the one that began
    first is let through; those that are read and bring nothing go to the end of that order (`review`). Others
    resume in the order in which they were held back. The limits may be passed by one receive buffer per
    association, and by the rest of the instances that are let through.
    """

    def __init__(self, *, association_bytes: int, total_bytes: int) -> None:
        self._association_bytes = association_bytes
        self._total_bytes = total_bytes
        self.total = 0
        self._answers_due = 0
        self._receiving: dict[Account, None] = {}
        self._held_back: dict[Account, None] = {}

    @property
    def held_back(self) -> int:
        return len(self._held_back)

    def begin(self, account: Account) -> None:
        """An instance begins to arrive."""
        self._receiving[account] = None
        account.brought, account.judged_from = 0, 0.0

    def await_answer(self, account: Account) -> None:
        """The instance has arrived and is to be committed; `answered` will follow."""
        account.waiting_for_answer += 1
        self._answers_due += 1

    def answered(self, account: Account, size: int) -> None:
        """An instance charged with `size` was answered."""
        account.waiting_for_answer -= 1
        self._answers_due -= 1
        self.refund(account, size)
        self._wake()

    def end(self, account: Account) -> None:
        """The instance has arrived, or never will."""
        self._receiving.pop(account, None)
        self._wake()

    def charge(self, account: Account, size: int) -> None:
        account.held += size
        self.total += size

    def refund(self, account: Account, size: int) -> None:
        account.held -= size
        self.total -= size
        if size:
            self._wake()

    def close(self, account: Account) -> None:
        """The connection is gone; what it still holds is refunded by its operations as they end."""
        self._held_back.pop(account, None)
        self.end(account)

    def review(self, now: float) -> None:
        """Let nobody wait for a receiver that fell silent. Call about once a second. now: monotonic seconds."""
        for account in list(self._receiving):
            if account.brought >= _PROGRESS or account in self._held_back or not account.judged_from:
                account.brought, account.judged_from = 0, now
            elif now - account.judged_from >= _PATIENCE_S:
                del self._receiving[account]
                self._receiving[account] = None
        self._wake()

    def may_read(self, account: Account) -> bool:
        """Return whether to go on reading; when not, `account.resume` is called once that has changed."""
        if self._allowed(account):
            return True
        self._held_back[account] = None
        return False

    def _allowed(self, account: Account) -> bool:
        if account.waiting_for_answer and account.held >= self._association_bytes:
            return False
        if self.total < self._total_bytes or account not in self._receiving:
            return True
        return not self._answers_due and next(iter(self._receiving)) is account

    def _wake(self) -> None:
        for account in list(self._held_back):
            if self._allowed(account):
                self._held_back.pop(account, None)
                account.resume()
