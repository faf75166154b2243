"""Goal: the chart says what its author reviewed, and Kubernetes and the node understand every word of it."""

import re
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import cast
from unittest.mock import Mock

import helm_python
import kubernetes_validate
import pytest
import yaml
from starlette.routing import Route

from monitoring.http import Watched, application
from perenne.config_reading import load_config
from perenne.node import DRAIN_S, HAND_OVER_S
from tests.chart import table
from tests.chart.rendering import (
    CASES,
    CHART,
    PRESETS,
    ROOT,
    Case,
    Document,
    as_text,
    documents,
    one,
    quiet,
    rendered,
    values_of,
    with_watched,
)
from tests.chart.rendering import render as render_chart

VERSIONS = ("1.29", "1.37")
"""Of Kubernetes: the oldest that the validator knows above the chart's own bound, and the newest."""
THREE, TWO, CLAIMED, EVERYTHING = "three-nodes", "two-nodes-and-tier", "two-nodes-and-claim", "everything"
KINDS: dict[str, dict[str, int]] = {
    THREE: {
        "ConfigMap": 3,
        "NetworkPolicy": 2,
        "Pod": 1,
        "PodDisruptionBudget": 2,
        "Service": 4,
        "StatefulSet": 2,
    },
    TWO: {
        "ConfigMap": 2,
        "NetworkPolicy": 1,
        "Pod": 1,
        "PodDisruptionBudget": 1,
        "Service": 3,
        "StatefulSet": 1,
    },
    CLAIMED: {
        "ConfigMap": 3,
        "NetworkPolicy": 2,
        "Pod": 1,
        "PodDisruptionBudget": 2,
        "Service": 4,
        "StatefulSet": 2,
    },
    EVERYTHING: {
        "ConfigMap": 4,
        "NetworkPolicy": 2,
        "Pod": 1,
        "PodDisruptionBudget": 2,
        "PrometheusRule": 1,
        "Service": 4,
        "ServiceMonitor": 1,
        "StatefulSet": 2,
    },
}
OPEN: Document = {"tls": {"enabled": False}}
ELSEWHERE: Document = {"external": "zk1:2281,zk2:2281,zk3:2281"}
PLAIN_BUNDLED: Document = {"bundled": {"tls": False}}
OPERATORS = {"PrometheusRule", "ServiceMonitor"}
"""Kinds of the Prometheus operator: no schema of Kubernetes knows them."""
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
EVERY = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@cache
def parts(case: Case) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as directory:
        return rendered(case, Path(directory))


def found(case: Case) -> list[Document]:
    return documents(parts(case))


def named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def node_pod(case: Case) -> Document:
    """The pod template of the nodes."""
    sets = [d for d in found(case) if d["kind"] == "StatefulSet"]
    (nodes,) = (d for d in sets if d["spec"]["template"]["spec"]["containers"][0]["name"] == "node")
    template: Document = nodes["spec"]["template"]
    return template


def render(values: Document, chart: Path = CHART, *, name: str = "perenne") -> list[Document]:
    return documents(render_chart(values, chart, name=name))


def test_every_preset_is_a_case() -> None:
    assert {case.name for case in PRESETS} == {THREE, TWO}


def test_the_chart_is_linted_strictly() -> None:
    with quiet():
        report = helm_python.lint(CHART, strict=True)
    assert (report["total_charts_linted"], report["messages"], report["errors"]) == (1, [], [])


@EVERY
def test_what_is_rendered_is_what_was_reviewed(case: Case) -> None:
    assert as_text(parts(case)) == case.golden.read_text(), "run script/chart, and review the difference"


@EVERY
def test_every_document_fits_the_schemas_of_kubernetes(case: Case) -> None:
    assert Counter(d["kind"] for d in found(case)) == KINDS[case.name]
    for version in VERSIONS:
        assert [valid(d, version) for d in found(case) if d["kind"] not in OPERATORS].count(version) == sum(
            count for kind, count in KINDS[case.name].items() if kind not in OPERATORS
        )


def valid(document: Document, version: str) -> str:
    return str(kubernetes_validate.validate(document, version, strict=True))


def test_the_validator_sees_a_word_misspelt_and_a_wrong_type() -> None:
    budget = one(found(named(THREE)), "PodDisruptionBudget", "perenne")
    valid(budget, VERSIONS[0])
    with pytest.raises(kubernetes_validate.ValidationError):
        valid({**budget, "spec": {**budget["spec"], "maxUnavailble": 1}}, VERSIONS[0])
    with pytest.raises(kubernetes_validate.ValidationError):
        valid({**budget, "spec": {**budget["spec"], "maxUnavailable": [1]}}, VERSIONS[0])


