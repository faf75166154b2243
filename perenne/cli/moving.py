"""`perenne import` and `perenne export`: what they are asked for; the work is imported when one of them runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def import_verb(
    paths: Annotated[list[Path], typer.Argument(help="Directories, files, tar or zip archives.")],
    to: Annotated[list[str] | None, typer.Option("--to", help="HOST:PORT of a node's DICOM port; repeat it.")] = None,
    cluster: Annotated[Path | None, typer.Option(help="A cluster.json instead of --to and --url.")] = None,
    called_ae: Annotated[str, typer.Option(help="AE title of the archive.")] = "PERENNE",
    calling_ae: Annotated[str, typer.Option(help="AE title to come as; it is kept with every instance.")] = "IMPORT",
    journal: Annotated[Path, typer.Option(help="What was acknowledged, as JSON lines; made when absent.")] = Path(
        "perenne-import.jsonl"
    ),
    associations: Annotated[int, typer.Option(min=1, max=64, help="How many at once.")] = 4,
    rate: Annotated[float | None, typer.Option(min=0.001, help="At most so many MB (10^6 bytes) per second.")] = None,
    verify: Annotated[str, typer.Option(help="Afterwards, read back from every node: all, or so many at random.")] = "",
    url: Annotated[list[str] | None, typer.Option("--url", help="http://HOST:PORT of a node, for --verify.")] = None,
    largest: Annotated[float, typer.Option(min=0.001, help="GiB that one instance may have at most.")] = 16.0,
    patience: Annotated[float, typer.Option(min=0, help="Seconds to go on trying when nothing is taken.")] = 300.0,
    work: Annotated[Path | None, typer.Option(help="Where large members of archives are unpacked.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read everything, send nothing, say what is there.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts: one JSON document.")] = False,
) -> None:
    """Bring an existing archive into a running cluster by C-STORE: each Success is the cluster's promise.

        perenne import /mnt/old-pacs --to n1:11112 --to n2:11112 --journal old-pacs.jsonl --verify 1000 --url http://n1:8080

    Reads trees of Part 10 files under any names, dcm4chee's and Orthanc's storage (compressed or not), and tar (also
    .tar.gz) and zip archives, told apart by their content. Data sets are sent as they are stored, byte for byte. The
    source is only read.

    Interrupted? Run the same command again: what the journal says was acknowledged is not sent again. Afterwards,
    `perenne check-journal JOURNAL URL…` proves that the archive keeps it all. What was left out is named with its
    reason in JOURNAL.left-out; files that are not DICOM are listed there and are no error.

    Exit code 0 everything is in, 1 something was refused or unreadable, or does not verify, or the cluster stopped
    taking; 2 bad usage; 130 interrupted.
    """
    from perenne.cli.importing import BadUsage, Wishes, bring
    from perenne.cli.status import NoCluster
    from perenne.journal import JournalUnreadable
    from perenne.moving.known import InUse

    wishes = Wishes(
        paths=paths,
        to=to or [],
        cluster=cluster,
        called_ae=called_ae,
        calling_ae=calling_ae,
        journal=journal,
        associations=associations,
        rate=rate,
        verify=verify,
        url=url or [],
        largest=largest,
        patience=patience,
        work=work,
        dry_run=dry_run,
        as_json=as_json,
    )
    try:
        code = bring(wishes)
    except (BadUsage, NoCluster, InUse, JournalUnreadable, OSError) as error:
        sys.stderr.write(f"perenne: {error}\n")
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        sys.stderr.write(f"perenne: interrupted; the same command goes on from {journal}\n")
        raise typer.Exit(130) from None
    raise typer.Exit(code)
