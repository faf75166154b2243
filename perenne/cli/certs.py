"""`perenne certs`: a private authority and the certificates of the nodes, in one command."""

import json
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from perenne.authority import AUTHORITY, AUTHORITY_KEY, CERTIFICATE, KEY, AuthorityUnusable, authority_in

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
JsonOption = Annotated[bool, typer.Option("--json", help="For scripts: one JSON document.")]


def certs(
    directory: Annotated[Path, typer.Argument(help="Where the authority lies, or is to be made.")],
    nodes: Annotated[list[str], typer.Argument(help="The id of each node; NAME=HOST,HOST adds names and addresses.")],
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long a node's certificate is valid.")] = 825,
    as_json: JsonOption = False,
) -> None:
    """Make a private authority and one certificate for each node; with an authority that is there, new certificates.

    Example: `perenne certs /root/perenne-ca n1=10.0.0.1 n2=10.0.0.2 n3=10.0.0.3`. Copy the directory of each node to
    that node, and name its files in the section "tls". Keep authority-key.pem off the nodes. Run it again before the
    certificates end, and copy again: a running node takes up new files within seconds.
    """
    wanted: dict[str, tuple[str, ...]] = {}
    for entry in nodes:
        name, _, hosts = entry.partition("=")
        if not _NAME.fullmatch(name) or name in wanted:
            sys.stderr.write(f"perenne: {name!r} cannot name a node, or is named twice\n")
            raise typer.Exit(2)
        wanted[name] = tuple(host for host in hosts.split(",") if host)
    try:
        authority = authority_in(directory)
        made = {name: authority.issue(name, hosts, days) for name, hosts in wanted.items()}
    except (AuthorityUnusable, OSError, ValueError) as error:
        sys.stderr.write(f"perenne: {error}\n")
        raise typer.Exit(1) from error
    if as_json:
        facts = {"authority": str(directory / AUTHORITY), "nodes": {name: str(own) for name, own in made.items()}}
        typer.echo(json.dumps(facts, indent=2))
        return
    typer.echo(f"{'made' if authority.fresh else 'used'} the authority in {directory}")
    if authority.fresh:
        typer.echo(f"keep {directory / AUTHORITY_KEY} where no node can read it")
    for name, own in made.items():
        typer.echo(f"\nfor node {name}, in its configuration (with the paths on that machine):\n\n[tls]")
        for key, file in (("authority_file", AUTHORITY), ("certificate_file", CERTIFICATE), ("key_file", KEY)):
            typer.echo(f'{key} = "{own / file}"')
