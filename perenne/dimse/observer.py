"""What happens on the DICOM port, told as it happens, and the snapshot that monitoring reads."""

from dataclasses import dataclass
from typing import Protocol


class DimseObserver(Protocol):
    """Called in the event loop; must be quick and must not raise."""

    def connection_refused(self) -> None:
        """A connection was dropped at once: too many are open."""
        ...

    def association_opened(self, calling_ae: str) -> None: ...

    def association_rejected(self, reason: str, calling_ae: str) -> None:
        """reason: one of `negotiation.Rejection`, as its name in lower case."""
        ...

    def association_closed(self, reason: str, seconds: float) -> None:
        """reason: a `association.Closed` value. seconds: since the association was accepted."""
        ...

    def stored(self, size: int, seconds: float, status: int, calling_ae: str) -> None:
        """A C-STORE was answered, also when it failed.

        size: bytes of its data set. seconds: from the end of its command set to its answer.
        """
        ...

    def answered(self, service: str, status: int) -> None:
        """A request other than C-STORE was answered. service: as `command.service_of` names it."""
        ...


class NoObserver:
    """Hears nothing."""

    def connection_refused(self) -> None: ...

    def association_opened(self, calling_ae: str) -> None: ...

    def association_rejected(self, reason: str, calling_ae: str) -> None: ...

    def association_closed(self, reason: str, seconds: float) -> None: ...

    def stored(self, size: int, seconds: float, status: int, calling_ae: str) -> None: ...

    def answered(self, service: str, status: int) -> None: ...


@dataclass(frozen=True, slots=True)
class DimseStatistics:
    """connections: TCP, with those that are not (or no longer) associations.

    bytes_in_flight: of instances received in memory and not yet answered. paused: connections not read
    because of a limit. stores: C-STORE operations waiting for their commitment.
    """

    connections: int
    associations: int
    bytes_in_flight: int
    paused: int
    stores: int
