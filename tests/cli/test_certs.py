"""Goal: `perenne certs` makes no certificate that can never match, and explains what it cannot write.

Method: the verb itself; what it lets through is matched by OpenSSL.
"""

import json
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from typer.testing import CliRunner, Result

from perenne.authority import AUTHORITY, AUTHORITY_KEY, CERTIFICATE, KEY, authority_in
from perenne.cli.commands import app
from perenne.hostnames import never_matches
from tests.integration.rig import PERENNE


def certs(*words: str) -> Result:
    """In this process: starting one takes longer than the rest."""
    return CliRunner().invoke(app, ["certs", *words])


def refused(directory: Path, *words: str, code: int) -> str:
    """What the verb says. It made nothing that was not there."""
    before = sorted(directory.parent.rglob("*"))
    done = certs(str(directory), *words)
    assert done.exit_code == code, done.output
    assert isinstance(done.exception, SystemExit)
    assert "[Errno" not in done.stderr
    assert sorted(directory.parent.rglob("*")) == before
    return done.stderr


@pytest.mark.parametrize(
    ("host", "cause"),
    [
        ("", "leave out the comma"),
        ("n1..pacs.example", "between two dots"),
        (".pacs.example", "before the first"),
        ("n1.pacs.example.", "write 'n1.pacs.example'"),
        ("n 1", "because of 'n 1'"),
        ("-n1.pacs.example", "because of '-n1'"),
        ("n1-.pacs.example", "because of 'n1-'"),
        (f"{'a' * 64}.example", "63 at most"),
        (".".join(["a" * 60] * 5), "304 characters"),
        ("https://n1.pacs.example:8080/status", "such as 'n1.pacs.example'"),
        ("n1.pacs.example:8080", "write 'n1.pacs.example'"),
        ("[::1]:80", "write '::1'"),
        ("[::1]", "write '::1'"),
        ("10.0.0.0/16", "because of '0/16'"),
        ("10.0.0.300", "four numbers up to 255"),
        ("0.0.0.0", "give the address that others call"),
        ("fe80::1%eth0", "write fe80::1"),
        ("*.pacs.example", "name its hosts one by one"),
        ("münchen.example", "write 'xn--mnchen-3ya.example'"),
        ("ü..example", "cannot be encoded"),
    ],
)
def test_a_name_that_can_never_match_is_refused(host: str, cause: str) -> None:
    said = never_matches(host)
    assert said is not None
    assert cause in said


HOSTS = (
    "n1",
    "N1.pacs.example",
    "10.0.0.1",
    "fe80::1",
    "xn--mnchen-3ya.example",
    "perenne_n1",
    f"{'a' * 63}.example",
    "3com.com",
)


def test_what_is_let_through_does_match(tmp_path: Path) -> None:
    made = certs(str(tmp_path / "ca"), f"n1={','.join(HOSTS)}", "--json")
    own = Path(json.loads(made.stdout)["nodes"]["n1"])
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(own / CERTIFICATE, own / KEY)
    for host in HOSTS:
        shake_hands(server, ssl.create_default_context(cafile=str(tmp_path / "ca" / AUTHORITY)), host.lower())
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, ssl.create_default_context(cafile=str(tmp_path / "ca" / AUTHORITY)), "n2")


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> None:
    """The client looks at name and certificate. Raises ssl.SSLError."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    calling = client.wrap_bio(back, there, server_hostname=host)
    called = server.wrap_bio(there, back, server_side=True)
    with pytest.raises(ssl.SSLWantReadError):
        calling.do_handshake()
    with pytest.raises(ssl.SSLWantReadError):
        called.do_handshake()
    calling.do_handshake()


def test_the_secret_of_a_first_deployment_and_of_a_renewal(tmp_path: Path) -> None:
    """Certificates are exchanged, the token and ZooKeeper's user stay: nobody would tell whoever knows them."""
    whole = tmp_path / "ca" / "secret"
    before = filled(tmp_path / "ca", "n1", "zk1")
    parts = {f"{name}{part}.pem" for name in ("n1", "zk1") for part in ("", "-key", "-key-and-certificate")}
    assert set(before) == {*parts, "authority.pem", "token", "credentials"}
    assert before["n1.pem"] == (tmp_path / "ca" / "n1" / CERTIFICATE).read_bytes()
    assert before["n1-key-and-certificate.pem"] == before["n1-key.pem"] + before["n1.pem"]
    secret = [key for key in before if "key" in key or key in ("token", "credentials")]
    assert all((whole / key).stat().st_mode & 0o077 == 0 for key in secret)
    after = filled(tmp_path / "ca", "n1", "n2")
    assert set(after) == {*before, "n2.pem", "n2-key.pem", "n2-key-and-certificate.pem"}
    assert {key for key in before if after[key] == before[key]} == {
        *(key for key in before if key.startswith("zk1")),
        "authority.pem",
        "token",
        "credentials",
    }
    other = filled(tmp_path / "another", "n1")
    assert other["token"] != before["token"] and other["credentials"] != before["credentials"]