@EVERY
def test_the_node_understands_its_configuration(case: Case, tmp_path: Path) -> None:
    pod = node_pod(case)["spec"]
    (container,) = pod["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    (config_map,) = (volume["configMap"]["name"] for volume in pod["volumes"] if volume["name"] == "config")
    text = one(found(case), "ConfigMap", config_map)["data"]["node.toml"]
    for volume in pod["volumes"]:
        for item in volume.get("secret", {}).get("items", ()):
            file = tmp_path / mounts[volume["name"]].lstrip("/") / item["path"]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("user:secret\n" if item["path"] == "credentials" else "secret\n")
    name = "perenne-1"
    environment = {v["name"]: v["value"].replace("$(POD_NAME)", name) for v in container["env"] if "value" in v}
    for key in [key for key, value in environment.items() if value.startswith("/etc/")]:
        environment[key] = f"{tmp_path}{environment[key]}"
        Path(environment[key]).parent.mkdir(parents=True, exist_ok=True)
        Path(environment[key]).write_text("a certificate\n")
    if "PERENNE_TLS__KEY_FILE" in environment:
        (tmp_path / mounts["tls"].lstrip("/") / "authority.pem").write_text("an authority\n")
    file = tmp_path / "node.toml"
    file.write_text(re.sub(r'"(/(?:etc|var)/)', rf'"{tmp_path}\1', text))
    assert f'data_dir = "{mounts["data"]}"' in text
    config = load_config(file, environment)
    assert config.node.id == name
    assert config.peer.advertise_host.startswith(f"{name}.")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    secure = {"dicom-tls": config.dimse.tls_port} if config.dimse.tls != "off" else {}
    assert ports == {"dicom": config.dimse.port, "peer": config.peer.port, "http": config.http.port, **secure}
    assert config.tls.on
    assert config.http.token_file is not None and config.coordination.credentials_file is not None
    assert config.coordination.tls
    assert config.http.tls == (case.name == EVERYTHING)
    assert {container[probe]["httpGet"]["scheme"] for probe in PROBES} == {"HTTPS" if config.http.tls else "HTTP"}
    assert config.coordination.zookeeper.count(":") == 3
    assert len(config.ae) == len(values_of(case).get("aes", ()))
    assert config.tier.on == (case.name != THREE)
    assert (config.tier.kind == "directory") == ("tier" in mounts) == (case.name == CLAIMED)


@EVERY
def test_probes_ask_for_what_a_node_answers(case: Case) -> None:
    (container,) = node_pod(case)["spec"]["containers"]
    answered = {route.path for route in application(cast("Watched", Mock())).routes if isinstance(route, Route)}
    asked = {container[probe]["httpGet"]["path"] for probe in PROBES}
    assert asked == {"/livez", "/readyz"}
    assert asked < answered


@EVERY
def test_there_is_time_to_hand_over_and_to_drain(case: Case) -> None:
    spec = node_pod(case)["spec"]
    (container,) = spec["containers"]
    hook = container["lifecycle"]["preStop"]["exec"]["command"]
    (seconds,) = (int(word.removeprefix("--seconds=")) for word in hook if word.startswith("--seconds="))
    assert spec["terminationGracePeriodSeconds"] >= seconds + HAND_OVER_S + DRAIN_S + 4
    (others,) = (int(word.removeprefix("--others=")) for word in hook if word.startswith("--others="))
    assert others == min(values_of(case)["config"]["cluster"]["copies_required"], values_of(case)["replicaCount"] - 1)


@EVERY
def test_every_container_is_locked_in(case: Case) -> None:
    templates = [d["spec"]["template"]["spec"] for d in found(case) if d["kind"] == "StatefulSet"]
    pods = [*templates, *(d["spec"] for d in found(case) if d["kind"] == "Pod")]
    assert len(pods) == KINDS[case.name]["StatefulSet"] + 1
    for pod in pods:
        security = pod["securityContext"]
        assert security["runAsNonRoot"]
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod["automountServiceAccountToken"]
        for container in pod["containers"]:
            own = container["securityContext"]
            assert own["readOnlyRootFilesystem"]
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert not own["allowPrivilegeEscalation"]


@EVERY
def test_selectors_and_named_ports_mean_the_right_pods(case: Case) -> None:
    templates = [d["spec"]["template"] for d in found(case) if d["kind"] == "StatefulSet"]
    for document in found(case):
        spec = document.get("spec", {})
        selector = {
            "Service": lambda spec=spec: spec["selector"],
            "PodDisruptionBudget": lambda spec=spec: spec["selector"]["matchLabels"],
            "NetworkPolicy": lambda spec=spec: spec["podSelector"]["matchLabels"],
        }.get(document["kind"])
        if selector is None:
            continue
        wanted = cast("dict[str, str]", selector())
        chosen = [t for t in templates if wanted.items() <= t["metadata"]["labels"].items()]
        assert len(chosen) == 1, document["metadata"]["name"]
        ports = {port["name"] for port in chosen[0]["spec"]["containers"][0]["ports"]}
        used = {port.get("targetPort") for port in spec.get("ports", ())} - {None}
        used |= {port["port"] for rule in spec.get("ingress", ()) for port in rule.get("ports", ())}
        assert {port for port in used if isinstance(port, str)} <= ports


@EVERY
def test_secrets_are_named_and_never_written(case: Case) -> None:
    assert "Secret" not in {d["kind"] for d in found(case)}
    volumes = {v["name"]: v["secret"] for v in node_pod(case)["spec"]["volumes"] if "secret" in v}
    assert (
        set(volumes)
        == {
            THREE: {"tls", "http-token", "zookeeper"},
            TWO: {"tls", "http-token", "zookeeper", "s3"},
            CLAIMED: {"tls", "http-token", "zookeeper"},
            EVERYTHING: {"tls", "http-token", "zookeeper", "s3", "s3-ca", "secret-dicom-tls"},
        }[case.name]
    )
    assert all(volume["defaultMode"] == 0o440 for volume in volumes.values())


def test_nodes_that_are_not_ready_are_found_by_their_peers() -> None:
    services = {d["metadata"]["name"]: d["spec"] for d in found(named(THREE)) if d["kind"] == "Service"}
    nodes = one(found(named(THREE)), "StatefulSet", "perenne")["spec"]
    assert services[nodes["serviceName"]]["publishNotReadyAddresses"]
    assert services[nodes["serviceName"]]["clusterIP"] == "None"
    assert nodes["podManagementPolicy"] == "Parallel"
    assert "publishNotReadyAddresses" not in services["perenne-dicom"]


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"replicaCount": 1}, "replicaCount"),
        ({"replicaCounts": 3}, "replicaCounts"),
        ({"runAs": 0}, "runAs"),
        ({"config": {"node": {"id": "n1"}}}, "config"),
        ({"config": {"cluster": {"allow_solo": True}}}, "allow_solo"),
        ({"config": {"dimse": {"port": 104}}}, "port"),
        ({"config": {"storage": {"reserve_bytes": 1.5}}}, "reserve_bytes"),
        ({"zookeeper": {"external": "zk1"}}, "external"),
        ({"termination": {"stopSeconds": 10}}, "stopSeconds"),
        ({"tier": {"credentialsSecret": {"password": "x"}}}, "password"),
        ({"config": {"http": {"token_file": "/x"}}}, "token_file"),
        ({"config": {"dimse": {"ae_titel": "X"}}}, "ae_titel"),
        ({"config": {"scrubb": {}}}, "scrubb"),
        ({"config": {"storage": {"reserve_bytes": "10 gigs"}}}, "reserve_bytes"),
        ({"config": {"http": {"tls": "yes"}}}, "tls"),
        ({"config": {"http": {"tls": True}}, **OPEN}, "config.http.tls: there is no certificate; name the secret"),
        ({"config": {"dimse": {"tls": "beside"}}, **OPEN}, "or give dimse.tls_certificate_file"),
        ({"config": {"dimse": {"tls": "yes"}}}, "tls"),
        ({"config": {"dimse": {"ae_title": "A" * 19}}}, "ae_title"),
        ({"config": {"coordination": {"tls": True}}, "zookeeper": PLAIN_BUNDLED}, "speaks no TLS"),
        ({"config": {"coordination": {"tls": True}}, "zookeeper": ELSEWHERE, **OPEN}, "coordination.tls: there is no"),
        ({"tls": {"enabled": False, "secretName": "x"}}, "leave one of the two out"),
        ({"httpToken": {"nmae": "x"}}, "nmae"),
        ({"zookeeper": {"bundled": {"tls": "yes"}}}, "tls"),
        ({"config": {"coordination": {"session_timeout_ms": 10}}}, "session_timeout_ms"),
        ({"config": {"cluster": {"copies_required": 4}}}, "4 copies on 3 nodes"),
        ({"config": {"cluster": {"copies_required": 2, "conflict_policy": "keepfirst"}}}, "conflict_policy"),
        ({"config": {"log": {"level": "verbose"}}}, "level"),
        ({"updatePartition": 5}, "none is ever updated"),
    ],
)
def test_values_that_cannot_work_are_refused(values: Document, cause: str) -> None:
    with pytest.raises(helm_python.HelmError, match=cause):
        render(values)


