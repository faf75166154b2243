"""A node comes into the cluster, goes out of it, or comes back with a new disk: what is checked and watched."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from perenne.config import Config
from perenne.survey import Reach
from replication.coordination.surgery import Found
from replication.core.values import TIER_MEMBER, Member, ReplicaId

PATHS: Final = (("tier", "directory"), ("tier", "ca_file"), ("tier", "credentials_file"))


LISTENING: Final = ("peer", "dimse", "http")
ANY: Final = ("0.0.0.0", "::")
LOOPBACK: Final = ("127.0.0.1", "localhost")
EVERYWHERE: Final = (*ANY, *LOOPBACK)
"""Addresses to listen on that a new node may have as well as its model."""


class NotPossible(Exception):
    """Why it is refused, and what to do instead."""


# A configuration after a model


def configuration(
    model: str, settings: Config, name: str, data_dir: Path, advertise_host: str, ports: Mapping[str, int]
) -> str:
    """The model's TOML with another node's id, data directory and addresses; relative paths become whole."""
    tables: dict[str, Any] = tomllib.loads(model)
    for section, key in PATHS:
        if key in tables.get(section, {}):
            tables[section][key] = str(Path(getattr(getattr(settings, section), key)).absolute())
    tables.setdefault("node", {}).update(id=name, data_dir=str(data_dir))
    for section in LISTENING:
        host = tables.get(section, {}).get("host", EVERYWHERE[0])
        if host not in EVERYWHERE:
            if not advertise_host:
                raise NotPossible(
                    f"the model listens on {host} ([{section}] host): give --advertise-host for the new node"
                )
            tables[section]["host"] = advertise_host
    for section, port in ports.items():
        tables.setdefault(section, {})["port"] = port
    tables.setdefault("peer", {}).pop("advertise_host", None)
    if advertise_host:
        tables["peer"]["advertise_host"] = advertise_host
    return f"# Written by perenne node add {name}.\n" + "".join(_table(key, value) for key, value in tables.items())


def _table(name: str, value: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(value, Mapping):
        return f"\n[{name}]\n{_pairs(value)}"
    return "".join(f"\n[[{name}]]\n{_pairs(entry)}" for entry in value)


def _pairs(values: Mapping[str, Any]) -> str:
    # A TOML value that our configuration has (text, number, truth, list of those) is written as JSON is.
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())


# What is there


@dataclass(frozen=True, slots=True)
class Progress:
    """Of a node that is on its way into the set. held, total: records; None before the leader speaks of it."""

    incarnation: str
    in_sync: bool
    held: int | None
    total: int | None


def members(found: Found) -> frozenset[Member]:
    return found.state.state.in_sync if found.state is not None else frozenset()


def running(found: Found, name: str) -> Member | None:
    """The node as it runs now, by its own announcement."""
    live = found.live.get(ReplicaId(name))
    return live.identity.member if live is not None else None


def answers(reach: Reach, found: Found, name: str) -> bool:
    """Whether the node runs: what it announced outlives it by a session time-out."""
    live = found.live.get(ReplicaId(name))
    return live is not None and reach.fetched(live, "/standing") is not None


def leader_status(reach: Reach, found: Found) -> dict[str, Any]:
    """What the leader says of itself. Raises NotPossible."""
    live = found.live.get(found.leader.id) if found.leader is not None else None
    facts = reach.fetched(live, "/status") if live is not None else None
    if facts is None:
        raise NotPossible("nobody leads, or the leader does not answer: see `perenne status`, and mend that first")
    return facts


def progress(reach: Reach, found: Found, name: str) -> Progress | None:
    """How far a node has come; None while it does not run under an incarnation that may take part."""
    member = running(found, name)
    registration = found.registrations.get(ReplicaId(name))
    if member is None or registration is None or registration.bars(member.incarnation):
        return None
    held = total = None
    try:
        facts = leader_status(reach, found)
        total = int(facts["positions"]["end"])
        lags = {lag["replica"]: int(lag["records"]) for lag in facts["lags"]}
        held = total - lags[name] if name in lags else None
    except NotPossible:
        pass  # it is watched on: a leader may be elected this very moment
    return Progress(member.incarnation, member in members(found), held, total)


# What is allowed


@dataclass(frozen=True, slots=True)
class Place:
    """Where a new node is to live. host: as it will announce itself; empty when only its own machine knows. here:
    whether that is the machine of the model, so that its directories are those that can be seen from here.
    """

    data_dir: Path
    host: str
    ports: Mapping[str, int]
    here: bool


def place_of(settings: Config, data_dir: Path, advertise_host: str, ports: Mapping[str, int]) -> Place:
    """Of a node after this model."""
    model = settings.peer.advertise_host or settings.peer.host
    host = advertise_host or ("" if settings.peer.host in ANY else settings.peer.host)
    taken = {"peer": settings.peer.port, "dimse": settings.dimse.port, "http": settings.http.port, **ports}
    return Place(data_dir, host, taken, here=host in (model, *LOOPBACK))


def check_add(found: Found, name: str, model: Config, place: Place) -> None:
    """Raises NotPossible."""
    if found.cluster is None:
        raise NotPossible("ZooKeeper knows no cluster yet: start the first nodes with their own configuration")
    known = found.registrations.get(ReplicaId(name))
    if known is not None and not known.retired:  # one that was retired may come back, with an empty disk
        raise NotPossible(f"{name} is registered already: a lost disk is `perenne node replace {name}`")
    if len(set(place.ports.values()) - {0}) < sum(port != 0 for port in place.ports.values()):
        raise NotPossible(f"one port twice ({_told(place.ports)}): give --dicom-port, --http-port and --peer-port")
    for node in found.live.values():
        theirs = {node.peer_port, node.dicom_port, node.http_port} - {0}
        if node.host == place.host and (both := theirs & set(place.ports.values())):
            raise NotPossible(
                f"{node.identity.id} runs on {node.host} with port {min(both)} already: give {name} ports of its own"
                " (--dicom-port, --http-port, --peer-port), or, on another machine, its --advertise-host"
            )
    if place.here and (why := _taken(place.data_dir, model.node.data_dir)):
        raise NotPossible(f"{place.data_dir} {why}: give {name} an empty --data-dir of its own")


def _told(ports: Mapping[str, int]) -> str:
    return ", ".join(f"{section} {port}" for section, port in ports.items())


def _taken(directory: Path, model: Path) -> str:
    """Why a directory of this machine is not free; empty when it is."""
    if directory.resolve() == model.resolve():
        return "is the model's own"
    try:
        owner = json.loads((directory / "node.json").read_text())["node_id"]
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"holds a node.json that cannot be read ({error})"
    return f"belongs to node {owner}"


def check_replace(reach: Reach, found: Found, name: str) -> Member | None:
    """The incarnation to be barred; None where the node runs already, and is only to be watched. Raises NotPossible."""
    registration = found.registrations.get(ReplicaId(name))
    if registration is None:
        raise NotPossible(f"no node {name} is registered: {_known(found)}")
    if answers(reach, found, name):
        return None
    old = Member(registration.id, registration.incarnation)
    others = members(found) - {old}
    up = [m for m in others if m == TIER_MEMBER or (m.id in found.live and found.live[m.id].identity.member == m)]
    if not up:
        raise NotPossible(
            f"no other replica in sync runs: the disk of {name} may hold what nobody else has. Start another one; if"
            " they are lost for good, see `perenne failover --help`"
        )
    return None if registration.retired else old


def check_retire(reach: Reach, found: Found, name: str) -> Member:
    """Who is to be retired. Raises NotPossible."""
    registration = found.registrations.get(ReplicaId(name))
    if registration is None:
        raise NotPossible(f"no node {name} is registered: {_known(found)}")
    who = running(found, name) or Member(registration.id, registration.incarnation)
    facts = leader_status(reach, found)
    tier: Mapping[str, Any] = facts["tier"] or {}
    left = {m.id for m in members(found) - {who} if m != TIER_MEMBER and m.id in found.live}
    left |= {TIER_MEMBER.id} if tier.get("usable") else set[ReplicaId]()
    required = int(facts["copies_required"])
    if len(left) < required:
        raise NotPossible(
            f"only {len(left)} of {required} copies would be left ({', '.join(sorted(left)) or 'none'}): add another"
            f" node first (`perenne node add`), or wait until one is in sync"
        )
    if running(found, name) is None and who in members(found):
        raise NotPossible(f"{name} does not run, and is still named in sync: wait until the leader does without it")
    return who


def _known(found: Found) -> str:
    return f"there are {', '.join(sorted(found.registrations)) or 'none'}"
