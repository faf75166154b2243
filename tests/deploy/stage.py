"""Where a rehearsal takes place: the rendered chart, a network namespace for every pod, and images of this machine."""

import contextlib
import subprocess
import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, overload

from perenne.local.cluster import LocalNode
from perenne.local.zookeeper import JARS
from tests.chart.rendering import PRESETS, ROOT, SECRETS, Case, Document, documents, one, render, values_of
from tests.deploy.container import Image, image_of_this_machine
from tests.deploy.pods import Kubelet
from tests.deploy.probes import Pod
from tests.faults.namespaces import Network, Party

PRESET: Final = next(case for case in PRESETS if case.name == "three-nodes")
SMALL: Final = {"segment_bytes": "4MiB"}


class Behind(Sequence[LocalNode]):
    """The pods that stand behind the DICOM service right now; all of them while none is ready."""

    def __init__(self, pods: Sequence[Pod]) -> None:
        self._pods = pods
        self._nodes = {p.name: LocalNode(p.name, p.volume, 11112, 8080, 11111, host=p.address) for p in pods}

    def _now(self) -> list[LocalNode]:
        serving = [self._nodes[pod.name] for pod in self._pods if pod.serves]
        return serving or list(self._nodes.values())

    def __len__(self) -> int:
        return len(self._now())

    @overload
    def __getitem__(self, index: int) -> LocalNode: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[LocalNode]: ...
    def __getitem__(self, index: int | slice) -> LocalNode | Sequence[LocalNode]:
        now = self._now()
        return now[index] if isinstance(index, slice) else now[index % len(now)]

    def all(self) -> list[LocalNode]:
        return list(self._nodes.values())


@dataclass(frozen=True, slots=True)
class Stage:
    """kubelet: for pods. others: parties that are no pods."""

    kubelet: Kubelet
    found: list[Document]
    others: dict[str, Party]


@contextlib.contextmanager
def wired(directory: Path, sets: Sequence[str], others: Sequence[str] = (), case: Case = PRESET) -> Generator[Stage]:
    """A machine for every pod of these StatefulSets, and nothing started. Raises Unavailable, FaultFailed."""
    values = values_of(case)
    values["config"]["cluster"].update(SMALL)
    values["config"]["storage"] = {"reserve_bytes": "16MiB", "spare_segments": 1}
    values["httpToken"] = {"enabled": False}  # senders and judges of a rehearsal ask without one
    parts = render(values)
    found = documents(parts)
    (notes,) = (text for path, text in parts.items() if path.endswith("NOTES.txt"))
    names = [f"{kind}-{n}" for kind in sets for n in range(one(found, "StatefulSet", kind)["spec"]["replicas"])]
    aliases = {name: f"pod{number}" for number, name in enumerate(names)}
    network = Network([*aliases.values(), *others])
    machine = image_of_this_machine(directory, ROOT)
    images = {"node": machine, "zookeeper": zookeeper_image(machine, directory)}
    parties = {name: network.party(alias) for name, alias in aliases.items()}
    with contextlib.closing(network), network.hub.entered():
        kubelet = Kubelet(found, parties, directory, images, {SECRETS: secret(directory, notes)})
        try:
            yield Stage(kubelet, found, {name: network.party(name) for name in others})
        finally:
            kubelet.end()


def secret(directory: Path, notes: str) -> dict[str, bytes]:
    """What somebody has who types the command of the chart's notes, word by word."""
    (command,) = (line.split() for line in notes.splitlines() if line.startswith("  perenne certs perenne-ca "))
    words = [sys.executable, "-m", "perenne.cli", *command[1:]]
    subprocess.run(words, check=True, capture_output=True, cwd=directory)
    return {file.name: file.read_bytes() for file in (directory / "perenne-ca" / "secret").iterdir()}


def zookeeper_image(machine: Image, directory: Path) -> Image:
    """Debian's ZooKeeper behind the name of the image's own script."""
    own = directory / "opt-zookeeper" / "bin"
    own.mkdir(parents=True)
    script = own / "zkServer.sh"
    script.write_text(
        """#!/bin/bash
# As the script of that name in the image: start-foreground CONFIG, or status CONFIG.
classes=CLASSES
case "$1" in
    start-foreground)
        exec java $JVMFLAGS -XX:+UseSerialGC -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$classes" \\
            org.apache.zookeeper.server.quorum.QuorumPeerMain "$2" ;;
    status)
        exec 3<>"/dev/tcp/127.0.0.1/$(sed -n s/^clientPort=//p "$2")"
        printf srvr >&3
        grep -q ^Mode: <&3 ;;
    *) exit 2 ;;
esac
""".replace("CLASSES", ":".join(JARS))
    )
    script.chmod(0o755)
    return replace(machine, shown=(*machine.shown, (str(own.parent), "/opt/zookeeper")))
