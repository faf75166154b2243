"""`perenne import` and `perenne export`: what they are asked for; the work is imported when one of them runs."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from perenne.cli import INTERRUPTED
from perenne.config import ConfigError
from perenne.config_reading import load_config
from perenne.nodeaccess import NodeAccess

AccessOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="A node's TOML file, for the token and TLS of --url.")
]


def _access(config: Path | None) -> NodeAccess:
    """Raises typer.Exit when the configuration cannot be read."""
    if config is None:
        return NodeAccess()
    try:
        return NodeAccess.of(load_config(config, os.environ, disk=False))
    except (ConfigError, OSError, ValueError) as error:
        sys.stderr.write(f"perenne: {error}\n")
        raise typer.Exit(2) from error


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
    config: AccessOption = None,
    largest: Annotated[float, typer.Option(min=0.001, help="GiB that one instance may have at most.")] = 16.0,
    patience: Annotated[float, typer.Option(min=0, help="Seconds to go on trying when nothing is taken.")] = 300.0,
    same_archive: Annotated[
        bool, typer.Option("--same-archive", help="The journal is of this archive, though other nodes acknowledged.")
    ] = False,
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
    taking, or no DICOM file is there at all; 2 bad usage; 130 interrupted.
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
        access=_access(config),
        largest=largest,
        patience=patience,
        work=work,
        same_archive=same_archive,
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
        raise typer.Exit(INTERRUPTED) from None
    raise typer.Exit(code)


def export_verb(
    to: Annotated[str, typer.Argument(help="A folder, made when absent; or a zip, or - for standard output.")],
    directory: Annotated[
        list[Path] | None, typer.Option("--from", help="A node's data directory (it may be running); repeat it.")
    ] = None,
    url: Annotated[list[str] | None, typer.Option("--url", help="http://HOST:PORT of a node; repeat it.")] = None,
    cluster: Annotated[Path | None, typer.Option(help="A cluster.json instead of --url.")] = None,
    config: AccessOption = None,
    kind: Annotated[str, typer.Option("--as", help="files, zip or dicomdir.")] = "files",
    study: Annotated[list[str] | None, typer.Option(help="Study Instance UID; repeat it.")] = None,
    series: Annotated[list[str] | None, typer.Option(help="Series Instance UID; repeat it.")] = None,
    instance: Annotated[list[str] | None, typer.Option(help="SOP Instance UID; repeat it.")] = None,
    patient_id: Annotated[str, typer.Option(help="Patient ID, exactly.")] = "",
    accession: Annotated[str, typer.Option(help="Accession Number, exactly.")] = "",
    study_date: Annotated[str, typer.Option(help="YYYYMMDD-YYYYMMDD; either may be left out.")] = "",
    modality: Annotated[str, typer.Option(help="Modality, such as CT.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Everything.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how much there is, write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts: one JSON document.")] = False,
) -> None:
    """Get images out as DICOM files: from data directories, also with no node running, or from a running cluster.

        perenne export /mnt/usb --from /var/lib/perenne --study 1.2.840.113619.2.1 --as dicomdir

        perenne export out --url http://n1:8080 --url http://n2:8080 --patient-id 4711 --study-date 20240101-20241231

    Every instance is compared with its digest before it is written. What is damaged is named and left out, never
    written silently; given several sources, it is taken from the next that has it whole. Both versions of a UID that
    came with two contents are written. Nothing is overwritten: what is there already with the right digest is skipped,
    so an export that was interrupted goes on (a zip begins anew); another file of that name is named.
    --from reads the log, which also has what was deleted: it is written like the rest. --url leaves it out.

    Exit code 0 everything that is wanted was written, 1 something was left out, or there was nothing of a UID that was
    asked for, or nothing at all, 2 bad usage, 130 interrupted.
    """
    from perenne.cli.exporting import BadUsage, Wishes, take_out
    from perenne.cli.status import NoCluster
    from perenne.moving.remote import NoList
    from perenne.moving.selection import BadSelection
    from perenne.moving.targets import NotWritten

    wishes = Wishes(
        to=to,
        kind=kind,
        directories=directory or [],
        url=url or [],
        cluster=cluster,
        access=_access(config),
        study=study or [],
        series=series or [],
        instance=instance or [],
        patient_id=patient_id,
        accession=accession,
        study_date=study_date,
        modality=modality,
        everything=everything,
        dry_run=dry_run,
        as_json=as_json,
    )
    try:
        code = take_out(wishes)
    except (BadUsage, BadSelection, NoCluster) as error:
        sys.stderr.write(f"perenne: {error}\n")
        raise typer.Exit(2) from error
    except (NoList, NotWritten, OSError) as error:
        sys.stderr.write(f"perenne: {error}\n")
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        sys.stderr.write("perenne: interrupted; the same command goes on\n")
        raise typer.Exit(INTERRUPTED) from None
    raise typer.Exit(code)
