"""Goal: a bucket and a directory keep the same promises.

Method: one suite over a real SeaweedFS, over http and https, and over a directory.
"""

import asyncio
import random
import zlib
from pathlib import Path

import pytest

from replication.tier.bodies import FilePart
from replication.tier.keys import CLUSTER_KEY, Claim, Marker, Run
from replication.tier.port import AlreadyThere, ChecksumRefused, NotThere, ObjectDamaged, SourceUnreadable, Stored
from tests.tier.rig import Reached, run

BYTES = random.Random(1).randbytes(20_000)
KEY = "log/000000000001/a-b.tar"


async def keys(reached: Reached, prefix: str, after: str = "") -> list[str]:
    return [key async for key in reached.store.list(prefix, after)]


def test_what_was_put_comes_back_whole_and_in_part(reached: Reached) -> None:
    async def story() -> None:
        store = reached.store
        assert await store.put(KEY, BYTES) is Stored.CREATED
        assert await store.get(KEY) == BYTES
        assert await store.get_range(KEY, 0, 1) == BYTES[:1]
        assert await store.get_range(KEY, 4096, 8192) == BYTES[4096 : 4096 + 8192]
        assert await store.get_range(KEY, 19_999, 500) == BYTES[-1:], "fewer only at the end"
        assert await store.get_range(KEY, 20_000, 500) == b""
        assert (await store.head(KEY)).size == len(BYTES)

    run(story())


def test_an_empty_object_is_an_object(reached: Reached) -> None:
    async def story() -> None:
        assert await reached.store.put("claim/000000000001-b", b"") is Stored.CREATED
        assert await reached.store.get("claim/000000000001-b") == b""
        assert await keys(reached, "claim/") == ["claim/000000000001-b"]

    run(story())


def test_a_part_of_a_file_is_put_without_the_rest(reached: Reached, tmp_path: Path) -> None:
    async def story() -> None:
        data = random.Random(2).randbytes(3_000_001)
        (tmp_path / "segment").write_bytes(b"before" + data + b"behind")
        part = FilePart(tmp_path / "segment", 6, len(data))
        assert await reached.store.put(KEY, part) is Stored.CREATED
        assert await reached.store.get(KEY) == data
        assert await reached.store.put(KEY, part) is Stored.THERE_BEFORE
        with pytest.raises(SourceUnreadable):
            await reached.store.put("log/short", FilePart(tmp_path / "segment", 100, len(data)))
        with pytest.raises(SourceUnreadable):
            await reached.store.put("log/short", FilePart(tmp_path / "nowhere", 0, 1))
        assert await keys(reached, "log/s") == []

    run(story())


def test_a_key_never_changes_its_bytes(reached: Reached) -> None:
    async def story() -> None:
        assert await reached.store.put(KEY, BYTES) is Stored.CREATED
        assert await reached.store.put(KEY, BYTES) is Stored.THERE_BEFORE
        for other in (BYTES[:-1], BYTES[:-1] + b"x", b""):
            with pytest.raises(AlreadyThere):
                await reached.store.put(KEY, other)
        assert await reached.store.get(KEY) == BYTES

    run(story())


def test_of_many_that_create_one_key_at_once_exactly_one_wins(reached: Reached) -> None:
    async def story() -> None:
        bodies = [b"%d" % n * 1000 for n in range(8)]
        results = await asyncio.gather(*(reached.store.put(KEY, b) for b in bodies), return_exceptions=True)
        winners = [body for body, result in zip(bodies, results, strict=True) if result is Stored.CREATED]
        assert len(winners) == 1
        assert sum(isinstance(result, AlreadyThere) for result in results) == len(bodies) - 1
        assert await reached.store.get(KEY) == winners[0]

    run(story())


def test_many_that_put_the_same_bytes_at_once_all_succeed(reached: Reached) -> None:
    async def story() -> None:
        results = await asyncio.gather(*(reached.store.put(KEY, BYTES) for _ in range(6)))
        assert sorted(result.name for result in results) == ["CREATED"] + ["THERE_BEFORE"] * 5

    run(story())


def test_without_the_condition_an_object_is_put_all_the_same(reached: Reached) -> None:
    async def story() -> None:
        for _ in range(2):
            assert await reached.store.put(KEY, BYTES, only_if_absent=False) is Stored.CREATED
        assert await reached.store.get(KEY) == BYTES

    run(story())


def test_what_is_not_there_is_said_to_be_absent(reached: Reached) -> None:
    async def story() -> None:
        await reached.store.put("log/1/a", b"1")
        for absent in ("log/1/b", "log/2/a", "log/1", "log/1/a/b"):
            for ask in (reached.store.get, reached.store.head):
                with pytest.raises(NotThere):
                    await ask(absent)
            with pytest.raises(NotThere):
                await reached.store.get_range(absent, 0, 10)

    run(story())


def test_a_listing_has_every_key_below_its_prefix_in_order(reached: Reached) -> None:
    async def story() -> None:
        runs = [Run(epoch, first, first + 1, b"\x80chained") for epoch in (1, 2, 10) for first in (1, 3, 10, 200)]
        twins = [Run(2, 3, 4, b"\x7fchained"), Run(2, 3, 9, b"\x80chained")]
        others = [Claim(2, "b").key, Marker(10, "c").key, Marker(9, "c").key, CLUSTER_KEY, "probe/b", "probe/c/d"]
        names = [run.key for run in (*runs, *twins)] + others
        shuffled = random.Random(3).sample(names, len(names))
        await asyncio.gather(*(reached.store.put(name, b"x") for name in shuffled))
        for prefix in ("", "log/", "log/000000000002/", "log/000000000002/000000000003-", "marker/", "no/"):
            expected = sorted(name for name in names if name.startswith(prefix))
            assert await keys(reached, prefix) == expected
            for after in expected[::3]:
                assert await keys(reached, prefix, after) == [name for name in expected if name > after]

    run(story())


def test_what_was_deleted_is_gone_and_deleting_it_again_is_nothing(reached: Reached) -> None:
    async def story() -> None:
        await reached.store.put(KEY, BYTES)
        await reached.store.delete(KEY)
        await reached.store.delete(KEY)
        await reached.store.delete("log/never/there")
        assert await keys(reached, "") == []
        with pytest.raises(NotThere):
            await reached.store.get(KEY)

    run(story())


def test_bytes_that_do_not_match_their_checksum_are_not_kept(reached: Reached) -> None:
    async def story() -> None:
        for body in (BYTES, b""):
            with pytest.raises(ChecksumRefused):
                await reached.store.put(KEY, body, crc32=zlib.crc32(body) ^ 1)
        assert await keys(reached, "") == []
        assert await reached.store.put(KEY, BYTES, crc32=zlib.crc32(BYTES)) is Stored.CREATED

    run(story())


def test_an_object_that_was_altered_in_the_store_is_not_served(reached: Reached) -> None:
    async def story() -> None:
        await reached.store.put(KEY, BYTES)
        reached.alter(KEY)
        with pytest.raises(ObjectDamaged):
            await reached.store.get(KEY)
        with pytest.raises(ObjectDamaged):
            await reached.store.put(KEY, BYTES)

    run(story())


def test_only_plain_keys_reach_a_store(reached: Reached) -> None:
    for bad in ("", "/a", "a/", "../a", "a/../b", ".tmp/a", "a//b", "a b", "a\n", "ä", "a" * 513):
        with pytest.raises(ValueError, match="no key of the tier"):
            run(reached.store.put(bad, b"x"))
        with pytest.raises(ValueError, match="no key of the tier"):
            run(reached.store.get(bad))
