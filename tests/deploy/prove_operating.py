"""`script/prove-operating`: docs/operating.md, followed word by word on three booted machines."""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Final

from perenne.local.processes import DidNotStart
from tests.chart.rendering import ROOT
from tests.deploy import inspecting
from tests.deploy.container import CannotContain, check_rights
from tests.deploy.debian import StepFailed, debootstrapped, done, first_mirror, run_in
from tests.deploy.machines import BADGE, SHELL, Machine, check_tools, guarded, interrupt_on_terms, sweep
from tests.deploy.operating import DOCUMENT, MACHINES, Block, NotUnderstood, blocks, ports
from tests.faults.arena import FaultFailed, Unavailable
from tests.faults.namespaces import Network

PACKAGES: Final = ("dbus", "iproute2", "openssh-client", "openssh-server", "systemd", "systemd-sysv")
"""What a Debian 12 with SSH has at least, and ss."""
BLOCK_S: Final = 420.0
_BEGAN: Final = time.monotonic()
HOSTS: Final = "127.0.0.1 localhost\n::1 localhost\n"
POLICY: Final = "#!/bin/sh\nexit 101\n"
"""In a root that is not booted, packages start no services."""


def say(text: str) -> None:
    sys.stdout.write(f"{time.monotonic() - _BEGAN:5.0f} s  {text}\n")
    sys.stdout.flush()