def test_a_node_name_that_is_too_long_is_refused() -> None:
    assert one(render({}, name="perenne-of-the-hospital-abcde"), "StatefulSet", "perenne-of-the-hospital-abcde")
    with pytest.raises(helm_python.HelmError, match="more than 32 characters; set fullnameOverride"):
        render({}, name="perenne-of-the-university-hospital")


def test_ports_towards_zookeeper_and_tier_are_let_out() -> None:
    policy = one(found(named(TWO)), "NetworkPolicy", "perenne")["spec"]
    ports = {port["port"] for rule in policy["egress"] for port in rule.get("ports", ())}
    assert {53, 443, 2281} == ports
    policy = one(found(named(EVERYTHING)), "NetworkPolicy", "archive")["spec"]
    assert 8333 in {port["port"] for rule in policy["egress"] for port in rule.get("ports", ())}


WATCHING = {"metrics": {"prometheusRule": {"enabled": True}, "dashboard": {"enabled": True}}}


def test_rules_and_dashboards_are_the_very_files() -> None:
    rules, boards = ROOT / "monitoring" / "alerts", ROOT / "monitoring" / "dashboards"
    loaded = [yaml.safe_load(file.read_text()) for file in sorted(rules.rglob("*.y*ml"))]
    groups = [group for content in loaded for group in content.get("groups", ())]
    texts = {file.name: file.read_text() for file in boards.rglob("*.json")}
    if not groups or not texts:
        with pytest.raises(helm_python.HelmError, match="there are no (rules|dashboards) in monitoring"):
            render(WATCHING)
        return
    made = render(WATCHING)
    assert one(made, "PrometheusRule", "perenne")["spec"]["groups"] == groups
    data = one(made, "ConfigMap", "perenne-dashboards")["data"]
    assert {name: text.strip() for name, text in data.items()} == {name: t.strip() for name, t in texts.items()}


