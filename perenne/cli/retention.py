"""`perenne retention`: what may go by its age, and what must stay whatever its age is."""

import json
import os
import secrets
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from msgspec import Struct

from perenne.cli import burying
from perenne.cli.burying import Wanted
from perenne.cli.orders import (
    AsOption,
    ClusterOption,
    DryOption,
    JsonOption,
    Keeper,
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
    say,
)
from perenne.cli.usage import ZooKeeperOption
from perenne.config import ConfigError, RetentionConfig
from perenne.config_reading import load_config
from perenne.retention import fitting, parse_rules
from storage.buried import HOLD, RELEASE
from storage.listing import StudyAge

AT_ONCE: Final = 20
"""Studies in one request: few enough for a person to look at."""
SHOWN: Final = 20
app = typer.Typer(no_args_is_help=True)
hold_app = typer.Typer(no_args_is_help=True, help="Keep studies from being deleted, by whatever verb, until released.")
app.add_typer(hold_app, name="hold")
RulesOption = Annotated[Path, typer.Option("--config", "-c", help="A node's TOML file, with its retention section.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="A node's TOML file: names ZooKeeper.")]


class _Due(Struct, frozen=True):
    """A study that may go, and by which rule."""

    study: StudyAge
    rule: str


class _Found(Struct, frozen=True):
    """before: nothing that is stored from there on goes. held: due by a rule, and on hold."""

    before: int
    due: list[_Due]
    held: list[str]

    def document(self) -> dict[str, Any]:
        rows = [
            {
                "study": due.study.study,
                "study_date": due.study.study_date,
                "arrived": datetime.fromtimestamp(due.study.arrived_us / 1e6, UTC).date().isoformat(),
                "instances": due.study.instances,
                "bytes": due.study.size,
                "rule": due.rule,
            }
            for due in self.due
        ]
        size = sum(due.study.size for due in self.due)
        instances = sum(due.study.instances for due in self.due)
        return {"studies": len(self.due), "instances": instances, "bytes": size, "held": self.held, "due": rows}


def _settings(config: Path) -> RetentionConfig:
    """Raises typer.Exit."""
    try:
        settings = load_config(config, os.environ, disk=False).retention
    except ConfigError as error:
        raise bad_usage(str(error)) from error
    if not settings.rules.strip():
        raise bad_usage(f'{config}: no rules, so nothing is ever due; write them in [retention] rules = "…"')
    return settings


async def _look(leader: Leader, settings: RetentionConfig) -> _Found:
    """Go through every study. What is stored meanwhile is not touched."""
    rules, now = parse_rules(settings.rules), datetime.now(UTC)
    found, after, before = _Found(0, [], []), "", 0
    while True:
        answer = await leader.ask("studies", after=after)
        before = before or int(answer["before"])
        for row in answer["studies"]:
            study = StudyAge(row[0], row[1], row[2], row[3], row[4], tuple(row[5]), tuple(row[6]))
            rule = fitting(study, rules, settings.grace_days, now)
            if rule is not None and study.study in answer["held"]:
                found.held.append(study.study)
            elif rule is not None:
                found.due.append(_Due(study, rule.text))
        if not answer["studies"]:
            return _Found(before, found.due, found.held)
        after = answer["studies"][-1][0]


def _show(found: _Found, *, as_json: bool, refused: str | None = None) -> None:
    """refused: why it would not be done now; None where nothing is to be done."""
    document = found.document()
    if refused is not None:
        document["refused"] = refused
    if as_json:
        sys.stdout.write(json.dumps(document) + "\n")
        return
    for due in document["due"][:SHOWN]:
        sys.stdout.write(
            f"  {due['study']}  study date {due['study_date'] or 'none'}, arrived {due['arrived']},"
            f" {due['instances']} instances, {bytes_text(due['bytes'])}  by {due['rule']}\n"
        )
    if len(found.due) > SHOWN:
        sys.stdout.write(f"  and {len(found.due) - SHOWN} more; --json names all\n")
    for rule, count in Counter(due.rule for due in found.due).most_common():
        sys.stdout.write(f"{count} studies by {rule}\n")
    sys.stdout.write(
        f"{document['studies']} studies, {document['instances']} instances, {bytes_text(document['bytes'])};"
        f" {len(found.held)} more are on hold\n"
    )


@app.command("plan")
def plan_verb(
    config: RulesOption, zookeeper: ZooKeeperOption = "", cluster: ClusterOption = None, as_json: JsonOption = False
) -> None:
    """List what is due by the rules, and do nothing: studies, instances, bytes, and the rule of each.

    perenne retention plan --config /etc/perenne/n1.toml

    A study is due when every modality and sender in it is named by one rule and it is old enough. What is in doubt
    stays: no study date, a modality that is not named, an instance that arrived within grace_days.

    Exit code 0 (also when nothing is due), 1 the leader did not answer, 2 bad usage.
    """
    settings, keeper = _settings(config), keeper_of(config, zookeeper, cluster)

    async def work() -> int:
        async with leader_at(keeper) as leader:
            _show(await _look(leader, settings), as_json=as_json)
        return 0

    raise carry_out(work(), as_json=as_json)


@app.command("run")
def run_verb(
    config: RulesOption,
    yes: YesOption = False,
    dry_run: DryOption = False,
    as_: AsOption = "",
    limit: Annotated[int, typer.Option(help="Studies at most in this run.", min=1)] = 1000,
    zookeeper: ZooKeeperOption = "",
    cluster: ClusterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete what is due by the rules, some studies at a time; with two-person approval, make requests of it instead.

    perenne retention run --config /etc/perenne/n1.toml --limit 100

    Nothing runs by itself: put it into a timer, with --yes. After Ctrl-C give the same command again. --dry-run shows
    what this run would take: as `perenne retention plan`, but at most --limit, and whether it would be refused now.

    Exit code 0 done (also when nothing is due), 1 not all could be done, or would be, 2 bad usage,
    130 interrupted.
    """
    settings, keeper, by = _settings(config), keeper_of(config, zookeeper, cluster), person(as_)

    async def work() -> int:
        async with leader_at(keeper) as leader:
            found = await _look(leader, settings)
            found = _Found(found.before, found.due[:limit], found.held)
            now: dict[str, Any] = {"absent": [], "two_person": False}
            if found.due:
                now = await leader.ask("look", level="study", uids=[found.due[0].study.study])
            if dry_run or not as_json:
                _show(found, as_json=as_json, refused=burying.refusal(now))
            if dry_run:
                return burying.foreseen(now, as_json=as_json)
            burying.check_allowed(now)
            if found.due and not agreed(f"Delete {len(found.due)} studies?", yes=yes):
                return 1
            requests, deleted, troubles = await _run(leader, found, by, quiet=as_json)
        lines = [*troubles, *(f"kept as {request}: `perenne delete approve {request}`" for request in requests)]
        document = {"ok": not troubles, "deleted": deleted, "requests": requests, "troubles": troubles}
        text = "\n".join([*lines, f"{deleted} instances deleted, {len(requests)} requests kept"])
        say(document, text, as_json=as_json)
        return 1 if troubles else 0

    raise carry_out(work(), as_json=as_json)


async def _run(leader: Leader, found: _Found, by: str, *, quiet: bool) -> tuple[list[str], int, list[str]]:
    """Returns the requests that were kept, the instances that were deleted, and what went wrong."""
    requests: list[str] = []
    troubles: list[str] = []
    deleted = 0
    by_rule: dict[str, list[str]] = {}
    for due in found.due:
        by_rule.setdefault(due.rule, []).append(due.study.study)
    for rule, studies in by_rule.items():
        for some in (tuple(studies[at : at + AT_ONCE]) for at in range(0, len(studies), AT_ONCE)):
            request, asked_us = burying.new_request()
            try:
                now = await burying.looked(leader, "study", some, found.before)
                wanted = Wanted(
                    level="study",
                    uids=some,
                    before=found.before,
                    reason=f"retention: {rule}",
                    by=by,
                    request=request,
                    asked_us=asked_us,
                )
                if now["two_person"]:
                    await burying.ask_for_approval(leader, wanted)
                    requests.append(request)
                else:
                    deleted += await burying.bury(leader, wanted, now["instances"], quiet=quiet)
            except NotDone as error:
                troubles.append(str(error))
    return requests, deleted, troubles


# Legal hold


def _note(
    what: str, study: str, reason: str, by: str, keeper: Keeper, *, as_json: bool, absent: bool = False
) -> typer.Exit:
    """absent: whether the study need not be there."""

    async def work() -> int:
        async with leader_at(keeper) as leader:
            if what == RELEASE and study not in await _holds(leader):
                raise NotDone(f"{study} is not on hold: see `perenne retention hold list`; nothing was changed")
            if what == HOLD and not absent and not (await leader.ask("look", level="study", uids=[study]))["instances"]:
                raise NotDone(
                    f"no study {study} is stored, so nothing was put on hold: check the UID, or give"
                    " --even-if-absent to hold a study that is yet to come"
                )
            facts = {"by": by, "reason": reason, "id": secrets.token_hex(4)}
            await leader.ask("note", what=what, subject=study, facts=facts)
        done = "is on hold" if what == HOLD else "is released"
        say({"ok": True, "study": study, "held": what == HOLD}, f"{study} {done}", as_json=as_json)
        return 0

    return carry_out(work(), as_json=as_json)


@hold_app.command("add")
def hold_add(
    study: Annotated[str, typer.Argument(help="Its Study Instance UID.")],
    reason: Annotated[str, typer.Option(help="Why. Kept in the log.")],
    even_if_absent: Annotated[
        bool, typer.Option("--even-if-absent", help="Hold it although nothing of it is stored (yet, or any more).")
    ] = False,
    as_: AsOption = "",
    config: ConfigOption = None,
    zookeeper: ZooKeeperOption = "",
    cluster: ClusterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a study on legal hold: every delete that covers any of it is refused, from now on.

    perenne retention hold add 1.2.840.113619.2.1 --reason "court order 17 O 4/26"

    Exit code 0 it is on hold, 1 it is not (a UID of which nothing is stored is taken for a mistyped one), 2 bad usage.
    """
    keeper = keeper_of(config, zookeeper, cluster)
    raise _note(HOLD, study, reason, person(as_), keeper, as_json=as_json, absent=even_if_absent)


@hold_app.command("remove")
def hold_remove(
    study: Annotated[str, typer.Argument(help="Its Study Instance UID.")],
    reason: Annotated[str, typer.Option(help="Why. Kept in the log.")],
    as_: AsOption = "",
    config: ConfigOption = None,
    zookeeper: ZooKeeperOption = "",
    cluster: ClusterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Release a study from legal hold. The log keeps who did so, and why.

    Exit code 0 it is released, 1 it is not (it was not on hold, for example), 2 bad usage.
    """
    raise _note(RELEASE, study, reason, person(as_), keeper_of(config, zookeeper, cluster), as_json=as_json)


@hold_app.command("list")
def hold_list(
    config: ConfigOption = None,
    zookeeper: ZooKeeperOption = "",
    cluster: ClusterOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the studies on legal hold, with who put them there, when and why."""
    keeper = keeper_of(config, zookeeper, cluster)

    async def work() -> int:
        async with leader_at(keeper) as leader:
            held = await _holds(leader)
        lines = [f"{h['study']}  since {h['since']}, {h['by']}: {h['reason']}" for h in held.values()]
        say({"holds": list(held.values())}, "\n".join(lines) or "nothing is on hold", as_json=as_json)
        return 0

    raise carry_out(work(), as_json=as_json)


async def _holds(leader: Leader) -> dict[str, dict[str, Any]]:
    """The studies on hold, as the notes in the log say."""
    held: dict[str, dict[str, Any]] = {}
    after = 0
    while notes := (await leader.ask("notes", what=[HOLD, RELEASE], after=after))["notes"]:
        after = notes[-1][0]
        for _, time_us, what, study, facts in notes:
            held.pop(study, None)
            if what == HOLD:
                since = datetime.fromtimestamp(time_us / 1e6, UTC).date().isoformat()
                held[study] = {"study": study, "since": since, "by": facts["by"], "reason": facts["reason"]}
    return held
