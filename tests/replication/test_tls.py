"""The peer port in TLS: nodes of one authority talk, strangers get nothing and are counted."""

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop
from cryptography import x509

from perenne.authority import AUTHORITY, CERTIFICATE, KEY, authority_in
from perenne.config_tls import Keyrings
from perenne.tls import Keyring, TlsFiles, TlsUnusable
from replication import connection, doorman
from replication.core.values import ReplicaId
from replication.doorman import WAITING, Door
from replication.messages import Survey
from storage.reader import BytesPayload
from tests.replication.test_peers import Side, hello, proposal, stranger

Test = Callable[[], Awaitable[None]]
Play = Callable[[Test], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def play(request: pytest.FixtureRequest) -> Play:
    """Run a test on the loop of the standard library, and on the one that a node has."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run(test: Test) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(60):
                await test()

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded())

    return run


def files(directory: Path, name: str) -> TlsFiles:
    own = authority_in(directory).issue(name, (), 30)
    return TlsFiles(own / CERTIFICATE, own / KEY, own / AUTHORITY)


def keyring(directory: Path, name: str) -> Keyring:
    return Keyring(files(directory, name), least=ssl.TLSVersion.TLSv1_3)


def door(directory: Path, name: str) -> Door:
    found = keyring(directory, name)
    return Door(found.server, found.client)


@asynccontextmanager
async def listening(*sides: Side) -> AsyncGenerator[None]:
    for one in sides:
        await one.network.start()
    try:
        yield
    finally:
        for one in sides:
            await one.network.close()
            one.readers.shutdown()


async def counted(one: Side, strangers: int) -> None:
    while one.network.strangers < strangers:
        await asyncio.sleep(0.01)


def side(tmp_path: Path, name: str, *, authority: str = "ca", named: str = "") -> Side:
    return Side(tmp_path, name, door=door(tmp_path / authority, named or name))


def test_nodes_of_one_authority_talk(tmp_path: Path, play: Play) -> None:
    async def test() -> None:
        a, b = side(tmp_path, "a"), side(tmp_path, "b")
        async with listening(a, b):
            a.dial(b)
            b.dial(a)
            await a.until(lambda: len(a.up) == 2)
            await b.until(lambda: len(b.up) == 2)
            content = bytes(range(256)) * 16_000  # beyond what is offered to a plain socket at once
            for _ in range(3):
                a.network.send(a.dialled(), proposal(content), BytesPayload(content))
            a.network.send(a.dialled(), Survey(7))
            await b.until(lambda: len(b.got) == 4)
            assert b.got == [(proposal(content), content)] * 3 + [(Survey(7), b"")]
            assert a.network.strangers == b.network.strangers == 0

    play(test)


def test_a_stranger_gets_nothing_and_is_counted(tmp_path: Path, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain text, though it is a greeting that fits; and silence."""
    monkeypatch.setattr(doorman, "HANDSHAKE_S", 0.5)

    async def test() -> None:
        a = side(tmp_path, "a")
        async with listening(a):
            answer = await stranger(a.network.port, hello())
            assert len(answer) <= 7, "an alert of TLS at most"
            assert not a.up
            await counted(a, 1)
            await stranger(a.network.port, b"")
            await counted(a, 2)

    play(test)


def test_a_node_of_another_authority_gets_nothing_and_is_counted(tmp_path: Path, play: Play) -> None:
    async def test() -> None:
        a, b = side(tmp_path, "a"), side(tmp_path, "b", authority="other")
        async with listening(a, b):
            b.dial(a)
            await counted(a, 1)
            a.dial(b)
            await counted(b, 1)
            assert not a.up
            assert not b.up

    play(test)


def test_without_a_certificate_nobody_comes_in(tmp_path: Path, play: Play) -> None:
    async def test() -> None:
        a = side(tmp_path, "a")
        anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        anonymous.check_hostname = False
        anonymous.load_verify_locations(tmp_path / "ca" / AUTHORITY)
        async with listening(a):
            # In TLS 1.3 the caller believes that all is well before the other side has looked at it.
            reader, writer = await asyncio.open_connection("127.0.0.1", a.network.port, ssl=anonymous)
            writer.write(hello())
            with pytest.raises((ssl.SSLError, ConnectionError)):
                assert not await reader.read(), "not even a greeting"
                raise ConnectionError("hung up on")
            writer.close()
            await counted(a, 1)

    play(test)


def test_a_certificate_opens_the_door_for_the_node_it_names_alone(tmp_path: Path, play: Play) -> None:
    async def test() -> None:
        a, b = side(tmp_path, "a"), side(tmp_path, "b", named="c")
        async with listening(a, b):
            a.network.admit([ReplicaId("b"), ReplicaId("c")])
            b.dial(a)
            await counted(a, 1)
            assert not a.up

    play(test)


def test_a_certificate_of_the_authority_does_not_make_a_node(
    tmp_path: Path, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZooKeeper's servers and modalities may have one, and say who they are."""
    monkeypatch.setattr(connection, "GREETING_S", 0.2)

    async def test() -> None:
        a, modality = side(tmp_path, "a"), side(tmp_path, "modality")
        async with listening(a, modality):
            modality.network.set_members({a.me.id: ("127.0.0.1", a.network.port)})
            await counted(a, 1)
            assert not a.up and not modality.up

    play(test)


def test_the_silent_keep_nobody_out(tmp_path: Path, play: Play) -> None:
    async def test() -> None:
        a, b = side(tmp_path, "a"), side(tmp_path, "b")
        async with listening(a, b):
            silent = [socket.create_connection(("127.0.0.1", a.network.port)) for _ in range(WAITING + 10)]
            await counted(a, 1)
            b.dial(a)
            await a.until(lambda: bool(a.up))
            for connection in silent:
                connection.close()

    play(test)


def test_a_new_certificate_is_taken_up_while_links_stand(tmp_path: Path, play: Play) -> None:
    """First a new certificate of the same authority, then another authority altogether."""

    async def test() -> None:
        ring = keyring(tmp_path / "ca", "a")
        a = Side(tmp_path, "a", door=Door(ring.server, ring.client))
        b, c = side(tmp_path, "b"), side(tmp_path, "c", authority="other")
        before = ring.expires
        async with listening(a, b, c):
            b.dial(a)
            await a.until(lambda: len(a.up) == 1)
            assert not ring.refresh()
            authority_in(tmp_path / "ca").issue("a", (), 60)
            assert ring.refresh()
            assert ring.expires > before
            moved = files(tmp_path / "other", "a")
            for old, new in zip(("authority", "certificate", "key"), ("authority", "certificate", "key"), strict=True):
                target, source = getattr(ring.files, old), getattr(moved, new)
                assert isinstance(target, Path)
                assert isinstance(source, Path)
                target.write_bytes(source.read_bytes())
            assert ring.refresh()
            c.dial(a)
            await a.until(lambda: len(a.up) == 2)
            assert not a.down, "the link of the old authority stands until it ends"

    play(test)


def test_files_that_do_not_fit_leave_the_certificate_in_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ring = keyring(tmp_path / "ca", "a")
    ring.files.key.write_bytes(keyring(tmp_path / "ca", "b").files.key.read_bytes())
    server = ring.server()
    assert not ring.refresh()
    assert "cannot be used" in caplog.text
    assert ring.server() is server
    caplog.clear()
    assert not ring.refresh()
    assert not caplog.text, "said once"


def test_the_first_authority_to_end_is_told_and_one_that_cannot_be_read_is_no_obstacle(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two authorities stand in the file while certificates are exchanged."""
    ring = keyring(tmp_path / "ca", "a")
    bundle = ring.files.authority
    assert bundle is not None
    own = x509.load_pem_x509_certificate(bundle.read_bytes()).not_valid_after_utc
    assert ring.authority_expires == own > ring.expires
    monkeypatch.setattr("perenne.authority.AUTHORITY_DAYS", 400)
    other = authority_in(tmp_path / "other")
    sooner = other.certificate.not_valid_after_utc
    bundle.write_bytes(bundle.read_bytes() + (other.directory / AUTHORITY).read_bytes())
    assert ring.refresh()
    assert ring.authority_expires == sooner < own
    assert Keyrings(peer=ring).authority_expiries() == {"peer": sooner.timestamp()}
    without = Keyring(TlsFiles(ring.files.certificate, ring.files.key, None), clients=ssl.CERT_NONE)
    assert Keyrings(http=without).authority_expiries() == {}
    # As `openssl x509 -trustout` writes it: TLS takes it, and nobody else reads it.
    bundle.write_bytes(bundle.read_bytes().replace(b" CERTIFICATE-", b" TRUSTED CERTIFICATE-"))
    assert ring.refresh()
    assert ring.authority_expires is None and "it is not known when an authority ends" in caplog.text


def reasons(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [str(vars(record).get("reason")) for record in caplog.records]


def test_another_nodes_certificate_is_not_taken_up_nor_one_that_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ring, other = keyring(tmp_path / "ca", "a"), keyring(tmp_path / "ca", "b")
    expires, own = ring.expires, (ring.files.certificate.read_bytes(), ring.files.key.read_bytes())
    ring.files.certificate.write_bytes(other.files.certificate.read_bytes())
    ring.files.key.write_bytes(other.files.key.read_bytes())
    assert not ring.refresh()
    assert "is for CN=b" in reasons(caplog)[-1] and "copy this node's own" in reasons(caplog)[-1]
    authority_in(tmp_path / "ca").issue("a", (), -1)
    assert not ring.refresh()
    assert "ended on" in reasons(caplog)[-1]
    assert ring.expires == expires
    ring.files.certificate.write_bytes(own[0])
    ring.files.key.write_bytes(own[1])
    assert ring.refresh()


def test_what_cannot_be_used_is_said_at_the_start(tmp_path: Path) -> None:
    good = files(tmp_path / "ca", "a")
    with pytest.raises(TlsUnusable, match=r"absent\.pem cannot be read"):
        Keyring(replace(good, key=tmp_path / "absent.pem"))
    with pytest.raises(TlsUnusable, match="perenne certs"):
        Keyring(replace(good, key=files(tmp_path / "ca", "b").key))
    with pytest.raises(TlsUnusable, match="no certificate of an authority"):
        Keyring(replace(good, authority=good.key))
