"""Goal: `perenne config check` finds TLS files that others would refuse, and secrets that can never match.

Method: certificates of every wrong kind, made for real, beside the good ones of `perenne certs`.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from typer.testing import CliRunner

from perenne.authority import AUTHORITY, CERTIFICATE, KEY, Authority, authority_in
from perenne.cli.commands import app
from perenne.config import ConfigError
from perenne.config_reading import load_config
from perenne.doors import log_doors

BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
NOW = datetime.now(UTC)
DAY = timedelta(days=1)


@dataclass
class Node:
    """The files of n1, and what its configuration says of them."""

    directory: Path
    authority: Authority

    @property
    def own(self) -> Path:
        return self.directory / "ca" / "n1"

    def sign(
        self,
        name: str = "n1",
        *,
        begins: datetime = NOW - DAY,
        ends: datetime = NOW + DAY,
        purposes: tuple[x509.ObjectIdentifier, ...] = BOTH,
        hosts: tuple[str, ...] = ("127.0.0.1",),
    ) -> None:
        """Put another certificate of the same authority, and its key, in place of what `perenne certs` made."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = x509.CertificateBuilder(
            issuer_name=self.authority.certificate.subject,
            subject_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=begins,
            not_valid_after=ends,
        )
        made = made.add_extension(x509.ExtendedKeyUsage(list(purposes)), critical=False)
        names = [x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host) for host in hosts]
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        signed = made.sign(self.authority.key, hashes.SHA256())
        (self.own / CERTIFICATE).write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        (self.own / KEY).write_bytes(pem(key))

    def problems(self, more: str = "", *, cluster: bool = True, material: bool = True) -> dict[str, str]:
        """Cause and next step by key; none when nothing is wrong."""
        file = self.directory / "node.toml"
        file.write_text(
            f'[node]\nid = "n1"\n[coordination]\nzookeeper = "{"127.0.0.1:2181" if cluster else ""}"\n'
            f'[tls]\nauthority_file = "ca/n1/{AUTHORITY}"\ncertificate_file = "ca/n1/{CERTIFICATE}"\n'
            f'key_file = "ca/n1/{KEY}"\n{more}'
        )
        try:
            load_config(file, {}, material=material)
        except ConfigError as error:
            return {p.where.rpartition(": ")[2]: f"{p.cause}. {p.next_step}" for p in error.problems}
        return {}


def pem(key: ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    way = serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, way)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    authority = authority_in(tmp_path / "ca")
    authority.issue("n1", ("n1.pacs.example",), 30)
    return Node(tmp_path, authority)


def told(problems: dict[str, str], key: str, *words: str) -> None:
    """It is the only one, and says so."""
    assert set(problems) == {key}
    for word in words:
        assert word in problems[key]


HTTPS = '[http]\ntls = true\n[peer]\nadvertise_host = "n1.pacs.example"\n'


def test_what_perenne_certs_makes_fits(node: Node) -> None:
    assert node.problems(HTTPS) == {}
    node.sign(hosts=("127.0.0.1", "n1.pacs.example"))
    assert node.problems(HTTPS) == {}


def test_a_key_of_another_certificate(node: Node) -> None:
    (node.own / KEY).write_bytes(pem(ec.generate_private_key(ec.SECP256R1())))
    told(node.problems(), "tls.key_file", f"{node.own / KEY} is not the key of {node.own / CERTIFICATE}", "Copy both")


def test_a_key_with_a_password_and_what_is_no_key(node: Node) -> None:
    (node.own / KEY).write_bytes(pem(ec.generate_private_key(ec.SECP256R1()), b"secret"))
    told(node.problems(), "tls.key_file", str(node.own / KEY), "has a password", "without one")
    (node.own / KEY).write_text("no key\n")
    told(node.problems(), "tls.key_file", "holds no private key", "BEGIN PRIVATE KEY")


def test_what_is_no_certificate(node: Node) -> None:
    (node.own / CERTIFICATE).write_text("no certificate\n")
    told(node.problems(), "tls.certificate_file", f"{node.own / CERTIFICATE} holds no certificate")
    node.sign()
    (node.own / AUTHORITY).write_text("no certificate\n")
    told(node.problems(), "tls.authority_file", f"{node.own / AUTHORITY} holds no certificate")


def test_a_certificate_of_another_authority(node: Node) -> None:
    stranger = authority_in(node.directory / "other")
    (node.own / AUTHORITY).write_bytes((node.directory / "other" / AUTHORITY).read_bytes())
    names = (node.authority.certificate.subject.rfc4514_string(), stranger.certificate.subject.rfc4514_string())
    told(node.problems(), "tls.certificate_file", f"is not signed by {node.own / AUTHORITY}", *names, "Copy all three")


