"""Goal: a wrong configuration is explained, all of it at once. Method: files and environments, read for real."""

from pathlib import Path

import pytest
import typer

from perenne import config_table
from perenne.cli import rescuing
from perenne.cli.usage import read_config
from perenne.config import Config, ConfigError
from perenne.config_reading import load_config

CLUSTER = """
[node]
id = "n2"
data_dir = "n2"
[cluster]
copies_required = 2
segment_bytes = "64MiB"
[coordination]
zookeeper = "zk1:2181,zk2:2181,[::1]:2181/perenne"
session_timeout_ms = 2000
[peer]
host = "0.0.0.0"
port = 7000
advertise_host = "n2.example"
[dimse]
ae_title = "ARCHIVE"
port = 104
artim_timeout_ms = 5000
[[ae]]
title = "CT1"
host = "10.1.0.0/16"
[[ae]]
title = "MR1"
[http]
port = 8082
[storage]
reserve_bytes = 1048576
[log]
level = "debug"
format = "text"
"""


def written(directory: Path, text: str) -> Path:
    file = directory / "node.toml"
    file.write_text(text)
    return file


def problems_of(directory: Path, text: str, environment: dict[str, str] | None = None) -> dict[str, str]:
    """Return cause and next step by key (or by environment variable)."""
    with pytest.raises(ConfigError) as raised:
        load_config(written(directory, text), environment or {})
    return {
        problem.where.rpartition(": ")[2].removeprefix("environment "): f"{problem.cause}. {problem.next_step}"
        for problem in raised.value.problems
    }


def test_no_configuration_at_all_is_a_standalone_node_that_will_refuse_stores() -> None:
    config = load_config(None, {})

    assert config == Config()
    assert config.standalone
    assert config.copies_required == 2


def test_a_standalone_node_that_may_be_alone_needs_one_copy() -> None:
    config = load_config(None, {"PERENNE_CLUSTER__ALLOW_SOLO": "true"})

    assert config.copies_required == 1


def test_in_a_cluster_allow_solo_alone_does_not_lower_the_copies(tmp_path: Path) -> None:
    text = '[coordination]\nzookeeper = "localhost:2181"\n[cluster]\nallow_solo = true\n'

    assert load_config(written(tmp_path, text), {}).copies_required == 2


def test_every_section_is_read(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, CLUSTER), {})

    assert config.node.id == "n2"
    assert not config.standalone
    assert config.cluster.segment_bytes == 64 * 1024 * 1024
    assert config.storage.reserve_bytes == 1048576
    dimse = config.dimse_settings()
    assert (dimse.ae_title, dimse.port, dimse.artim_s) == ("ARCHIVE", 104, 5.0)
    assert [(entry.title, entry.host) for entry in dimse.aes] == [("CT1", "10.1.0.0/16"), ("MR1", None)]


def test_a_relative_data_directory_is_relative_to_the_file(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, CLUSTER), {}).node.data_dir == tmp_path / "n2"


def test_the_environment_goes_over_the_file(tmp_path: Path) -> None:
    environment = {
        "PERENNE_DIMSE__PORT": "11200",
        "PERENNE_CLUSTER__SEGMENT_BYTES": "1 MiB",
        "PERENNE_STORAGE__DIRECT_IO": "yes",
        "PERENNE_NODE__DATA_DIR": str(tmp_path / "elsewhere"),
        "PERENNE_PORT_11112_TCP_ADDR": "10.0.0.1",  # what Kubernetes sets for a service of that name
    }

    config = load_config(written(tmp_path, CLUSTER), environment)

    assert config.dimse.port == 11200
    assert config.cluster.segment_bytes == 1024 * 1024
    assert config.storage.direct_io
    assert config.node.data_dir == tmp_path / "elsewhere"


def test_all_problems_are_told_at_once_each_with_a_next_step(tmp_path: Path) -> None:
    text = '[dimse]\nport = "high"\nae_titel = "X"\n[cluter]\na = 1\n[log]\nlevel = 3\n[[ae]]\nhost = "h"\n'

    problems = problems_of(tmp_path, text)

    assert problems["dimse.port"] == "'high' is not a whole number. Write a whole number."
    assert problems["dimse.ae_titel"] == "there is no such key. Did you mean ae_title?"
    assert problems["cluter"] == "there is no section [cluter]. Did you mean cluster?"
    assert "not a string" in problems["log.level"]
    assert "missing" in problems["ae[1].title"]
    assert len(problems) == 5


