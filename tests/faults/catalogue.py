"""Every fault that real processes are made to suffer, by name, in the order in which rounds go through them."""

from typing import Final

from tests.faults import (
    care_faults,
    compact_faults,
    delete_faults,
    disk_faults,
    evict_faults,
    line_faults,
    namespace_faults,
    process_faults,
    restore_faults,
    tier_faults,
    tier_outages,
)
from tests.faults.fault import REGISTERED, Fault

_MODULES: Final = (
    process_faults,
    line_faults,
    namespace_faults,
    tier_outages,
    tier_faults,
    disk_faults,
    delete_faults,
    compact_faults,
    care_faults,
    evict_faults,
    restore_faults,
)
CATALOGUE: Final[dict[str, Fault]] = {
    name: fault for module in _MODULES for name, fault in REGISTERED.items() if fault.act.__module__ == module.__name__
}
