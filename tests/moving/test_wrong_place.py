"""Goal: an import that brought nothing into the archive that is named does not look like one that did.

Method: the command line, and nobody to send to: nothing here may get that far.
"""

import json
from pathlib import Path
from typing import Any

from perenne.journal import ACKNOWLEDGED, Journal, digest_of
from storage.dataset import read_meta
from storage.digest import part10_meta_length
from tests.moving.console import perenne
from tests.moving.sources import slices, tree

NOBODY = "127.0.0.1:1"


def typed(*words: object, code: int) -> dict[str, Any]:
    done = perenne("import", "--json", "--patience", "0", *(str(word) for word in words))
    assert done.exit_code == code, done.output
    found: dict[str, Any] = json.loads(done.stdout) if done.stdout else {"said": done.stderr}
    return found


def test_a_directory_where_nothing_is_mounted_is_no_import(tmp_path: Path) -> None:
    (tmp_path / "old-pacs").mkdir()
    journal = ("--journal", tmp_path / "journal")
    assert typed(tmp_path / "old-pacs", "--to", NOBODY, *journal, code=1)["acknowledged"] == 0
    assert typed(tmp_path / "old-pacs", "--dry-run", *journal, code=1)["would_send"] == []
    (tmp_path / "old-pacs" / "readme.txt").write_text("the images are elsewhere")
    assert typed(tmp_path / "old-pacs", "--to", NOBODY, *journal, code=1)["left_out"] == {"not DICOM": 1}


def test_what_another_archive_acknowledged_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    """A rehearsal, and the same command with the nodes of the real archive: the journal has one name for both."""
    files = slices(1000, 3)
    tree(tmp_path / "old-pacs", list(files.values()))
    journal = tmp_path / "journal"
    rehearsal = Journal(journal)
    for uid, content in files.items():
        dataset, syntax = digest_of(content[part10_meta_length(content) :]), read_meta(content).transfer_syntax_uid
        rehearsal.note(ACKNOWLEDGED, uid, dataset=dataset, node="test-pacs:11112", syntax=syntax)
    rehearsal.close()
    words = (tmp_path / "old-pacs", "--journal", journal, "--to", "pacs1:11112", "--to", "pacs2:11112")
    said = typed(*words, code=2)["said"]
    assert "test-pacs:11112" in said and "--journal" in said and "--same-archive" in said
    assert typed(*words, "--same-archive", code=0)["already"] == 3
    assert typed(*words, "--to", "test-pacs:11112", code=0)["already"] == 3
