"""Goal: a new token holds at once, and nothing that befalls its file opens the door. Method: the file itself."""

from pathlib import Path

import pytest

from perenne.tokens import TokenFile


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "token"
    made.write_text("first\n")
    return made


def test_a_new_token_takes_the_place_of_the_old_one(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    token = TokenFile(file)
    assert token.current == "first"
    assert not token.refresh()
    file.write_text("second\n")
    assert token.refresh()
    assert token.current == "second"
    file.write_text("second")
    assert not token.refresh(), "the same one, written otherwise"
    assert [record.getMessage() for record in caplog.records] == ["took up a new token"]
    assert "second" not in caplog.text and "first" not in caplog.text


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "holds no token"),
        (b" \n", "holds no token"),
        (b"a b", "as character 2"),
        (b"\xff", "character 1"),
        (None, "No such file"),
    ],
)
def test_what_is_no_token_leaves_the_one_in_use(
    file: Path, caplog: pytest.LogCaptureFixture, content: bytes | None, cause: str
) -> None:
    token = TokenFile(file)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    assert not token.refresh()
    assert token.current == "first"
    (said,) = (vars(record) for record in caplog.records)
    assert cause in said["reason"] and said["levelname"] == "ERROR"
    assert not token.refresh()
    assert len(caplog.records) == 1, "said once"
    file.write_text("third")
    assert token.refresh()
    assert token.current == "third"
