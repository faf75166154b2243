"""Crash images: what a disk may hold after a kill of the process, or after a power cut, at one moment."""

import random
from collections.abc import Iterator
from itertools import product

from tests.storage.memory_disk import SECTOR, Content, MemoryDisk

EXHAUSTIVE_WRITES = 4


def killed(disk: MemoryDisk) -> MemoryDisk:
    """The process is gone, the page cache is whole; what was not synced still is not."""
    return disk.copy()


def killed_inside_last_write(disk: MemoryDisk, rng: random.Random) -> Iterator[MemoryDisk]:
    """The last write got no further than some page of it (Linux looks for a fatal signal between pages)."""
    for name, content in disk.files.items():
        if content.unsynced:
            offset, data = content.unsynced[-1]
            image = disk.copy()
            cut = rng.randrange(0, len(data) + 1, SECTOR)
            changed = image.files[name]
            changed.unsynced[-1] = (offset, data[:cut])
            changed.volatile[:] = _applied(changed, [True] * len(changed.unsynced))
            yield image


def power_cuts(disk: MemoryDisk, rng: random.Random, samples: int) -> Iterator[MemoryDisk]:
    """Every subset of the unsynced writes where they are few, and random subsets of their sectors."""
    dirty = [name for name, content in disk.files.items() if content.unsynced]
    writes = sum(len(disk.files[name].unsynced) for name in dirty)
    subsets = list(product((False, True), repeat=writes)) if writes <= EXHAUSTIVE_WRITES else []
    for subset in subsets:
        yield _image(disk, {name: part for name, part in _split(disk, dirty, subset)})
    for _ in range(samples if writes else 0):
        image = disk.copy()
        share = rng.random()
        for name in dirty:
            content = image.files[name]
            result = bytearray(content.durable).ljust(len(content.volatile), b"\0")
            for offset, data in content.unsynced:
                for at in range(0, len(data), SECTOR):
                    if rng.random() < share:
                        result[offset + at : offset + at + SECTOR] = data[at : at + SECTOR]
            image.files[name] = Content(bytearray(result), bytearray(result))
        yield image


def _split(disk: MemoryDisk, dirty: list[str], subset: tuple[bool, ...]) -> Iterator[tuple[str, list[bool]]]:
    left = list(subset)
    for name in dirty:
        count = len(disk.files[name].unsynced)
        yield name, left[:count]
        left = left[count:]


def _image(disk: MemoryDisk, chosen: dict[str, list[bool]]) -> MemoryDisk:
    image = disk.copy()
    for name, choices in chosen.items():
        result = _applied(image.files[name], choices)
        image.files[name] = Content(bytearray(result), bytearray(result))
    return image


def _applied(content: Content, choices: list[bool]) -> bytearray:
    result = bytearray(content.durable).ljust(len(content.volatile), b"\0")
    for (offset, data), chosen in zip(content.unsynced, choices, strict=True):
        if chosen:
            result[offset : offset + len(data)] = data
    return result
