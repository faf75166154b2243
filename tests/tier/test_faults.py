"""Goal: whatever a store does, callers learn what they may rely on. Method: SeaweedFS, killed, stopped and lied for."""

import asyncio
import random
import signal
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from perenne.local.seaweedfs import Store, start_store
from replication.tier.bodies import body_facts
from replication.tier.port import AlreadyThere, NoRoom, NotThere, ObjectDamaged, Refused, Stored, Unreachable
from replication.tier.s3 import Credentials, S3Store
from tests.tier.proxy import SLOW_DOWN, Action, Alter, Answer, CutBody, Hold, LoseReply, Proxy, Request
from tests.tier.rig import CREDENTIALS, QUICK, Reached, reached_through, run, s3_reached, settings

BYTES = random.Random(1).randbytes(20_000)
KEY = "log/000000000001/a-b.tar"


Rule = Callable[[Request], Action]
ABSENT = Answer(404, b"<Error><Code>NoSuchKey</Code></Error>")


def always(action: Action, method: str = "PUT") -> Rule:
    """For every request of one method for an object."""
    return lambda request: action if request.method == method and request.key else None


def once(action: Action, method: str = "PUT") -> Rule:
    """For the first one."""
    left = [action]
    return lambda request: left.pop() if left and request.method == method and request.key else None


@pytest.fixture
def proxy(seaweedfs: Store) -> Generator[Proxy]:
    with Proxy(seaweedfs.port, lambda _: None) as found:
        yield found


@pytest.fixture
def behind(proxy: Proxy) -> Generator[Reached]:
    """A store that is asked through the proxy."""
    found = s3_reached(proxy.endpoint)
    yield found
    found.end()


def test_a_reply_lost_after_the_put_applied_is_recognised_as_ones_own(proxy: Proxy, behind: Reached) -> None:
    proxy.rule = once(LoseReply())
    assert run(behind.store.put(KEY, BYTES)) is Stored.THERE_BEFORE
    assert [r.method for r in proxy.seen[-4:]] == ["PUT", "PUT", "HEAD", "GET"], "it is read back before it counts"
    assert run(behind.store.get(KEY)) == BYTES


def test_a_lost_reply_does_not_hide_that_other_bytes_are_there(proxy: Proxy, behind: Reached) -> None:
    async def story() -> None:
        await behind.store.put(KEY, BYTES)
        proxy.rule = once(LoseReply())
        with pytest.raises(AlreadyThere):
            await behind.store.put(KEY, BYTES[::-1])

    run(story())


def test_a_put_that_is_applied_late_is_found_by_the_attempt_after_it(proxy: Proxy, seaweedfs: Store) -> None:
    held = Hold()
    proxy.rule = once(held)
    blocking = s3_reached(proxy.endpoint, read_timeout_s=0.5)

    async def story() -> None:
        with pytest.raises(Unreachable):
            await asyncio.to_thread(_one_put, blocking)
        held.release.set()
        await asyncio.to_thread(held.done.wait, 20)
        assert await blocking.store.put(KEY, BYTES) is Stored.THERE_BEFORE

    run(story())
    blocking.end()


def _one_put(reached: Reached) -> None:
    reached.blocking.put(KEY, BYTES, body_facts(BYTES), only_if_absent=True, lock=False)


def test_a_503_is_asked_again_until_it_passes(proxy: Proxy, behind: Reached) -> None:
    proxy.rule = once(SLOW_DOWN)
    assert run(behind.store.put(KEY, BYTES)) is Stored.CREATED


@pytest.mark.parametrize("status", [500, 503])
def test_a_store_that_stays_busy_is_unreachable(proxy: Proxy, status: int) -> None:
    busy = s3_reached(proxy.endpoint, patience=QUICK)
    proxy.rule = always(Answer(status))
    with pytest.raises(Unreachable, match=str(status)):
        run(busy.store.put(KEY, BYTES))
    assert len([request for request in proxy.seen if request.method == "PUT" and request.key]) > 3
    busy.end()


def test_a_full_store_is_no_room_and_may_be_asked_again(proxy: Proxy) -> None:
    full = s3_reached(proxy.endpoint, patience=QUICK)
    for status, code in ((507, b""), (403, b"QuotaExceeded")):
        proxy.rule = always(Answer(status, b"<Error><Code>%s</Code></Error>" % code))
        with pytest.raises(NoRoom, match="Make room"):
            run(full.store.put(KEY, BYTES))
    full.end()


def test_an_object_that_the_store_lost_is_not_there(proxy: Proxy, behind: Reached) -> None:
    async def story() -> None:
        await behind.store.put(KEY, BYTES)
        proxy.rule = always(ABSENT, "GET")
        with pytest.raises(NotThere):
            await behind.store.get(KEY)

    run(story())


