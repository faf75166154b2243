"""A kubelet in miniature: pods as the rendered chart describes them, with their probes and termination hooks.

It does what Kubernetes would do with the parts that matter here: containers from pod templates (command, environment,
volumes, security context), names from headless services, startup, liveness and readiness probes by their own periods
and thresholds, restarts, and the end of a pod: out of the services, preStop, SIGTERM, the grace period, SIGKILL.
"""

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from perenne.local.processes import Running
from tests.chart.rendering import NAMESPACE, Document, one
from tests.deploy.container import Container, Image, execute
from tests.deploy.probes import LATER, PROBES, Pod, Probe, passes
from tests.faults.namespaces import Party

_LOOK_S: Final = 0.05
_REFERENCE: Final = re.compile(r"\$\((\w+)\)")


class Kubelet:
    """Of all pods; one thread looks after them, and probes run beside it."""

    def __init__(
        self,
        found: list[Document],
        parties: Mapping[str, Party],
        directory: Path,
        images: Mapping[str, Image],
        secrets: Mapping[str, Mapping[str, bytes]],
    ) -> None:
        """parties: the namespace of each pod. images: by the name of the container. secrets: files by key, by name."""
        self._found = found
        self._secrets = secrets
        self._parties = parties
        self._directory = directory
        self._images = images
        self.hosts = directory / "hosts"
        self._lock = threading.RLock()
        self._pool = ThreadPoolExecutor(16, "probe")
        self._ending = threading.Event()
        self._services: dict[str, str] = {}
        self.pods: dict[str, Pod] = {}
        self.log: list[str] = []
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._look_after, name="kubelet", daemon=True)

    def say(self, text: str) -> None:
        self.log.append(f"{time.monotonic() - self._began:7.2f} s  {text}")

    # Pods

    def plan(self, stateful: Document) -> list[Pod]:
        """Pods of a StatefulSet, which are not started yet."""
        spec, name = stateful["spec"], stateful["metadata"]["name"]
        service = one(self._found, "Service", spec["serviceName"])
        planned = [
            self._plan(f"{name}-{ordinal}", spec["template"], service["metadata"]["name"])
            for ordinal in range(spec["replicas"])
        ]
        self._write_hosts()
        return planned

    def _plan(self, name: str, template: Document, service: str) -> Pod:
        own = self._directory / name
        (own / "volume").mkdir(parents=True)
        party = self._parties[name]
        security = template["spec"]["securityContext"]
        assert security["runAsNonRoot"]
        container_spec = template["spec"]["containers"][0]
        assert container_spec["securityContext"]["readOnlyRootFilesystem"]
        container = Container(
            image=self._images[container_spec["name"]],
            place=own / "root",
            command=container_spec["command"],
            user=security["runAsUser"],
            environment=self._environment(name, container_spec),
            binds=[*self._binds(template, own), (self.hosts, "/etc/hosts", True)],
            scratch=[mount["mountPath"] for mount in _mounts(template, "emptyDir")],
            network=party.namespace.prefix,
        )
        os.chown(own / "volume", security["runAsUser"], security["fsGroup"])
        pod = Pod(name, template, party.address, container, own / "log", own / "volume")
        self.pods[name] = pod
        self._services[name] = service
        return pod

    def _environment(self, name: str, spec: Document) -> dict[str, str]:
        path = "/opt/perenne/bin:/opt/zookeeper/bin:/usr/local/bin:/usr/bin:/bin"
        made = {"PATH": path, "HOME": "/", "HOSTNAME": name}
        for variable in spec["env"]:
            if "valueFrom" in variable:
                assert variable["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
                made[variable["name"]] = name
            else:
                made[variable["name"]] = _REFERENCE.sub(lambda found: made[found[1]], variable["value"])
        return made

    def _binds(self, template: Document, own: Path) -> list[tuple[Path, str, bool]]:
        binds = [(own / "volume", mount["mountPath"], False) for mount in _mounts(template, "claim")]
        for mount in _mounts(template, "configMap"):
            (volume,) = (v for v in template["spec"]["volumes"] if v["name"] == mount["name"])
            files = own / "config" / volume["name"]
            files.mkdir(parents=True)
            for key, text in one(self._found, "ConfigMap", volume["configMap"]["name"])["data"].items():
                (files / key).write_text(text)
            binds.append((files / mount.get("subPath", ""), mount["mountPath"], True))
        for mount in _mounts(template, "persistentVolumeClaim"):
            (claim,) = (v["persistentVolumeClaim"] for v in template["spec"]["volumes"] if v["name"] == mount["name"])
            shared = self._directory / "claims" / claim["claimName"]
            shared.mkdir(parents=True, exist_ok=True)
            os.chown(shared, 0, template["spec"]["securityContext"]["fsGroup"])
            shared.chmod(0o2770)
            binds.append((shared, mount["mountPath"], False))
        binds += [
            (self._secret(template, mount["name"], own / "secrets"), mount["mountPath"], True)
            for mount in _mounts(template, "secret")
        ]
        return binds

    def _secret(self, template: Document, name: str, place: Path) -> Path:
        """Files of root, which the group of the pod may read."""
        (volume,) = (v["secret"] for v in template["spec"]["volumes"] if v["name"] == name)
        files = place / name
        files.mkdir(parents=True)
        content = self._secrets[volume["secretName"]]
        paths = {item["key"]: item["path"] for item in volume.get("items", ())} or {key: key for key in content}
        for key, path in paths.items():
            file = files / path
            file.write_bytes(content[key])
            os.chown(file, 0, template["spec"]["securityContext"]["fsGroup"])
            file.chmod(volume["defaultMode"])
        return files

    def _write_hosts(self) -> None:
        """What the cluster's name server would say: it names pods of these services even when they are not ready."""
        lines = ["127.0.0.1 localhost"]
        for name, pod in self.pods.items():
            service = self._services[name]
            assert one(self._found, "Service", service)["spec"]["publishNotReadyAddresses"]
            domain = f"{service}.{NAMESPACE}.svc.cluster.local"
            lines.append(f"{pod.address} {name}.{domain} {name}.{service} {name}")
        self.hosts.write_text("\n".join(lines) + "\n")

    # Life and death

    def begin(self) -> None:
        self._thread.start()

    def create(self, pod: Pod) -> None:
        """A pod with this name: new, with the volume that is there."""
        with self._lock:
            pod.terminating = pod.started = pod.ready = False
            pod.probes = {name: Probe(pod.spec[name]) for name in PROBES if name in pod.spec}
            pod.running = pod.container.start(pod.log)
            self.say(f"{pod.name} is created")

    def delete(self, pod: Pod) -> float:
        """As `kubectl delete pod`: returns the seconds until it was gone."""
        began = time.monotonic()
        grace = float(pod.template["spec"]["terminationGracePeriodSeconds"])
        with self._lock:
            pod.terminating = True
        self.say(f"{pod.name} is terminating: out of the services")
        running = pod.running
        assert running is not None
        self._hook(pod, running, grace)
        running.signal(signal.SIGTERM)
        while running.alive and time.monotonic() < began + grace:
            running.reap()
            time.sleep(_LOOK_S)
        if running.alive:
            self.say(f"{pod.name} outlived its grace period of {grace:.0f} s: SIGKILL")
        running.kill()
        with self._lock:
            pod.running, pod.ready = None, False
        took = time.monotonic() - began
        self.say(f"{pod.name} is gone after {took:.1f} s")
        return took

    def _hook(self, pod: Pod, running: Running, grace: float) -> None:
        hook = pod.spec.get("lifecycle", {}).get("preStop")
        if hook is None:
            return
        began = time.monotonic()
        try:
            done = execute(running, pod.container, hook["exec"]["command"], grace)
            told = (done.stdout + done.stderr).strip()
            word = "passes" if done.returncode == 0 else f"fails ({done.returncode})"
        except subprocess.TimeoutExpired:
            word, told = "is cut short", ""
        self.say(f"{pod.name} preStop {word} after {time.monotonic() - began:.1f} s: {told}")

    def kill(self, pod: Pod) -> None:
        """Its host is lost."""
        with self._lock:
            pod.terminating = True
            assert pod.running is not None
            pod.running.kill()
            pod.running, pod.ready = None, False
        self.say(f"{pod.name} is lost with its host")

    def empty(self, pod: Pod) -> None:
        """A new, empty volume in the place of a lost one."""
        owner = pod.volume.stat()
        shutil.rmtree(pod.volume)
        pod.volume.mkdir()
        os.chown(pod.volume, owner.st_uid, owner.st_gid)
        self.say(f"the volume of {pod.name} is new and empty")

    def end(self) -> None:
        """Whatever runs is killed."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        self._pool.shutdown()
        for pod in self.pods.values():
            if pod.running is not None:
                pod.running.kill()

    # Probes

    def _look_after(self) -> None:
        while not self._ending.wait(_LOOK_S):
            with self._lock:
                pods = [pod for pod in self.pods.values() if pod.running is not None and not pod.terminating]
            for pod in pods:
                self._look_at(pod)

    def _look_at(self, pod: Pod) -> None:
        running = pod.running
        assert running is not None or pod.terminating
        if running is None:
            return
        running.reap()
        if not running.alive:
            self._restart(pod, "it ended by itself")
            return
        now = time.monotonic()
        names = ("startupProbe",) if "startupProbe" in pod.probes and not pod.started else LATER
        for name in names:
            probe = pod.probes.get(name)
            if probe is not None and now >= probe.due:
                probe.due = now + 3600  # until this answer is there
                self._pool.submit(self._ask, pod, running, name, probe)

    def _ask(self, pod: Pod, running: Running, name: str, probe: Probe) -> None:
        good = passes(pod, running, probe.spec)
        with self._lock:
            if pod.running is not running or pod.terminating:
                return
            probe.count(good, time.monotonic())
            if name == "startupProbe" and good:
                pod.started = True
            elif name == "readinessProbe" and (good or probe.given_up) and good != pod.ready:
                pod.ready, pod.ready_since = good, time.monotonic()
                self.say(f"{pod.name} is {'ready' if good else 'not ready'}")
            elif name != "readinessProbe" and probe.given_up:
                running.kill()
                self._restart(pod, f"its {name} failed {probe.failed} times")

    def _restart(self, pod: Pod, why: str) -> None:
        self.say(f"{pod.name} is restarted: {why}")
        pod.restarts += 1
        self.create(pod)


def _mounts(template: Document, kind: str) -> list[Document]:
    """Volume mounts of this kind; what is no volume of the pod is a claim."""
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    mounts: list[Document] = template["spec"]["containers"][0]["volumeMounts"]

    def fits(mount: Document) -> bool:
        volume = volumes.get(mount["name"])
        return kind == "claim" if volume is None else kind in volume

    return [mount for mount in mounts if fits(mount)]
