"""`perenne tier`: try out the bucket or directory that is to hold the second copy, and look into it."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from perenne.cli.orphans import CommittedLog, Judged, document, survey
from perenne.config import ConfigError, TierConfig
from perenne.config_reading import load_config
from perenne.config_tier import blocking_store, no_second_copy, patient_store
from replication.tier.directory import SENTINEL, DirectoryStore
from replication.tier.keys import Run
from replication.tier.port import BlockingStore, TierError
from replication.tier.probe import ProbeResult, Verdict, probe, synchronous_refusal
from storage.errors import FormatError

app = typer.Typer(no_args_is_help=True)
ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The node's TOML file, with its tier section.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For scripts: one JSON document.")]
FILE_WIDTH = 160
_COLOUR = {Verdict.PASSED: "green", Verdict.FAILED: "red", Verdict.NOT_TRIED: "yellow"}


@app.command("probe")
def probe_verb(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Try out what the tier promises, on a few small objects below `probe/` that are removed again.

    Base probes decide whether an acknowledgement may rest on this store (`tier.mode = "synchronous"`): that what was
    confirmed comes back, whole and in part, that LIST shows it at once, and that bytes which were damaged on the way
    are refused. The others are a second belt. Whether a confirmed object has reached a disk no client can see: make
    that sure where the store runs (docs/tier.md).

    Exit code 0 everything passed, 1 something failed, 2 bad usage or configuration. Safe at any time, also while nodes
    run. When the store refuses the key, or there is no bucket yet, the table names the next step; a directory must have
    been marked by `perenne tier prepare` before.
    """
    settings, store = _opened(config)
    result = asyncio.run(_probed(settings, store))
    if as_json:
        typer.echo(json.dumps(result.document(), indent=2))
    else:
        _show(result)
    raise typer.Exit(0 if result.passed else 1)


@app.command("prepare")
def prepare_verb(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The node's TOML file, with its tier section.")
    ] = None,
    directory: Annotated[
        Path | None, typer.Option("--directory", help="A directory instead of a configuration.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a tier ready, once: the bucket where there is none, or the mark of a directory.

    The mark, a file `.perenne-tier`, is how a node tells a mounted SAN from an empty mount point: without it the tier
    counts as away, never as an empty archive. So run this once, with the right thing mounted. A bucket is made with
    object lock when `tier.object_lock_days` is set (not every store can add it later). Nothing that exists is changed.

    Exit code 0 it is ready, 1 it could not be made ready, 2 bad usage or configuration.
    """
    if (config is None) == (directory is None):
        sys.stderr.write("perenne: give --config FILE, or --directory DIRECTORY\n")
        raise typer.Exit(2)
    store = _opened(config)[1] if config is not None else DirectoryStore(directory or Path())
    try:
        done = store.prepare()
    except TierError as error:
        if as_json:
            typer.echo(json.dumps({"ok": False, "cause": error.cause, "next_step": error.next_step}))
        else:
            sys.stderr.write(f"perenne: {error}\n")
        raise typer.Exit(1) from error
    finally:
        store.close()
    why = no_second_copy(load_config(config, os.environ, disk=False)) if config is not None else ""
    typer.echo(json.dumps({"ok": True, "done": done, "no_second_copy": why}) if as_json else done)
    if why and not as_json:
        sys.stderr.write(
            f"perenne: {why}. Is the right thing mounted? If not, take {SENTINEL} away again, and mount it\n"
        )


@app.command("orphans")
def orphans_verb(config: ConfigOption, as_json: JsonOption = False) -> None:
    """List objects of dead branches: a deposed leader put them, and nobody acknowledged what only they hold.

    They never surface: a takeover and a restore follow the chain past them. They cost space, and are evidence. What
    they are is judged by the log in this node's data directory, up to what the node knows to be committed; the node may
    be running. Objects above that are counted as undecided: ask again, or on another node. Nothing is changed.

    Example: perenne tier orphans --config /etc/perenne/n1.toml --json

    Exit code 0 the tier was listed, 1 it does not answer, 2 bad usage or configuration.
    """
    settings, store = _opened(config)
    directory = load_config(config, os.environ, disk=False).node.data_dir
    try:
        log = CommittedLog(directory)
    except (OSError, FormatError) as error:
        sys.stderr.write(f"perenne: {directory} is no data directory of a node: {error}\n")
        raise typer.Exit(2) from error
    try:
        found, sizes = asyncio.run(_surveyed(settings, store, log))
    except TierError as error:
        sys.stderr.write(f"perenne: {error}\n")
        raise typer.Exit(1) from error
    facts = document(found, sizes, log)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    for run, size in sizes.items():
        typer.echo(f"{run.key}  {size} bytes")
    typer.echo(f"{len(sizes)} orphans of {facts['objects']} objects; {len(found.undecided)} not decided yet")


async def _surveyed(settings: TierConfig, blocking: BlockingStore, log: CommittedLog) -> tuple[Judged, dict[Run, int]]:
    store = patient_store(settings, blocking)
    try:
        return await survey(store, log)
    finally:
        await store.close()


def _opened(config: Path) -> tuple[TierConfig, BlockingStore]:
    """Raises typer.Exit when the configuration does not describe a tier."""
    try:
        settings = load_config(config, os.environ, disk=False).tier
        return settings, blocking_store(settings, os.environ)
    except (ConfigError, TierError) as error:
        sys.stderr.write(f"perenne: {error}\n")
        raise typer.Exit(2) from error


async def _probed(settings: TierConfig, blocking: BlockingStore) -> ProbeResult:
    store = patient_store(settings, blocking)
    try:
        return await probe(store, blocking.description)
    finally:
        await store.close()


def _show(result: ProbeResult) -> None:
    table = Table("probe", "base", "result", "ms", Column("found", overflow="fold"), title=escape(result.store))
    for line in result.lines:
        colour = _COLOUR[line.verdict]
        found = "\n".join(escape(text) for text in (line.found, line.means, line.next_step) if text)
        word = f"[{colour}]{line.verdict.value}"
        table.add_row(line.probe.value, "base" if line.base else "", word, f"{line.milliseconds:.0f}", found)
    console = Console()
    if not console.is_terminal:
        console = Console(width=FILE_WIDTH)
    console.print(table)
    refusal = synchronous_refusal(result)
    console.print("synchronous use: allowed" if refusal is None else escape(f"synchronous use: refused ({refusal})"))
