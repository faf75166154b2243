"""`perenne drill`: restore something from the tier, prove it, and throw it away: how long would the real thing take?"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from perenne.cli import INTERRUPTED
from perenne.cli.tier import ConfigOption, JsonOption


def drill_verb(
    config: ConfigOption,
    newest: Annotated[int, typer.Option(help="Restore the newest N objects of the tier.", metavar="N")] = 0,
    sample: Annotated[
        int,
        typer.Option(
            help="Draw N records at random and restore the objects that hold them, whole: at most N, fewer where"
            " several records share one. What is done when nothing is chosen, with N = 20.",
            metavar="N",
        ),
    ] = 0,
    everything: Annotated[bool, typer.Option("--all", help="Restore everything. Needs room for the archive.")] = False,
    scratch: Annotated[
        Path | None, typer.Option(help="Where the scratch place is made; else beside data_dir. Removed at the end.")
    ] = None,
    node: Annotated[
        list[str] | None, typer.Option(help="http://HOST:PORT of a node to compare with; may be given again.")
    ] = None,
    result: Annotated[
        Path | None, typer.Option(help="Directory for drill.json; else data_dir, where the node shows it as metrics.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Practise the road back, as often as you like: the cluster runs on, and the tier is only read.

    A sample every night:           perenne drill -c node.toml --sample 20 --node localhost:8080
    Everything, once in a while:    perenne drill -c node.toml --all --scratch /mnt/large

    What is restored is verified (every digest, the chain), read back from the scratch place, compared with what the
    nodes serve, and removed. The report says how fast it was, and how long the whole archive would take. The node on
    this data_dir exports it: perenne_drill_last_success_timestamp_seconds and its companions.

    It is a measurement: one that is interrupted begins anew.

    Exit code 0 the drill passed, 1 a restore would not bring everything back, a node that was named could not be
    compared with (what was restored is proved then), or it had to stop, 2 bad usage, 130 interrupted.
    """
    from perenne.cli.bar import Bar
    from perenne.cli.usage import fail, read_config
    from perenne.drill import Drill, Outcome, carried_out, note
    from perenne.restoring import patient
    from replication.tier.port import Refused, TierError
    from storage.errors import StorageError

    settings = read_config(config)
    if not settings.tier.on:
        raise fail("no tier is configured: write a [tier] section, see docs/tier.md", 2)
    if (newest > 0) + (sample > 0) + everything > 1 or newest < 0 or sample < 0:
        raise fail("choose one of --newest N, --sample N and --all", 2)
    data_dir = settings.node.data_dir
    beside = data_dir.parent if data_dir.parent.is_dir() else Path.cwd()
    drill = Drill(
        everything=everything,
        newest=newest,
        sample=sample or (0 if newest or everything else 20),
        scratch=scratch or beside,
        nodes=node or (),
    )
    keep = result or (data_dir if data_dir.is_dir() else None)
    outcome: Outcome | None = None
    why = ""

    async def run() -> Outcome:
        store = patient(settings)
        try:
            with Bar("drill", quiet=as_json) as bar:
                return await carried_out(settings, drill, store, bar)
        finally:
            await store.close()

    try:
        outcome = asyncio.run(run())
    except Refused as error:
        raise fail(str(error), 2) from error
    except (TierError, StorageError, OSError) as error:
        why = str(error)
    except KeyboardInterrupt as error:
        raise fail("interrupted; the scratch place is removed, and nothing was noted", INTERRUPTED) from error
    unnoted = ""
    if keep is not None:
        try:
            note(outcome, keep)
        except (OSError, StorageError) as error:
            unnoted = f"the result could not be noted, and no metric shows it: {error}"
    if outcome is None:
        if as_json:
            sys.stdout.write(json.dumps({"passed": False, "cause": why}) + "\n")
        raise fail(f"the drill stopped: {why}")
    sys.stdout.write((json.dumps(outcome.document(), indent=2) if as_json else outcome.text()) + "\n")
    if unnoted:
        raise fail(unnoted)
    if not outcome.passed:
        raise typer.Exit(1)
