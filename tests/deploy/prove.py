"""`script/prove-container`: every step of deploy/Containerfile without an engine, and a node from what comes out."""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from perenne.local.processes import DidNotStart, wait_until
from tests.chart.rendering import CHART, ROOT
from tests.deploy.building import build
from tests.deploy.container import CannotContain, Container, Image, check_rights, execute
from tests.deploy.containerfile import Stage, parse
from tests.deploy.debian import StepFailed, debootstrapped, first_mirror
from tests.faults.arena import FaultFailed
from tests.faults.namespaces import Namespace

USER: Final = 10001
_BEGAN: Final = time.monotonic()


def say(text: str) -> None:
    sys.stdout.write(f"{time.monotonic() - _BEGAN:5.0f} s  {text}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="script/prove-container",
        description="Carry out deploy/Containerfile in a debootstrapped Debian 12, without an engine. Then run a node "
        "from the result as a container would: read-only, not as root, without capabilities, in a network of its own; "
        "ask its health check, store and read back with the chart's test, and end it with its stop signal.",
        epilog="Example: sudo script/prove-container --dir /var/tmp/image --keep",
    )
    parser.add_argument("--dir", type=Path, help="where to work; needs 3 GB (a new directory below TMPDIR)")
    parser.add_argument("--keep", action="store_true", help="leave the roots there")
    parser.add_argument("--mirror", help="Debian mirror (the first of this machine's apt sources)")
    parser.add_argument("--bind", action="append", default=[], help="show a directory inside, such as local wheels")
    arguments = parser.parse_args()
    directory: Path = (arguments.dir or Path(tempfile.mkdtemp(prefix="perenne-image-"))).resolve()
    try:
        check_rights()
        base = debootstrapped(directory, arguments.mirror or first_mirror(), say)
        stages = parse((ROOT / "deploy" / "Containerfile").read_text())
        root = build(stages, base, ROOT, directory, arguments.bind, say)
        try_node(root, stages[-1], directory)
    except (CannotContain, DidNotStart, StepFailed, FaultFailed) as error:
        say(f"FAILED: {error}")
        return 1
    finally:
        if not arguments.keep:
            shutil.rmtree(directory, ignore_errors=True)
    say(f"kept: {root}" if arguments.keep else "done")
    return 0


def try_node(root: Path, stage: Stage, directory: Path) -> None:
    """Raises StepFailed, DidNotStart, FaultFailed."""
    data = directory / "data"
    data.mkdir(exist_ok=True)
    os.chown(data, USER, USER)
    assert stage.last("USER") == f"{USER}:{USER}"
    with contextlib.closing(Namespace()) as network:
        network.run("ip", "link", "set", "dev", "lo", "up")
        container = Container(
            image=Image(root),
            place=directory / "container",
            command=stage.command,
            user=USER,
            environment={**stage.environment, "PERENNE_CLUSTER__ALLOW_SOLO": "true"},
            binds=[(data, "/var/lib/perenne", False), (CHART / "files", "/test", True)],
            scratch=["/tmp"],
            network=network.wrapper,
        )
        (root / "test").mkdir(exist_ok=True)
        running = container.start(directory / "node.log")
        try:
            say("the node starts as its image says")
            wait_until(
                lambda: execute(running, container, stage.health, 30).returncode == 0,
                [running],
                "the health check passes",
            )
            say("ok: HEALTHCHECK")
            words = ["/opt/perenne/bin/python", "/test/try_archive.py", "127.0.0.1:11112", "PERENNE"]
            _passes("the chart's test", lambda: execute(running, container, [*words, "http://127.0.0.1:8080"], 120))
            _passes("perenne status", lambda: execute(running, container, ["perenne", "status", "127.0.0.1:8080"], 60))
            writes = execute(running, container, ["sh", "-c", "touch /opt/x || touch /x || touch /etc/x"], 30)
            if writes.returncode == 0:
                raise StepFailed("the root file system can be written to")
            say("ok: the root file system is read-only")
            running.signal(getattr(signal, stage.last("STOPSIGNAL")))
            code = _exit_code(running.pid)
            if code != 0:
                raise StepFailed(f"after {stage.last('STOPSIGNAL')} the node ended with {code}\n{running.tail()}")
            say("ok: it ends with its stop signal")
            _report(root)
        finally:
            running.kill()


def _passes(what: str, run: Callable[[], subprocess.CompletedProcess[str]]) -> None:
    done = run()
    if done.returncode != 0:
        raise StepFailed(f"{what}: {done.stdout}{done.stderr}")
    say(f"ok: {what}\n{done.stdout.rstrip()}")


def _exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _report(root: Path) -> None:
    sizes: dict[str, int] = {}
    for name, place in (("image_MiB", root), ("of_it_perenne_MiB", root / "opt" / "perenne")):
        done = subprocess.run(["du", "-sm", str(place)], capture_output=True, text=True, check=True)
        sizes[name] = int(done.stdout.split()[0])
    say(json.dumps(sizes))


if __name__ == "__main__":
    sys.exit(main())
