"""The repository keeps its own house rules."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SKIPPED = {".git", ".venv", ".local", ".hypothesis", ".cache"}
TEXT = {".py", ".md", ".toml", ".sh", ".txt", ".yaml", ".yml", ".ini", ""}
MOST_LINES = 420
MENTION = re.compile(r"(?<![\w/.])((?:script|docs|tests|storage|replication|monitoring|perenne)/[\w./-]+)")


def files(*suffixes: str) -> Iterator[Path]:
    for path in sorted(ROOT.rglob("*")):
        relative = path.relative_to(ROOT)
        hidden = any(part in SKIPPED or part.endswith(("_cache", "__pycache__")) for part in relative.parts)
        if not hidden and path.is_file() and path.suffix in (suffixes or TEXT):
            yield path


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def found(pattern: str, paths: Iterator[Path]) -> list[str]:
    """Lines that match, as file:number."""
    wanted = re.compile(pattern)
    return [
        f"{name(path)}:{number}"
        for path in paths
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if wanted.search(line)
    ]


def test_files_fit_in_the_head() -> None:
    lengths = {name(path): len(path.read_text().splitlines()) for path in files(".py")}
    assert len(lengths) > 100, "the walk sees the repository"
    assert not {path: lines for path, lines in lengths.items() if lines > MOST_LINES}


def test_nothing_is_left_to_do_in_the_code() -> None:
    assert not found(r"\b(TODO|FIXME|XXX|HACK)\b", files(".py"))


def test_no_machine_is_named() -> None:
    """No registry, no mirror, no path of the machine that it was written on."""
    assert not found(r"(/work/main|/work/shared|/tmp/plan|/root/\.pyenv|artifactory|pkg\.dev|/opt/pypi)", files())
    assert not found(r"^--(extra-)?index-url|^--find-links", files(".txt"))


def test_nothing_is_swallowed() -> None:
    assert not found(r"^\s*except\s*:", files(".py"))
    bare = re.compile(r"except (BaseException|Exception)[^\n]*:\n\s+pass\b")
    assert not [name(path) for path in files(".py") if path != Path(__file__) and bare.search(path.read_text())]


def test_what_the_documents_name_exists() -> None:
    missing: list[str] = []
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = document.read_text()
        for mention in re.findall(
            r"(?<![\w/.])((?:script|docs|tests|storage|replication|monitoring|perenne)/[\w./-]+)", text
        ):
            path = mention.rstrip("./")
            if not (ROOT / path).exists() and not (ROOT / f"{path}.py").exists() and not list(ROOT.glob(f"{path}*")):
                missing.append(f"{name(document)}: {mention}")
    assert not missing


def test_every_script_can_be_run() -> None:
    for script in sorted((ROOT / "script").iterdir()):
        assert script.stat().st_mode & 0o111, script.name
        assert script.read_text().startswith("#!"), script.name
