"""`perenne certs`: a private authority and the certificates of the nodes, in one command."""

import json
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from perenne.authority import AUTHORITY, AUTHORITY_KEY, CERTIFICATE, KEY, AuthorityUnusable, authority_in
from perenne.first_secret import SECRET, clashing, fill_secret
from perenne.hostnames import never_matches

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
SecretOption = Annotated[bool, typer.Option("--secret", help="All of it in DIRECTORY/secret too, for the Helm chart.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For scripts: one JSON document.")]


def certs(
    directory: Annotated[Path, typer.Argument(help="Where the authority lies, or is to be made.")],
    nodes: Annotated[list[str], typer.Argument(help="The id of each node; NAME=HOST,HOST adds names and addresses.")],
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long a node's certificate is valid.")] = 825,
    secret: SecretOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a private authority and one certificate for each node; with an authority that is there, new certificates.

    Example: `perenne certs /root/perenne-ca n1=10.0.0.1 n2=10.0.0.2 n3=10.0.0.3`. Copy the directory of each node to
    that node, and name its files in the section "tls". Keep authority-key.pem off the nodes. Run it again before the
    certificates end, and copy again: a running node takes up new files within seconds.

    --secret is for the Helm chart, which says what to type: `kubectl create secret generic NAME
    --from-file=DIRECTORY/secret`. It also holds a token for HTTP and a user of ZooKeeper, made by chance once and kept.

    Exit code 0 made, 1 the directory cannot be used, 2 a name that nobody could ask for; then nothing was made.
    """
    wanted, wrong = _wanted(nodes, {AUTHORITY, AUTHORITY_KEY, *([SECRET] if secret else [])})
    if secret and not wrong and (cause := clashing(wanted)) is not None:
        wrong = [cause]
    for cause in wrong:
        sys.stderr.write(f"perenne: {cause}\n")
    if wrong:
        raise typer.Exit(2)
    try:
        authority = authority_in(directory)
        made = {name: authority.issue(name, hosts, days) for name, hosts in wanted.items()}
        filled = fill_secret(directory, made) if secret else None
    except AuthorityUnusable as error:
        sys.stderr.write(f"perenne: {error}\n")
        raise typer.Exit(1) from error
    if as_json:
        own_places = {name: str(own) for name, own in made.items()}
        facts: dict[str, object] = {"authority": str(directory / AUTHORITY), "nodes": own_places}
        if filled is not None:
            facts["secret"] = str(filled)
        typer.echo(json.dumps(facts, indent=2))
        return
    typer.echo(f"{'made' if authority.fresh else 'used'} the authority in {directory}")
    if authority.fresh:
        typer.echo(f"keep {directory / AUTHORITY_KEY} where no node can read it")
    if filled is not None:
        typer.echo(f"\nfor Kubernetes, and then keep {directory} elsewhere:\n")
        typer.echo(f"kubectl create secret generic perenne-secrets --from-file={filled}")
        return
    for name, own in made.items():
        typer.echo(f"\nfor node {name}, in its configuration (with the paths on that machine):\n\n[tls]")
        for key, file in (("authority_file", AUTHORITY), ("certificate_file", CERTIFICATE), ("key_file", KEY)):
            typer.echo(f'{key} = "{own / file}"')


def _wanted(nodes: list[str], taken: set[str]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Hosts by node, and everything that is wrong. taken: names of other things in the directory."""
    wanted: dict[str, tuple[str, ...]] = {}
    wrong: list[str] = []
    for entry in nodes:
        name, equals, text = entry.partition("=")
        hosts = tuple(text.split(",")) if equals else ()
        if not _NAME.fullmatch(name) or name in taken:
            step = 'use letters, digits, "-", "_" and ".", at most 32, as in [node] id'
            wrong.append(f"{name!r} cannot name a node: {step}")
        elif name in wanted:
            wrong.append(f"{name} is named twice: write all its hosts behind one =, as in {name}=HOST,HOST")
        wrong += [f"{name}: {cause}" for cause in map(never_matches, hosts) if cause is not None]
        wanted[name] = hosts
    return wanted, wrong
