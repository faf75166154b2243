"""`perenne compact`: the bytes of what was deleted go, on every node, once nobody can want them back."""

import asyncio
import json
import sys
import time
from typing import Any, Final

from perenne.cli.orders import (
    AsOption,
    ClusterOption,
    ConfigOption,
    DryOption,
    JsonOption,
    Leader,
    YesOption,
    agreed,
    bytes_text,
    carry_out,
    keeper_of,
    leader_at,
    person,
    progress,
)
from perenne.cli.usage import ZooKeeperOption

_LOOK_S: Final = 1.0


def compact(
    dry_run: DryOption = False,
    yes: YesOption = False,
    as_: AsOption = "",
    config: ConfigOption = None,
    zookeeper: ZooKeeperOption = "",
    cluster: ClusterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take away, on every node, the bytes of instances that were deleted. There is no way back.

    perenne compact --dry-run

    A deleted instance keeps its bytes in the log until it is compacted; `perenne delete undo` rests on that. This takes
    them once the delete can be undone no more (retention.undo_days), every registered node holds the tombstone, and the
    bucket, if there is one, is complete up to it. What is on legal hold stays. The leader says so in the log;
    each node then rewrites its own segments, as gently as the scrub, also if it was away. In their place stay small
    files that name the tombstone, so that the whole log can still be verified. The newest segment of a log waits until
    it is full. Where there is a tier, the leader replaces the objects that hold these bytes then, once nobody reads
    from them what he evicted any more, unless the bucket keeps what it has (docs/tier.md); `perenne status` says so.

    This waits until the leader is done, and may be stopped with Ctrl-C: the work goes on. The other nodes say how far
    they are in /status and in perenne_compaction_left.

    Exit code 0 done, or nothing to do; 1 not done; 2 bad usage.
    """
    keeper, by = keeper_of(config, zookeeper, cluster), person(as_)

    async def work() -> int:
        async with leader_at(keeper) as leader:
            plan = await leader.ask("compaction")
            if dry_run or not as_json:
                _show(plan, as_json=as_json)
            if dry_run or not plan["instances"]:
                if as_json and not dry_run:
                    _say({"ok": True, "instances": 0, "bytes": 0, "left": 0, "why_not": plan["why_not"]})
                return 0
            if not agreed("Take these bytes away? They cannot be brought back.", yes=yes):
                return 1
            await leader.ask("compact", by=by)
            left = await _done(leader, plan["instances"], quiet=as_json)
        gone = plan["instances"] - left
        if as_json:
            _say({"ok": True, "instances": gone, "bytes": plan["bytes"], "left": left, "why_not": plan["why_not"]})
        else:
            why = "in a segment that is still written, is being repaired, or was evicted and is to be read back"
            waits = f"; {left} wait, {why}" if left else ""
            sys.stdout.write(f"{gone} instances are compacted on the leader{waits}\n")
        return 0

    raise carry_out(work(), as_json=as_json)


def _show(plan: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        _say(plan)
        return
    sys.stdout.write(f"{plan['instances']} deleted instances, {bytes_text(plan['bytes'])}, can be compacted\n")
    if plan["held"]:
        sys.stdout.write(f"{plan['held']} more are on legal hold, and stay\n")
    if plan["why_not"]:
        sys.stdout.write(f"later ones must wait: {plan['why_not']}\n")


def _say(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")


async def _done(leader: Leader, total: int, *, quiet: bool) -> int:
    """Wait for the leader; return how many instances it had to leave."""
    began = time.monotonic()
    with progress(hidden=quiet) as bar:
        task = bar.add_task("compacting", total=total, rate="")
        while True:
            now = await leader.ask("compaction")
            done = total - now["left"]
            rate = done / max(time.monotonic() - began, 0.001)
            bar.update(task, completed=done, rate=f"{rate:.0f}/s")
            if not now["left"] or now["waits"]:
                return int(now["left"])
            await asyncio.sleep(_LOOK_S)
