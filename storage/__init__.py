"""Keeping bytes on one node: the log of tar segments, its recovery and its index. Usable with no cluster."""