def test_bytes_that_change_on_the_way_back_are_not_served(proxy: Proxy, behind: Reached) -> None:
    async def story() -> None:
        await behind.store.put(KEY, BYTES)
        proxy.rule = always(Alter(lambda status, body: (status, body[:-1] + bytes([body[-1] ^ 1]))), "GET")
        with pytest.raises(ObjectDamaged):
            await behind.store.get(KEY)
        proxy.rule = always(Alter(lambda status, body: (status, body[:-1])), "GET")
        with pytest.raises(ObjectDamaged):
            await behind.store.get(KEY)

    run(story())


def test_a_store_that_ignores_ranges_is_refused(proxy: Proxy, behind: Reached) -> None:
    async def story() -> None:
        await behind.store.put(KEY, BYTES)
        proxy.rule = always(Answer(200, BYTES), "GET")
        with pytest.raises(Refused, match="does not honour Range"):
            await behind.store.get_range(KEY, 0, 4)

    run(story())


@pytest.mark.parametrize(
    ("access_key", "secret_key", "step"),
    [("nobody", "perenne-local-secret", "Compare the access key"), ("perenne", "wrong-secret", "secret key")],
)
def test_wrong_credentials_are_refused_with_cause_and_next_step(
    seaweedfs: Store, access_key: str, secret_key: str, step: str
) -> None:
    wrong = S3Store(settings(seaweedfs.endpoint), Credentials(access_key=access_key, secret_key=secret_key))
    reached = reached_through(wrong, lambda _: None)
    for ask in (lambda: reached.store.put(KEY, BYTES), lambda: reached.store.get(KEY)):
        with pytest.raises(Refused, match="403") as raised:
            run(ask())
        assert step in raised.value.next_step
        assert secret_key not in str(raised.value)
    reached.end()


def test_a_bucket_that_does_not_exist_is_refused_with_the_verb_that_makes_it(seaweedfs: Store) -> None:
    reached = s3_reached(seaweedfs.endpoint)
    nowhere = S3Store(settings(seaweedfs.endpoint, bucket="nowhere"), CREDENTIALS)
    other = reached_through(nowhere, lambda _: None)
    with pytest.raises(Refused, match="perenne tier prepare"):
        run(other.store.put(KEY, BYTES))
    other.end()
    reached.end()


def test_a_certificate_of_an_unknown_authority_is_refused(seaweedfs: Store) -> None:
    with pytest.raises(Refused, match="Set tier.ca_file"):
        s3_reached(seaweedfs.https_endpoint)


def test_nobody_at_the_address_is_unreachable(proxy: Proxy) -> None:
    blocking = S3Store(settings("http://127.0.0.1:1"), Credentials(access_key="a", secret_key="b"))
    away = reached_through(blocking, lambda _: None, QUICK)
    for ask in (lambda: away.store.put(KEY, BYTES), lambda: away.store.head(KEY)):
        with pytest.raises(Unreachable):
            run(ask())
    away.end()


def test_a_paused_server_is_unreachable_in_time_and_usable_again(seaweedfs: Store) -> None:
    calm, hasty = s3_reached(seaweedfs.endpoint), s3_reached(seaweedfs.endpoint, patience=QUICK)
    run(calm.store.put(KEY, BYTES))
    seaweedfs.running.signal(signal.SIGSTOP)
    try:
        for ask in (lambda: hasty.store.put("log/1/x", BYTES), lambda: hasty.store.head(KEY)):
            with pytest.raises(Unreachable):
                run(ask())
    finally:
        seaweedfs.running.signal(signal.SIGCONT)
    assert run(calm.store.put("log/1/y", BYTES)) is Stored.CREATED
    calm.end()
    hasty.end()


def test_a_server_killed_within_a_put_has_all_that_it_confirmed_and_no_half_object(tmp_path: Path) -> None:
    large, key = random.Random(2).randbytes(9_000_000), "log/1/large"
    server = start_store(tmp_path)
    try:
        before = s3_reached(server.endpoint, prefix="p/")
        run(before.store.put(KEY, BYTES))
        with Proxy(server.port, once(CutBody(server.kill))) as proxy:
            cut = reached_through(S3Store(settings(proxy.endpoint, prefix="p/"), CREDENTIALS), lambda _: None, QUICK)
            with pytest.raises(Unreachable):
                run(cut.store.put(key, large))
        server = start_store(tmp_path)
        after = s3_reached(server.endpoint, prefix="p/")
        with pytest.raises(NotThere):
            run(after.store.head(key))
        assert run(after.store.get(KEY)) == BYTES
        assert run(after.store.put(key, large)) is Stored.CREATED
        assert run(after.store.get(key)) == large
        for reached in (before, cut, after):
            reached.end()
    finally:
        server.kill()