def test_a_certificate_that_no_authority_signed(node: Node) -> None:
    """A node's certificate signs nothing, though it lies where an authority's should."""
    (node.own / AUTHORITY).write_bytes((node.own / CERTIFICATE).read_bytes())
    told(node.problems(), "tls.certificate_file", f"is not signed by {node.own / AUTHORITY}")


def test_two_authorities_in_one_file_while_they_change(node: Node) -> None:
    authority_in(node.directory / "new")
    both = (node.directory / "new" / AUTHORITY).read_bytes() + (node.own / AUTHORITY).read_bytes()
    (node.own / AUTHORITY).write_bytes(both)
    assert node.problems(HTTPS) == {}


def test_an_authority_that_has_ended(node: Node) -> None:
    """One beside it that holds is enough: so they are exchanged."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "old")])
    old = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), NOW - 3 * DAY, NOW - DAY)
    old = old.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    ended = old.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    sound = (node.own / AUTHORITY).read_bytes()
    (node.own / AUTHORITY).write_bytes(ended + sound)
    assert node.problems(HTTPS) == {}
    (node.own / AUTHORITY).write_bytes(ended)
    told(node.problems(), "tls.authority_file", f"{node.own / AUTHORITY} ended on {NOW - DAY:%Y-%m-%d}")


def test_a_certificate_that_has_ended_or_not_begun(node: Node) -> None:
    node.sign(begins=NOW - 3 * DAY, ends=NOW - DAY)
    told(node.problems(), "tls.certificate_file", f"{NOW - DAY:%Y-%m-%d}", "ended on", "perenne certs")
    node.sign(begins=NOW + DAY, ends=NOW + 3 * DAY)
    told(node.problems(), "tls.certificate_file", f"begins on {NOW + DAY:%Y-%m-%d}", "Set the clock")


def test_a_certificate_for_half_of_what_nodes_do(node: Node) -> None:
    node.sign(purposes=BOTH[:1])
    told(node.problems(), "tls.certificate_file", "not for clientAuth", "when it calls others", "extended key usage")
    assert node.problems(cluster=False) == {}, "alone it calls nobody"
    node.sign(purposes=BOTH[1:])
    told(node.problems(), "tls.certificate_file", "not for serverAuth", "extended key usage")


def test_a_certificate_of_another_node(node: Node) -> None:
    node.sign("n2")
    told(node.problems(), "tls.certificate_file", "names 'n2', and this node is 'n1'", "perenne certs DIRECTORY n1")
    assert node.problems(cluster=False) == {}, "alone nobody asks who it is"


def test_a_certificate_without_the_name_that_is_asked_for(node: Node) -> None:
    node.sign(hosts=("127.0.0.1",))
    assert node.problems() == {}, "nodes know each other by the common name"
    told(node.problems(HTTPS), "tls.certificate_file", "is not for n1.pacs.example", "n1=NAME,n1.pacs.example")
    node.sign(hosts=("n1.pacs.example",))
    told(node.problems(HTTPS), "tls.certificate_file", "is not for 127.0.0.1")


def test_the_certificate_of_dicom(node: Node) -> None:
    other = node.authority.issue("n9", (), 30)
    section = f'[dimse]\ntls = "only"\ntls_certificate_file = "{other / CERTIFICATE}"\ntls_key_file = "{other / KEY}"\n'
    assert node.problems(section) == {}, "modalities ask for no node"
    (other / KEY).write_bytes((node.own / KEY).read_bytes())
    told(node.problems(section), "dimse.tls_key_file", "is not the key")


def test_verbs_that_need_no_certificate_do_not_stop_at_one(node: Node) -> None:
    node.sign(ends=NOW - DAY / 2)
    assert node.problems(material=False) == {}
    assert node.problems() != {}


def test_a_node_that_starts_with_it_says_so(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    node.sign(begins=NOW - 3 * DAY, ends=NOW - DAY)
    node.problems()
    log_doors(load_config(node.directory / "node.toml", {}))
    (said,) = caplog.records
    assert said.levelname == "ERROR"
    assert f"{node.own / CERTIFICATE} ended on" in said.__dict__["reason"]


def test_the_verb_says_so(node: Node) -> None:
    node.sign("n2")
    node.problems()
    check = [sys.executable, "-m", "perenne.cli", "config", "check", str(node.directory / "node.toml")]
    done = subprocess.run([*check, "--json"], capture_output=True, text=True, check=False)
    (problem,) = json.loads(done.stdout)["problems"]
    assert (done.returncode, problem["where"]) == (2, f"{node.directory / 'node.toml'}: tls.certificate_file")
    assert "names 'n2'" in problem["cause"]


@pytest.mark.parametrize("wrong", ["perenne", "perenne:", ":secret", "a:b\nc:d", " \n"])
def test_an_owner_of_zookeeper_without_user_or_password(tmp_path: Path, wrong: str) -> None:
    secrets = tmp_path / "owner"
    secrets.write_text(wrong)
    text = f'[coordination]\nzookeeper = "127.0.0.1:2181"\ncredentials_file = "{secrets}"\n'
    (tmp_path / "node.toml").write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_config(tmp_path / "node.toml", {})
    assert f"{secrets} is not one line user:password" in str(raised.value)
    assert "secret" not in str(raised.value)
    secrets.write_text("perenne:with:colons\n")
    load_config(tmp_path / "node.toml", {})


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        ("schlüssel", "'ü' as character 5"),
        ("two words", "' ' as character 4"),
        ("a=b", "'b' as character 3"),
        ("=", "'=' as character 1"),
        ("one\ntwo", "'\\n' as character 4"),
        (" \n", "holds no token"),
    ],
)
def test_a_token_that_no_client_can_show(tmp_path: Path, wrong: str, cause: str) -> None:
    (tmp_path / "token").write_text(wrong, encoding="utf-8")
    (tmp_path / "node.toml").write_text('[http]\ntoken_file = "token"\n')
    with pytest.raises(ConfigError) as raised:
        load_config(tmp_path / "node.toml", {})
    assert cause in str(raised.value)
    assert str(tmp_path / "token") in str(raised.value)
    assert "openssl rand -hex 32" in str(raised.value)
    (tmp_path / "token").write_text("aZ0-._~+/==\n")
    load_config(tmp_path / "node.toml", {})


DOORS = """
[http]
host = "0.0.0.0"
{http}
[peer]
host = "0.0.0.0"
advertise_host = "n1.pacs.example"
[dimse]
host = "0.0.0.0"
"""


@pytest.mark.parametrize(
    ("http", "ae", "mode", "said"),
    [
        ("", "", 0o600, {"http.token_file": "reads every image", "ae": "every calling AE"}),
        ('token_file = "token"\n', "", 0o600, {"http.tls": "plain text", "ae": "every calling AE"}),
        ('token_file = "token"\ntls = true\n', '[[ae]]\ntitle = "CT1"\n', 0o604, {"tls.key_file": "chmod 600"}),
        ('token_file = "token"\ntls = true\n', '[[ae]]\ntitle = "CT1"\n', 0o600, {}),
    ],
)
def test_doors_that_stand_open_are_named_and_keep_nobody_from_starting(
    node: Node, http: str, ae: str, mode: int, said: dict[str, str]
) -> None:
    (node.directory / "token").write_text("secret\n")
    (node.own / KEY).chmod(mode)
    assert node.problems(DOORS.format(http=http) + ae) == {}
    done = CliRunner().invoke(app, ["config", "check", str(node.directory / "node.toml"), "--json"])
    assert done.exit_code == 0, done.output
    found = {one["where"]: f"{one['cause']}. {one['next_step']}" for one in json.loads(done.stdout)["open_doors"]}
    assert found.keys() == said.keys()
    assert all(words in found[key] for key, words in said.items())


def test_a_peer_port_without_certificates_stands_open(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        '[node]\nid = "n1"\n[coordination]\nzookeeper = "127.0.0.1:2181"\n[peer]\nhost = "0.0.0.0"\n'
        'advertise_host = "n1.pacs.example"\n'
    )
    done = CliRunner().invoke(app, ["config", "check", str(file)])
    assert done.exit_code == 0
    assert "OPEN DOOR: tls: whoever reaches port 11111 may pass for a node" in done.output
    assert "nothing is wrong, and 1 door stands open" in done.output


def test_a_zookeeper_elsewhere_that_anybody_may_write_to_stands_open(tmp_path: Path) -> None:
    """TLS and an owner, each by itself."""
    file = tmp_path / "node.toml"
    (tmp_path / "owner").write_text("perenne:secret\n")
    text = '[node]\nid = "n1"\n[peer]\nhost = "0.0.0.0"\nadvertise_host = "n1.pacs.example"\n[coordination]\n'
    for line, keys in (
        ("", {"tls", "coordination.tls", "coordination.credentials_file"}),
        (OWNED, {"tls", "coordination.tls"}),
    ):
        file.write_text(f'{text}zookeeper = "127.0.0.1:2181,10.0.0.4:2181"\n{line}')
        done = CliRunner().invoke(app, ["config", "check", str(file), "--json"])
        assert {one["where"] for one in json.loads(done.stdout)["open_doors"]} == keys


OWNED = 'credentials_file = "owner"\n'


def test_a_node_says_at_each_start_which_doors_stand_open(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[node]\nid = "n1"\n[coordination]\nzookeeper = "127.0.0.1:2181"\n[peer]\nhost = "0.0.0.0"\n')
    log_doors(load_config(file, {}))
    (said,) = (vars(record) for record in caplog.records)
    assert (said["levelname"], said["key"]) == ("WARNING", "tls")
    assert "is given every image" in said["reason"] and "perenne certs" in said["next_step"]
