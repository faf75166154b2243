"""Deleting what was listed, in bounded batches: shared by `perenne delete` and `perenne retention`."""

import json
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from perenne.cli.orders import Leader, NotDone, bytes_text, progress
from replication.pages import REQUEST
from storage.deletion import COVERS_LIMIT
from storage.listing import Listed

SHOWN: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A delete as it was asked for. before: only records below it. request: of an earlier attempt that is to go on."""

    level: str
    uids: tuple[str, ...]
    before: int
    reason: str
    by: str
    request: str
    asked_us: int


def new_request() -> tuple[str, int]:
    """An identifier that people can type, and when it was made."""
    return f"d{secrets.token_hex(4)}", int(time.time() * 1_000_000)


async def looked(leader: Leader, level: str, uids: Sequence[str], before: int = 0) -> dict[str, Any]:
    """How much there is, now. Raises NotDone where something is on hold."""
    found = await leader.ask("look", level=level, uids=list(uids), before=before)
    if found["held"]:
        held = ", ".join(found["held"][:3])
        raise NotDone(f"on legal hold: {held}. See `perenne retention hold list`; nothing was deleted")
    return found


async def nothing_under(leader: Leader, level: str, uids: Sequence[str], found: dict[str, Any]) -> list[str]:
    """Of several UIDs, those under which nothing is stored: mistyped, or deleted before."""
    if len(uids) < 2 or not found["instances"]:
        return []
    nothing: list[str] = []
    for uid in uids:
        if not (await leader.ask("look", level=level, uids=[uid], before=found["before"]))["instances"]:
            nothing.append(uid)
    return nothing


def refusal(found: dict[str, Any]) -> str:
    """Why nothing would be deleted now, though it may be listed; empty when nothing stands against it."""
    absent: list[str] = found["absent"]
    if not absent or found["two_person"]:  # a request may be kept meanwhile
        return ""
    one = absent[0]
    return (
        f"not in sync: {', '.join(absent)}. Nothing is deleted while a registered node is away, since it could still"
        f" answer for what is gone: start it and wait until it is in sync (`perenne status`), or take it out for good"
        f" (`perenne node retire {one}`)"
    )


def check_allowed(found: dict[str, Any]) -> None:
    """Refuse at once what the leader would refuse. Raises NotDone."""
    if why := refusal(found):
        raise NotDone(f"{why}. Nothing was deleted")


def foreseen(found: dict[str, Any], *, as_json: bool) -> int:
    """The end of a --dry-run: the exit code."""
    why = refusal(found)
    if why and not as_json:
        sys.stdout.write(f"it would be refused now: {why}\n")
    return int(bool(why))


async def show(leader: Leader, level: str, uids: Sequence[str], found: dict[str, Any], *, as_json: bool) -> None:
    """Say exactly what would go: every instance with --json, the first of them for eyes."""
    items: list[Listed] = []
    async for page in leader.living(level, uids, found["before"]):
        items += page
        if not as_json and len(items) >= SHOWN:
            break
    if as_json:
        rows = [
            {"study": i.study, "series": i.series, "instance": i.sop, "dataset": i.dataset.hex(), "bytes": i.size}
            for i in items
        ]
        sys.stdout.write(json.dumps({**found, "refused": refusal(found), "items": rows}) + "\n")
        return
    for item in items[:SHOWN]:
        sys.stdout.write(f"  {item.study} {item.series} {item.sop} {bytes_text(item.size)}\n")
    if found["instances"] > SHOWN:
        sys.stdout.write(f"  and {found['instances'] - SHOWN} more; --dry-run --json names all\n")
    sys.stdout.write(f"{found['instances']} instances of {found['studies']} studies, {bytes_text(found['bytes'])}\n")
    for uid in found.get("nothing_under", ()):
        sys.stdout.write(f"nothing is stored under {uid}: is it mistyped, or was it deleted before?\n")


async def ask_for_approval(leader: Leader, wanted: Wanted) -> None:
    """Keep the request in the log, for a second person to approve."""
    facts = {"level": wanted.level, "uids": " ".join(wanted.uids), "reason": wanted.reason, "by": wanted.by}
    await leader.ask("note", what=REQUEST, subject=wanted.request, facts=facts)


async def bury(leader: Leader, wanted: Wanted, total: int, *, quiet: bool) -> int:
    """Write the tombstones; return how many instances went. Raises NotDone."""
    done = 0
    began = time.monotonic()
    with progress(hidden=quiet) as bar:
        task = bar.add_task("deleting", total=total, rate="")
        async for page in leader.living(wanted.level, wanted.uids, wanted.before):
            for at in range(0, len(page), COVERS_LIMIT):
                part = page[at : at + COVERS_LIMIT]
                await leader.ask(
                    "bury",
                    covers=[[i.study, i.series, i.sop, i.dataset.hex()] for i in part],
                    reason=wanted.reason,
                    by=wanted.by,
                    asked_us=wanted.asked_us,
                    request=wanted.request,
                    part=part[0].sequence,
                    before=wanted.before,
                )
                done += len(part)
                rate = done / max(time.monotonic() - began, 0.001)
                bar.update(task, completed=done, rate=f"{rate:.0f}/s")
    return done
