"""Placeholder replaced below."""

from collections.abc import Sequence


def run(arguments: Sequence[str]) -> int:
    raise NotImplementedError