@contextlib.contextmanager
def timed(what: str) -> Generator[None]:
    began = time.monotonic()
    yield
    say(f"ok {time.monotonic() - began:6.1f} s  {what}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="script/prove-operating",
        description="Carry out every command of docs/operating.md, 'From three bare machines to a cluster', on three "
        "Debian 12 that are booted with systemd-nspawn, in a network of their own. Steps that need package indexes are "
        "carried out before the machines are booted, since they are cut off from then on. Then restart everything, and "
        "look at health, open ports, and what runs as root. What this machine needs to reach its package indexes is "
        "taken along. Needs root and 8 GB; takes about ten minutes; exit code 0: proven. Ctrl-C ends all of it.",
        epilog="Example: sudo script/prove-operating --dir /var/tmp/operating --keep",
    )
    parser.add_argument("--dir", type=Path, help="where to work, empty or of an earlier run (a new one below TMPDIR)")
    parser.add_argument("--keep", action="store_true", help="leave the machines' roots there")
    parser.add_argument("--mirror", help="Debian mirror (the first of this machine's apt sources)")
    parser.add_argument("--bind", action="append", default=[], help="show a directory inside, such as local wheels")
    arguments = parser.parse_args()
    interrupt_on_terms()
    directory: Path = (arguments.dir or Path(tempfile.mkdtemp(prefix="perenne-operating-"))).resolve()
    try:
        check_rights()
        check_tools()
        sweep()
        prove(directory, arguments.mirror or first_mirror(), arguments.bind)
        say("proven")
        return 0
    except (CannotContain, DidNotStart, FaultFailed, NotUnderstood, StepFailed, Unavailable) as error:
        say(f"FAILED: {error}")
        return 1
    except subprocess.TimeoutExpired as error:
        say(f"FAILED: not done within {error.timeout:.0f} s: {error.cmd[-1]}\n{error.output!r}\n{error.stderr!r}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    finally:
        clear(directory, keep=arguments.keep)


def prove(directory: Path, mirror: str, binds: Sequence[str]) -> None:
    """Raises CannotContain, DidNotStart, FaultFailed, NotUnderstood, StepFailed, Unavailable."""
    document = committed("show", f"HEAD:{DOCUMENT.relative_to(ROOT)}")
    steps, allowed = blocks(document), ports(document)
    changed = " (what is changed here and not committed is left out)" if committed("status", "--porcelain") else ""
    say(f"commit {committed('rev-parse', '--short', 'HEAD').strip()}{changed}")
    with timed("a bare Debian 12 with SSH"):
        base = debootstrapped(directory, mirror, say, PACKAGES)
    roots = {name: directory / name for name in MACHINES}
    prepare(base, roots, [step for step in steps if step.needs_indexes], directory, binds)
    with contextlib.ExitStack() as undo:
        network = undo.enter_context(contextlib.closing(Network(MACHINES)))
        machines = {
            name: Machine(name, root, network.party(name), directory / f"{name}.log") for name, root in roots.items()
        }
        for machine in machines.values():
            undo.callback(machine.kill)
        with timed("three machines boot"):
            for machine in machines.values():
                machine.boot()
        for step in steps:
            if not step.needs_indexes:
                carry_out(step, machines)
        inspect(list(machines.values()), allowed)


def committed(*words: str) -> str:
    """What git says of the commit that the machines get a clone of."""
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout


def prepare(base: Path, roots: dict[str, Path], steps: list[Block], directory: Path, binds: Sequence[str]) -> None:
    """Three bare machines, and on them the steps that need package indexes. Raises StepFailed."""
    model = directory / "model"
    for old in (model, *roots.values()):
        remove(old)
    copy(base, model)
    (model / BADGE).write_text("model\n")
    (model / "usr/sbin/policy-rc.d").write_text(POLICY)
    (model / "usr/sbin/policy-rc.d").chmod(0o755)
    done(["git", "clone", "-q", str(ROOT), str(model / "root/perenne")], os.environ, "git clone")
    run_in(model, "ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519", binds)
    ssh = model / "root/.ssh"
    shutil.copy(ssh / "id_ed25519.pub", ssh / "authorized_keys")
    (ssh / "config").write_text("StrictHostKeyChecking accept-new\n")
    for step in steps:
        if step.machines == MACHINES:  # of one model all three are copies
            with timed(f"{' '.join(step.machines)}, not booted yet: {step.title}"):
                run_in(model, guarded("model", step.text), binds, SHELL)
    for name, root in roots.items():
        copy(model, root)
        (root / BADGE).write_text(f"{name}\n")
        (root / "etc/hostname").write_text(f"{name}\n")
    for step in steps:
        for name in step.machines if step.machines != MACHINES else ():
            with timed(f"{name}, not booted yet: {step.title}"):
                run_in(roots[name], guarded(name, step.text), binds, SHELL)
    for root in roots.values():
        (root / "usr/sbin/policy-rc.d").unlink()
        (root / "etc/hosts").write_text(HOSTS)
        (root / "etc/resolv.conf").write_text("")  # nobody to ask: no name is waited for
    remove(model)


def carry_out(step: Block, machines: dict[str, Machine]) -> None:
    """Raises DidNotStart, StepFailed, subprocess.TimeoutExpired."""
    for name in step.machines:
        machine = machines[name]
        with timed(f"{name}: {step.title}"):
            if step.power_on:
                machine.boot()
            elif step.goes_off:
                machine.run(step.text, BLOCK_S)  # its connection goes off as well: its end is what counts
                machine.await_off()
            else:
                inspecting.must(machine, step.text, BLOCK_S)


def inspect(machines: list[Machine], allowed: set[int]) -> None:
    """Raises StepFailed."""
    with timed("every machine calls all three healthy"):
        inspecting.healthy(machines)
    for machine in machines:
        inspecting.services_run(machine)
    with timed("each service of each machine restarted, healthy after each"):
        inspecting.survives_restarts(machines)
    for machine in machines:
        inspecting.doors_are_locked(machine)
        say(f"ok  {machine.name} answers nobody without a certificate (ZooKeeper) or the token (HTTP)")
        open_ports = inspecting.ports_are(machine, allowed)
        say(f"ok  {machine.name} listens on {sorted(open_ports)}, all of them in the table of ports")
        say(f"ok  {machine.name} runs as root {', '.join(inspecting.rights_are_few(machine))}; ours have no privileges")


def copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", "--reflink=auto", str(source), str(target)], check=True)


def remove(directory: Path) -> None:
    """Never through a mount. Raises StepFailed."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    if inside := [mount for mount in mounts if Path(mount).is_relative_to(directory)]:
        raise StepFailed(f"{inside} is mounted: nothing was deleted")
    if directory.exists():
        subprocess.run(["rm", "-rf", "--one-file-system", str(directory)], check=True)


def clear(directory: Path, *, keep: bool) -> None:
    """Raises StepFailed."""
    if keep:
        say(f"kept: {directory}")
        return
    beside = (file for name in MACHINES for file in (f"{name}.log", f".#{name}.lck"))
    for name in ("model", "base", *MACHINES, *beside):
        remove(directory / name)
    with contextlib.suppress(OSError):  # somebody else's files lie there too
        directory.rmdir()


if __name__ == "__main__":
    sys.exit(main())