def test_values_that_cannot_work_are_told_at_once(tmp_path: Path) -> None:
    text = """
[node]
id = "a/b"
[cluster]
copies_required = 0
segment_bytes = 1000
conflict_policy = "oldest"
[coordination]
zookeeper = "zk1"
session_timeout_ms = 10
[peer]
host = "0.0.0.0"
port = 70000
advertise_host = "0.0.0.0"
[dimse]
ae_title = "LONGER THAN SIXTEEN"
port = 5000
total_bytes = 1
[http]
port = 5000
host = "no host"
[[ae]]
title = ""
host = "bad host"
[log]
level = "loud"
"""
    assert set(problems_of(tmp_path, text)) == {
        "node.id",
        "cluster.copies_required",
        "cluster.segment_bytes",
        "cluster.conflict_policy",
        "coordination.zookeeper",
        "coordination.session_timeout_ms",
        "peer.port",
        "peer.advertise_host",
        "dimse.ae_title",
        "dimse.total_bytes",
        "http.port",
        "http.host",
        "ae[1].title",
        "ae[1].host",
        "log.level",
    }


def test_one_copy_must_be_asked_for_twice(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, "[cluster]\ncopies_required = 1\n")

    assert "allow_solo = true" in problems["cluster.copies_required"]


def test_a_problem_from_the_environment_names_the_variable(tmp_path: Path) -> None:
    environment = {"PERENNE_DIMSE__PORT": "70000", "PERENNE_HTTP__PROT": "1", "PERENNE_AE__TITLE": "X"}

    for_values = problems_of(tmp_path, "", {"PERENNE_DIMSE__PORT": "70000"})
    for_names = problems_of(tmp_path, "", environment)

    assert "not a port" in for_values["PERENNE_DIMSE__PORT"]
    assert "Did you mean port?" in for_names["PERENNE_HTTP__PROT"]
    assert "in the file" in for_names["PERENNE_AE__TITLE"]


def test_what_is_not_toml_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line 2"):
        load_config(written(tmp_path, "[node]\nid = n1\n"), {})


def test_a_missing_file_is_one_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "absent.toml", {})


def test_a_data_directory_that_cannot_be_made_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    problems = problems_of(tmp_path, '[node]\ndata_dir = "file/below"\n')

    assert "not a directory" in problems["node.data_dir"]


def test_a_verb_that_needs_no_data_directory_goes_on_where_it_cannot_be_used(tmp_path: Path) -> None:
    """That of another machine, or on a disk that the kernel made read-only: `perenne node replace` is typed there."""
    (tmp_path / "file").touch()
    file = written(tmp_path, '[node]\ndata_dir = "file/below"\n[coordination]\nzookeeper = "127.0.0.1:1"\n')

    assert rescuing.reach(file, "", None).hosts == "127.0.0.1:1"
    with pytest.raises(typer.Exit):
        read_config(file, disk=True)


@pytest.mark.parametrize("text", ['"4 apples"', "true", "1.5", "-1"])
def test_sizes_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    assert "storage.reserve_bytes" in problems_of(tmp_path, f"[storage]\nreserve_bytes = {text}\n")


def test_a_key_outside_of_every_section_is_explained(tmp_path: Path) -> None:
    assert "[dimse]" in problems_of(tmp_path, 'dimse = "x"\n')["dimse"]


@pytest.mark.parametrize(
    ("variable", "step"),
    [
        ("PERENNE_DIMSE_PORT", "Did you mean PERENNE_DIMSE__PORT?"),
        ("PERENNE_CLUSTER_ALOW_SOLO", "Did you mean PERENNE_CLUSTER__ALLOW_SOLO?"),
        ("PERENNE_FOO", "PERENNE_SECTION__KEY"),
    ],
)
def test_a_variable_that_looks_like_ours_and_sets_nothing_is_a_problem(
    tmp_path: Path, variable: str, step: str
) -> None:
    assert step in problems_of(tmp_path, "", {variable: "104"})[variable]


