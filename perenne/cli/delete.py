"""`perenne delete`: instances, series or studies go, with a reason, and a second person where that is configured."""

import sys
import time
from typing import Annotated, Any, Final

import typer

from perenne.cli import burying
from perenne.cli.burying import Wanted
from perenne.cli.orders import (
    AsOption,
    ClusterOption,
    ConfigOption,
    DryOption,
    JsonOption,
    Leader,
    NotDone,
    YesOption,
    agreed,
    bad_usage,
    bytes_text,
    carry_out,
    keeper_of,
    leader_at,
    person,
    progress,
    say,
)
from perenne.cli.usage import ZooKeeperOption
from replication.pages import APPROVAL, REQUEST, UIDS_LIMIT, UNDO, WITHDRAWAL, of_page
from storage.listing import Listed

RESTORED_AT_ONCE: Final = 10
app = typer.Typer(invoke_without_command=True, no_args_is_help=True)
UidsOption = Annotated[list[str] | None, typer.Option(help="Its UID; may be given several times.")]


@app.callback()
def delete(
    context: typer.Context,
    study: UidsOption = None,
    series: UidsOption = None,
    instance: UidsOption = None,
    reason: Annotated[str, typer.Option(help="Why. Kept for ever, with the tombstone.")] = "",
    dry_run: DryOption = False,
    yes: YesOption = False,
    as_: AsOption = "",
    config: ConfigOption = None,
    zookeeper: ZooKeeperOption = "",
    cluster: ClusterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete studies, series or instances: first it lists exactly what goes, then it asks.

    perenne delete --study 1.2.840.113619.2.1 --reason "wrong patient, ticket 4711" --dry-run

    The leader writes tombstones into the log, acknowledged like an image: on every node of the in-sync set. Reads then
    answer 410. The same images sent again are new ones. What is deleted does not come back by itself, from wherever;
    `perenne delete undo` brings it back while its bytes are in the log. While a registered node is away, and for a
    study on legal hold, nothing is deleted. With retention.approval = "two-person" this keeps a request, and somebody
    else runs `perenne delete approve ID`. After Ctrl-C give the same command again.

    Of several UIDs, those under which nothing is stored are named, and the others go; the exit code is 1 then.

    Exit code 0 done (or kept as a request), 1 not done, or not for each UID (with --dry-run: there is nothing, or it
    would be refused now), 2 bad usage, 130 interrupted.
    """
    if context.invoked_subcommand is not None:
        return
    given = [(level, uids) for level, uids in (("study", study), ("series", series), ("instance", instance)) if uids]
    if len(given) != 1 or len(given[0][1]) > UIDS_LIMIT:
        raise bad_usage(f"give one of --study, --series and --instance, {UIDS_LIMIT} times at most")
    if not reason.strip() and not dry_run:
        raise bad_usage("say why with --reason TEXT: it is kept with the tombstone")
    level, uids = given[0]
    keeper = keeper_of(config, zookeeper, cluster)

    async def work() -> int:
        async with leader_at(keeper) as leader:
            found = await burying.looked(leader, level, uids)
            found["nothing_under"] = await burying.nothing_under(leader, level, uids, found)
            if dry_run or not as_json:
                await burying.show(leader, level, uids, found, as_json=as_json)
            if not found["instances"]:
                return _nothing(as_json=as_json and not dry_run)
            if dry_run:
                return burying.foreseen(found, as_json=as_json) or int(bool(found["nothing_under"]))
            burying.check_allowed(found)
            if not agreed(f"Delete these {found['instances']} instances?", yes=yes):
                return 1
            request, asked_us = burying.new_request()
            wanted = Wanted(
                level=level,
                uids=tuple(uids),
                before=found["before"],
                reason=reason.strip(),
                by=person(as_),
                request=request,
                asked_us=asked_us,
            )
            return await _carried_out(leader, wanted, found, as_json=as_json) or int(bool(found["nothing_under"]))

    raise carry_out(work(), as_json=as_json)


def _nothing(*, as_json: bool) -> int:
    if as_json:
        say({"ok": False, "cause": "nothing is stored under these UIDs"}, "", as_json=True)
    else:
        sys.stderr.write("perenne: nothing is stored under these UIDs\n")
    return 1


async def _carried_out(leader: Leader, wanted: Wanted, found: dict[str, Any], *, as_json: bool) -> int:
    if found["two_person"]:
        await burying.ask_for_approval(leader, wanted)
        text = f"kept as {wanted.request}: a second person runs `perenne delete approve {wanted.request}`"
        absent: list[str] = found["nothing_under"]
        facts = {"ok": not absent, "request": wanted.request, "waits_for": "approval", "nothing_under": absent}
        say(facts, text, as_json=as_json)
        return 0
    done = await burying.bury(leader, wanted, found["instances"], quiet=as_json)
    text = f"{done} instances deleted as {wanted.request}; `perenne delete undo {wanted.request}` brings them back"
    nothing: list[str] = found["nothing_under"]
    facts = {"ok": not nothing, "request": wanted.request, "deleted": done, "nothing_under": nothing}
    say(facts, text, as_json=as_json)
    return 0


async def _notes(leader: Leader, subject: str | None = None) -> list[list[Any]]:
    found: list[list[Any]] = []
    while True:
        after = found[-1][0] if found else 0
        answer = await leader.ask("notes", what=[REQUEST, APPROVAL, WITHDRAWAL], subject=subject, after=after)
        if not answer["notes"]:
            return found
        found += answer["notes"]


@app.command("list")
def list_verb(
    config: ConfigOption = None,
    zookeeper: ZooKeeperOption = "",
    cluster: ClusterOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the requests that were kept for a second person, and what became of them."""
    keeper = keeper_of(config, zookeeper, cluster)

    async def work() -> int:
        async with leader_at(keeper) as leader:
            requests: dict[str, dict[str, Any]] = {}
            for _, time_us, what, subject, facts in await _notes(leader):
                if what == REQUEST:
                    requests[subject] = {"request": subject, "asked_us": time_us, "state": "waits", **facts}
                elif subject in requests:
                    said = "approved" if what == APPROVAL else "withdrawn"
                    requests[subject]["state"] = f"{said} by {facts['by']}"
        lines = [
            f"{r['request']}  {time.strftime('%Y-%m-%d %H:%M', time.gmtime(r['asked_us'] / 1e6))}  {r['by']}:"
            f" {r['reason']}  ({r['level']} {r['uids']})  {r['state']}"
            for r in requests.values()
        ]
        say({"requests": list(requests.values())}, "\n".join(lines) or "no requests", as_json=as_json)
        return 0

    raise carry_out(work(), as_json=as_json)


@app.command("approve")
def approve_verb(
    request: Annotated[str, typer.Argument(help="As `perenne delete list` names it.")],
    as_: AsOption = "",
    yes: YesOption = False,
    dry_run: DryOption = False,
    config: ConfigOption = None,
    zookeeper: ZooKeeperOption = "",
    cluster: ClusterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Approve a delete that somebody else asked for, and carry it out. Lists what goes, and asks, first.

    perenne delete approve d1a2b3c4 --as "Dr. Berg"

    Only what was stored when it was asked for goes. The names are what people say of themselves: they make a mistake
    hard and a lie visible, and prove nothing against somebody who can write to ZooKeeper. One that was approved and
    stopped half way goes on with the same command.
    """
    keeper, by = keeper_of(config, zookeeper, cluster), person(as_)

    async def work() -> int:
        async with leader_at(keeper) as leader:
            notes = await _notes(leader, request)
            asked = next((note for note in notes if note[2] == REQUEST), None)
            if asked is None:
                raise NotDone(f"there is no request {request}: see `perenne delete list`")
            facts = asked[4]
            level, uids = facts["level"], tuple(facts["uids"].split())
            found = await burying.looked(leader, level, uids, asked[0])
            if not as_json:
                sys.stdout.write(f"{facts['by']} asked: {facts['reason']}\n")
            if dry_run or not as_json:
                await burying.show(leader, level, uids, found, as_json=as_json)
            if dry_run:
                return burying.foreseen({**found, "two_person": False}, as_json=as_json)
            burying.check_allowed({**found, "two_person": False})
            if not agreed(f"Approve, and delete these {found['instances']} instances?", yes=yes):
                return 1
            if not any(note[2] == APPROVAL for note in notes):
                await leader.ask("note", what=APPROVAL, subject=request, facts={"by": by})
            wanted = Wanted(
                level=level,
                uids=uids,
                before=asked[0],
                reason=facts["reason"],
                by=facts["by"],
                request=request,
                asked_us=asked[1],
            )
            done = await burying.bury(leader, wanted, found["instances"], quiet=as_json)
            text = f"{done} instances deleted as {request}; `perenne delete undo {request}` brings them back"
            say({"ok": True, "request": request, "deleted": done}, text, as_json=as_json)
            return 0

    raise carry_out(work(), as_json=as_json)


@app.command("withdraw")
def withdraw_verb(
    request: Annotated[str, typer.Argument(help="As `perenne delete list` names it.")],
    as_: AsOption = "",
    config: ConfigOption = None,
    zookeeper: ZooKeeperOption = "",
    cluster: ClusterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a request back: nobody can approve it any more."""
    keeper, by = keeper_of(config, zookeeper, cluster), person(as_)

    async def work() -> int:
        async with leader_at(keeper) as leader:
            await leader.ask("note", what=WITHDRAWAL, subject=request, facts={"by": by})
        say({"ok": True, "request": request}, f"{request} is withdrawn", as_json=as_json)
        return 0

    raise carry_out(work(), as_json=as_json)


@app.command("undo")
def undo_verb(
    request: Annotated[str, typer.Argument(help="As the delete named itself; or give --study.")] = "",
    study: Annotated[str, typer.Option(help="Everything that was deleted of this study.")] = "",
    as_: AsOption = "",
    yes: YesOption = False,
    dry_run: DryOption = False,
    config: ConfigOption = None,
    zookeeper: ZooKeeperOption = "",
    cluster: ClusterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring back what was deleted, out of the log: stored anew, byte for byte, as new records.

    perenne delete undo d1a2b3c4

    The tombstones stay, as history, and a note says who brought them back. It works while the bytes are in the leader's
    log: until `perenne compact` takes them. What lives already is left out, so the same command goes on after Ctrl-C.
    """
    if bool(request) == bool(study):
        raise bad_usage("give the name of a delete, or --study UID")
    keeper, by = keeper_of(config, zookeeper, cluster), person(as_)

    async def work() -> int:
        async with leader_at(keeper) as leader:
            items, compacted = await _gone(leader, request, study)
            if not items and not compacted:
                raise NotDone("nothing was deleted under this name that is not back already")
            if not items:
                raise NotDone(f"{_compacted(compacted)}. A backup or the sender may have them")
            size = sum(item.size for item in items)
            if not as_json:
                sys.stdout.write(f"{len(items)} instances, {bytes_text(size)}\n")
                sys.stdout.write(f"{_compacted(compacted)}\n" if compacted else "")
            if dry_run:
                rows = [{"study": i.study, "instance": i.sop, "bytes": i.size} for i in items]
                say({"instances": len(items), "bytes": size, "items": rows}, "nothing was done", as_json=as_json)
                return 0
            if not agreed("Store them anew?", yes=yes):
                return 1
            facts = {"by": by, "instances": str(len(items)), "id": burying.new_request()[0]}
            await leader.ask("note", what=UNDO, subject=request or study, facts=facts)
            failed = await _brought_back(leader, items, quiet=as_json)
        failed += [(sop, _compacted({sop: at})) for sop, at in compacted.items()]
        back = len(items) + len(compacted) - len(failed)
        text = "\n".join([*(f"{sop}: {why}" for sop, why in failed), f"{back} instances are back"])
        rows = [{"instance": sop, "cause": why} for sop, why in failed]
        say({"ok": not failed, "back": back, "failed": rows}, text, as_json=as_json)
        return 1 if failed else 0

    raise carry_out(work(), as_json=as_json)


async def _gone(leader: Leader, request: str, study: str) -> tuple[list[Listed], dict[str, int]]:
    """What was deleted and is still in the log; and of what is not, when it was compacted, by SOP Instance UID."""
    items: list[Listed] = []
    compacted: dict[str, int] = {}
    after = 0
    while True:
        answer = await leader.ask("deleted", request=request, study=study, after=after)
        page = of_page(answer["items"])
        if not page:
            return items, compacted
        after = page[-1].sequence
        gone: dict[str, int] = answer["gone"]
        compacted |= {item.sop: gone[str(item.sequence)] for item in page if str(item.sequence) in gone}
        items += [item for item in page if str(item.sequence) not in gone]


def _compacted(found: dict[str, int]) -> str:
    """Say that these bytes are gone, and since when."""
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(max(found.values()) / 1e6))
    return f"{len(found)} instances were compacted on {when}: their bytes are gone, and cannot be brought back"


async def _brought_back(leader: Leader, items: list[Listed], *, quiet: bool) -> list[tuple[str, str]]:
    """Returns what could not be stored anew, and why."""
    failed: list[tuple[str, str]] = []
    began = time.monotonic()
    with progress(hidden=quiet) as bar:
        task = bar.add_task("restoring", total=len(items), rate="")
        for at in range(0, len(items), RESTORED_AT_ONCE):
            part = items[at : at + RESTORED_AT_ONCE]
            outcomes = (await leader.ask("restore", sequences=[item.sequence for item in part]))["restored"]
            for item in part:
                if (said := outcomes[str(item.sequence)]).startswith("failed"):
                    failed.append((item.sop, said))
            rate = (at + len(part)) / max(time.monotonic() - began, 0.001)
            bar.update(task, completed=at + len(part), rate=f"{rate:.0f}/s")
    return failed
