"""The chart as Kubernetes would be given it: cases, their renderings, and the documents inside."""

import os
import shutil
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import helm_python
import yaml

ROOT: Final = Path(__file__).resolve().parent.parent.parent
CHART: Final = ROOT / "helm" / "perenne"
OWN: Final = Path(__file__).resolve().parent
GOLDEN: Final = OWN / "golden"
NAMESPACE: Final = "pacs"
SECRETS: Final = "perenne-secrets"
LOCKED: Final[dict[str, Any]] = {"tls": {"secretName": SECRETS}}
"""The secret that the chart tells people to make, and that no preset can name."""
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One file of values. watched: with the small rules and dashboard beside this file, instead of the real ones."""

    name: str
    values: Path
    watched: bool = False

    @property
    def golden(self) -> Path:
        return GOLDEN / f"{self.name}.yaml"


PRESETS: Final = tuple(Case(file.stem, file) for file in sorted((CHART / "presets").glob("*.yaml")))
CLAIM: Final = Case("two-nodes-and-claim", OWN / "two-nodes-and-claim.yaml")
CASES: Final = (*PRESETS, CLAIM, Case("everything", OWN / "everything.yaml", watched=True))


@contextmanager
def quiet() -> Generator[None]:
    """Helm says on descriptor 2 that it followed a link, each time."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def with_watched(directory: Path) -> Path:
    """A copy of the chart in `directory`, with the small rules and dashboard."""
    chart = directory / "perenne"
    shutil.copytree(CHART, chart, ignore=shutil.ignore_patterns("alerts", "dashboards"))
    for part in ("alerts", "dashboards"):
        shutil.copytree(OWN / "watched" / part, chart / "files" / part)
    return chart


def render(values: Document, chart: Path = CHART, *, name: str = "perenne") -> dict[str, str]:
    """Template path to text. With the secret, unless `tls` says otherwise. Raises helm_python.HelmError."""
    with quiet():
        return helm_python.Chart.load(chart).render(
            {**LOCKED, **values}, name=name, namespace=NAMESPACE, is_install=True
        )


def values_of(case: Case) -> Document:
    found: Document = yaml.safe_load(case.values.read_text())
    return found


def rendered(case: Case, directory: Path) -> dict[str, str]:
    return render(values_of(case), with_watched(directory) if case.watched else CHART)


def documents(parts: dict[str, str]) -> list[Document]:
    """Every document, in the order of the files."""
    texts = (parts[path] for path in sorted(parts) if not path.endswith(".txt"))
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def as_text(parts: dict[str, str]) -> str:
    """One file to review as a difference."""
    shown = (f"# Source: {path}\n{parts[path].strip()}\n" for path in sorted(parts) if parts[path].strip())
    return "---\n".join(shown)


def one(found: list[Document], kind: str, name: str) -> Document:
    """The document of this kind and name."""
    (document,) = (d for d in found if d["kind"] == kind and d["metadata"]["name"] == name)
    return document
