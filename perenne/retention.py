"""Which studies may go by their age: the rules of the `[retention]` section, and what a study is by them. Pure."""

import re
from collections.abc import Collection, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from storage.listing import StudyAge

if TYPE_CHECKING:
    from perenne.config import Config

ONE_PERSON: Final = "one-person"
TWO_PERSON: Final = "two-person"
_AGE: Final = re.compile(r"(\d{1,5})([dy])")
_KEYS: Final = ("modality", "age", "since", "ae")
_EXAMPLE: Final = 'Write rules such as "modality=US,OT age=10y since=study; modality=SC age=90d since=arrival".'


class Rule(Struct, frozen=True):
    """A study fits when every modality and sender of it is named (an empty tuple names all) and it is old enough.

    since: `study` (the study date) or `arrival` (the last instance of it). text: as it is written.
    """

    text: str
    modalities: tuple[str, ...]
    sources: tuple[str, ...]
    days: int
    since: str


class RuleUnfit(ValueError):
    """A rule that means nothing; says which and why."""


def parse_rules(text: str) -> tuple[Rule, ...]:
    """Read the rules of a configuration. Raises RuleUnfit.

    >>> [(rule.modalities, rule.days, rule.since) for rule in parse_rules("modality=US,OT age=2y since=study")]
    [(('OT', 'US'), 731, 'study')]
    """
    return tuple(_rule(part.strip()) for part in text.split(";") if part.strip())


def _rule(text: str) -> Rule:
    found: dict[str, str] = {}
    for word in text.split():
        key, equals, value = word.partition("=")
        if not equals or not value or key not in _KEYS or key in found:
            raise RuleUnfit(f"{word!r} in {text!r} is none of modality=, age=, since= and ae=, each once")
        found[key] = value
    age = _AGE.fullmatch(found.get("age", ""))
    if age is None or not int(age[1]):
        raise RuleUnfit(f"{text!r} has no age, such as age=10y or age=90d")
    if found.get("since") not in ("study", "arrival"):
        raise RuleUnfit(f"{text!r} does not say since=study or since=arrival")
    # A year is never taken for shorter than it is: the longer reading keeps what is in doubt.
    days = int(age[1]) if age[2] == "d" else -(-int(age[1]) * 1461 // 4)
    modalities, sources = (
        tuple(sorted(part for part in found.get(key, "").split(",") if part)) for key in ("modality", "ae")
    )
    return Rule(text, modalities, sources, days, found["since"])


def fitting(study: StudyAge, rules: Collection[Rule], grace_days: int, now: datetime) -> Rule | None:
    """The rule by which a study may go; None when it stays. What is in doubt stays: no date, a sender unnamed."""
    arrived = datetime.fromtimestamp(study.arrived_us / 1_000_000, UTC)
    if not study.study or now - arrived < timedelta(days=grace_days):
        return None
    for rule in rules:
        named = _all_named(study.modalities, rule.modalities) and _all_named(study.sources, rule.sources)
        begun = arrived.date() if rule.since == "arrival" else _study_date(study.study_date)
        if named and begun is not None and (now.date() - begun).days >= rule.days:
            return rule
    return None


def _all_named(values: Collection[str], names: Collection[str]) -> bool:
    return not names or (bool(values) and all(value in names for value in values))


def _study_date(text: str) -> date | None:
    """A date of VR DA; None when it is none, or lies in the future of the calendar."""
    try:
        return datetime.strptime(text, "%Y%m%d").replace(tzinfo=UTC).date()
    except ValueError:
        return None


def retention_findings(config: "Config") -> Iterator[tuple[str, str, str]]:
    """Everything that cannot work, as (key, cause, next step)."""
    retention = config.retention
    if retention.approval not in (ONE_PERSON, TWO_PERSON):
        yield "retention.approval", f"{retention.approval!r} is no approval", f"Use {ONE_PERSON} or {TWO_PERSON}."
    if not 0 <= retention.grace_days <= 36_500:
        yield "retention.grace_days", f"{retention.grace_days} is outside of 0 to 36500", "30 is the default."
    if not 0 <= retention.undo_days <= 36_500:
        yield "retention.undo_days", f"{retention.undo_days} is outside of 0 to 36500", "30 is the default."
    try:
        parse_rules(retention.rules)
    except RuleUnfit as error:
        yield "retention.rules", str(error), _EXAMPLE