def filled(directory: Path, *words: str) -> dict[str, bytes]:
    done = certs(str(directory), "--secret", *words, "--json")
    assert done.exit_code == 0, done.output
    return {file.name: file.read_bytes() for file in Path(json.loads(done.stdout)["secret"]).iterdir()}


def test_names_that_would_share_a_file_in_the_secret(tmp_path: Path) -> None:
    for names in (["n1", "n1-key"], ["authority"], ["secret"]):
        said = refused(tmp_path / "ca", "--secret", *names, code=2)
        assert "name the nodes otherwise" in said or "cannot name a node" in said
        assert certs(str(tmp_path / names[0]), *names).exit_code == 0, "without the secret they are fine"


def test_everything_that_is_wrong_is_told_at_once_and_nothing_is_made(tmp_path: Path) -> None:
    said = refused(tmp_path / "ca", "n1=a..b,https://c", "n2=d,", "a/b", "n1", AUTHORITY, code=2)
    assert len(said.splitlines()) == 6
    assert "n1: 'a..b' has nothing between two dots" in said
    assert "n2: a name is empty" in said
    assert "'a/b' cannot name a node: use letters" in said
    assert "n1 is named twice: write all its hosts behind one =" in said
    assert f"'{AUTHORITY}' cannot name a node" in said


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert f"{tmp_path / 'file'} is a file: move it away" in refused(tmp_path / "file", "n1", code=1)
    said = refused(tmp_path / "file" / "below", "n1", code=1)
    assert f"{tmp_path / 'file' / 'below'} cannot be written: Not a directory: name a directory elsewhere" in said
    done = certs("/proc/perenne-ca", "n1")
    assert done.exit_code == 1
    assert "/proc/perenne-ca cannot be written: " in done.stderr
    assert "name a directory elsewhere" in done.stderr
    assert "Errno" not in done.output


def test_an_authority_that_cannot_be_read_or_is_half_gone(tmp_path: Path) -> None:
    ca = tmp_path / "ca"
    assert certs(str(ca), "n1").exit_code == 0
    (ca / "n2").write_text("x")
    assert f"{ca / 'n2'} is a file: move it away" in refused(ca, "n2", code=1)
    key = (ca / AUTHORITY_KEY).read_bytes()
    (ca / AUTHORITY_KEY).unlink()
    assert f"{ca / AUTHORITY_KEY} is missing: bring it back" in refused(ca, "n1", code=1)
    (ca / AUTHORITY_KEY).mkdir()
    said = refused(ca, "n1", code=1)
    assert f"{ca / AUTHORITY_KEY} cannot be read: Is a directory: run this as the user to whom it belongs" in said
    (ca / AUTHORITY_KEY).rmdir()
    (ca / AUTHORITY_KEY).write_bytes(key)
    assert certs(str(ca), "n1").exit_code == 0


def test_an_authority_that_has_ended(tmp_path: Path) -> None:
    """Signed in the place of one that `perenne certs` made, since it makes them for ten years."""
    ca = tmp_path / "ca"
    made = authority_in(ca)
    ends = datetime.now(UTC) - timedelta(days=1)
    name = made.certificate.subject
    builder = x509.CertificateBuilder(name, name, made.key.public_key(), x509.random_serial_number())
    ended = builder.not_valid_before(ends - timedelta(days=1)).not_valid_after(ends).sign(made.key, hashes.SHA256())
    (ca / AUTHORITY).write_bytes(ended.public_bytes(serialization.Encoding.PEM))
    said = refused(ca, "n1", code=1)
    assert f"{ca / AUTHORITY} ended on {ends:%Y-%m-%d}" in said
    assert "make another one in an empty directory" in said


def test_a_disk_without_room(tmp_path: Path) -> None:
    """On a file system without a free byte."""
    full = tmp_path / "full"
    full.mkdir()
    script = f"""
mount -t tmpfs -o size=4k none {full} && dd if=/dev/zero of={full}/file bs=4k count=1 status=none
exec {" ".join(PERENNE)} certs {full}/ca n1
"""
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)
    if "permission denied" in done.stderr or "unshare failed" in done.stderr:
        pytest.skip("mounting is not allowed here")
    assert done.returncode == 1, done.stderr
    assert "cannot be written: No space left on device: make room on its disk" in done.stderr
