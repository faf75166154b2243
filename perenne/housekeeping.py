"""What a node does by itself to its own log, as the configuration has it: the scrub, and compaction, as gently."""

from perenne.config import Config
from replication.compacting import Compaction
from storage.scrub import ScrubSettings

_DAY_US = 86_400_000_000


def scrub_settings(config: Config) -> ScrubSettings:
    scrub = config.scrub
    return ScrubSettings(
        light_every_s=scrub.light_every_ms / 1000,
        deep_every_s=scrub.deep_every_ms / 1000,
        bytes_per_s=scrub.per_second_bytes,
    )


def compaction_settings(config: Config) -> Compaction:
    retention = config.retention
    return Compaction(
        undo_us=retention.undo_days * _DAY_US,
        daily=retention.compact_daily,
        bytes_per_s=config.scrub.per_second_bytes,
        keep_free_bytes=config.storage.reserve_bytes,
    )
