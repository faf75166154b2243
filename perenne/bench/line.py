"""A measurement made over a line of one gigabit per second: in a network namespace whose loopback carries no more."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Final

from perenne.bench.load import SIZES
from perenne.bench.results import Results, say

LABEL: Final = "MR 11 KB"
_LINE: Final = "1gbit"
_NARROW: Final = (
    f'ip link set lo up && tc qdisc add dev lo root tbf rate {_LINE} burst 512kb latency 50ms && exec "$0" "$@"'
)
Measured = Callable[[str, int, int, str], Results]
"""Of instances with this label, so many of them, so many rounds, over what, for people."""


def both_ways(module: str, measured: Measured, count: int, repeat: int) -> Results:
    """Over the loopback as it is and, as root, over the line. count: of small instances; of large ones about as many
    bytes. module: where `measured` is; run with the arguments that `as_asked` takes.
    """
    results: Results = {}
    for label, (_, size) in SIZES.items():
        many = max(100, count * SIZES[LABEL][1] // size)
        results |= measured(label, many, repeat, "")
        if os.geteuid() == 0:
            command = [sys.executable, "-m", module, "measure", label, str(many), str(repeat)]
            done = subprocess.run(["unshare", "-n", "sh", "-c", _NARROW, *command], stdout=subprocess.PIPE, check=True)
            results |= json.loads(done.stdout)
        else:
            say("not root: nothing is measured over a line of 1 Gbit/s")
    return results


def as_asked(measured: Measured, arguments: list[str]) -> None:
    """What `both_ways` starts within the namespace."""
    _, label, count, repeat = arguments
    json.dump(measured(label, int(count), int(repeat), f", over {_LINE}/s"), sys.stdout)