def test_what_kubernetes_sets_for_its_services_is_no_problem(tmp_path: Path) -> None:
    environment = {
        "PERENNE_SERVICE_HOST": "10.0.0.1",
        "PERENNE_SERVICE_PORT": "80",
        "PERENNE_DIMSE_SERVICE_PORT_DICOM": "104",
        "PERENNE_PORT": "tcp://10.0.0.1:80",
        "PERENNE_DIMSE_PORT": "tcp://10.0.0.1:104",
        "PERENNE_DIMSE_PORT_104_TCP_PROTO": "tcp",
    }
    assert load_config(written(tmp_path, ""), environment).dimse.port == Config().dimse.port


def test_the_table_of_keys_is_of_this_configuration() -> None:
    """`.venv/bin/python -m perenne.config_table` writes it anew."""
    assert config_table.FILE.read_text() == config_table.document()


def test_a_tier_is_explained_key_by_key(tmp_path: Path) -> None:
    found = problems_of(
        tmp_path,
        """
        [tier]
        mode = "sometimes"
        kind = "s3"
        endpoint = "https://key:secret@s3.example/path"
        prefix = "no-slash"
        ca_file = "nowhere.pem"
        encryption = "rot13"
        kms_key = "k"
        object_lock_days = -1
        give_up_ms = 10
        connections = 0
        """,
    )
    expected = {
        "tier.mode": "no mode",
        "tier.bucket": "is missing",
        "tier.endpoint": "without credentials",
        "tier.prefix": "at the end",
        "tier.ca_file": "cannot be read",
        "tier.encryption": "no server-side encryption",
        "tier.kms_key": "with aws:kms alone",
        "tier.object_lock_days": "days cannot be",
        "tier.give_up_ms": "shorter than one attempt",
        "tier.connections": "outside of 1 to 256",
    }
    assert found.keys() == expected.keys()
    assert not [key for key, part in expected.items() if part not in found[key]]
    assert "secret" not in str(found), "credentials in an address are not quoted"


def test_a_tier_in_a_directory_takes_no_keys_of_a_bucket(tmp_path: Path) -> None:
    found = problems_of(tmp_path, '[tier]\nkind = "directory"\nbucket = "abc"\nobject_lock_days = 3\n')
    assert found.keys() == {"tier.bucket", "tier.object_lock_days"}
    there = '[coordination]\nzookeeper = "localhost:2181"\n[tier]\nkind = "directory"\ndirectory = "san"\n'
    config = load_config(written(tmp_path, there), {})
    assert config.tier.directory == tmp_path / "san"
    assert config.tier.mode == "standby"


def test_a_tier_is_on_once_it_has_a_place(tmp_path: Path) -> None:
    assert not load_config(written(tmp_path, ""), {}).tier.on
    there = '[tier]\nkind = "directory"\ndirectory = "san"\n'
    assert load_config(written(tmp_path, there), {}).tier.on
    assert not load_config(written(tmp_path, there + 'mode = "off"\n'), {}).tier.on


def test_a_node_of_a_cluster_that_only_its_own_machine_can_reach_is_told_so(tmp_path: Path) -> None:
    afar = '[coordination]\nzookeeper = "zk1.hospital:2181"\n'
    assert problems_of(tmp_path, afar).keys() == {"peer.host"}
    load_config(written(tmp_path, afar + '[peer]\nhost = "0.0.0.0"\n'), {})
    load_config(written(tmp_path, '[coordination]\nzookeeper = "localhost:2181,[::1]:2182"\n'), {})


def test_nothing_listens_beyond_loopback_until_an_address_is_named() -> None:
    config = load_config(None, {})
    assert {config.peer.host, config.dimse.host, config.http.host} == {"127.0.0.1"}


def test_keys_of_tls_come_together_and_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "there.pem").write_text("PEM")
    one = '[tls]\ncertificate_file = "there.pem"\n[http]\ntls = true\ntoken_file = "absent"\n'
    assert problems_of(tmp_path, one).keys() == {"tls.authority_file", "tls.key_file", "http.token_file"}
    none = '[http]\ntls = true\n[dimse]\ntls = "only"\ntls_clients = "known"\n[coordination]\ntls = true\n'
    assert problems_of(tmp_path, none).keys() == {"http.tls", "dimse.tls", "dimse.tls_clients", "coordination.tls"}
    words = '[dimse]\ntls = "perhaps"\ntls_clients = "friends"\ntls_key_file = "there.pem"\ntls_port = 70000\n'
    found = {"dimse.tls", "dimse.tls_clients", "dimse.tls_key_file", "dimse.tls_port"}
    assert problems_of(tmp_path, words).keys() == found