def test_the_rules_know_the_nodes_of_a_release_of_any_name() -> None:
    """By its `job`, which the operator would take from the name of the service."""
    made = render({"fullnameOverride": "pacs", "metrics": {"serviceMonitor": {"enabled": True}}})
    (endpoint,) = one(made, "ServiceMonitor", "pacs")["spec"]["endpoints"]
    (job,) = [str(rule["replacement"]) for rule in endpoint["relabelings"] if rule["targetLabel"] == "job"]
    rules = (ROOT / "monitoring" / "alerts" / "perenne.yaml").read_text()
    asked: list[str] = re.findall(r'job=~"([^"]+)"', rules)
    assert asked
    assert all(re.fullmatch(pattern, job) for pattern in asked)


def test_rules_keep_their_own_templates(tmp_path: Path) -> None:
    made = render(WATCHING, with_watched(tmp_path))
    (group,) = one(made, "PrometheusRule", "perenne")["spec"]["groups"]
    assert group["rules"][0]["annotations"]["summary"] == "{{ $labels.cluster }}: nobody leads"
    assert "{{node}}" in one(made, "ConfigMap", "perenne-dashboards")["data"]["small.json"]


def test_runbooks_are_where_one_keeps_them() -> None:
    """A path in the repository, unless its place is named."""

    def urls(**more: str) -> list[str]:
        made = render({"metrics": {"prometheusRule": {"enabled": True, **more}}})
        groups = one(made, "PrometheusRule", "perenne")["spec"]["groups"]
        return [rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"]]

    assert all(url.startswith("docs/recovery.md#") for url in urls())
    assert urls(runbookBase="https://git.example/perenne/") == [f"https://git.example/perenne/{url}" for url in urls()]
    with pytest.raises(helm_python.HelmError, match="runbookBase"):
        urls(runbookBase="https://git.example/perenne")  # its last part would run into the path


def test_the_table_of_values_is_current_and_complete() -> None:
    text = (CHART / "values.yaml").read_text()
    assert table.undocumented(text) == []
    assert table.undocumented(text + "new:\n  value: 1\n") == ["new.value"]
    assert table.README.read_text() == table.document(), "run script/chart"
