"""What a journal owes, with deletes in it: what may have come before or after is neither owed nor gone."""

import socket
from pathlib import Path
from threading import Thread

import pytest

import perenne.cli.journal
from perenne.cli.journal import SILENCES, check, show
from perenne.journal import Event, JournalUnreadable, digest_of, events, owed
from perenne.nodeaccess import NodeAccess


@pytest.mark.parametrize(
    ("story", "is_owed", "is_gone"),
    [
        ("offered acknowledged", True, False),
        ("offered acknowledged deleting deleted", False, True),
        ("offered acknowledged deleted", False, True),
        ("offered acknowledged deleting", False, False),
        ("offered acknowledged deleting kept", True, False),
        ("offered acknowledged deleting deleted offered", False, False),
        ("offered acknowledged deleting deleted offered acknowledged", True, False),
        ("offered acknowledged offered deleting deleted acknowledged", False, False),
        ("offered acknowledged deleting offered deleted acknowledged", False, False),
        ("offered acknowledged deleting offered acknowledged deleted", False, False),
        ("offered acknowledged offered broken deleting deleted", False, False),
        ("offered acknowledged offered refused deleting deleted", False, True),
        ("offered acknowledged deleting offered acknowledged kept", True, False),
    ],
)
def test_what_is_owed(story: str, is_owed: bool, is_gone: bool) -> None:
    history = [Event(event, "1.1", float(at), "aa" if "e" in event else "") for at, event in enumerate(story.split())]
    debt = owed(history)["1.1"]
    assert (bool(debt.datasets), debt.gone) == (is_owed, is_gone)


def test_what_was_deleted_must_not_come_back_under_a_uid_that_was_stored_again() -> None:
    story = (("offered", "aa"), ("acknowledged", "aa"), ("deleting", ""), ("deleted", ""), ("offered", "bb"))
    history = [Event(event, "1.1", float(at), dataset) for at, (event, dataset) in enumerate(story)]
    assert owed(history)["1.1"].buried == {"aa"}
    assert owed([*history, Event("offered", "1.1", 9, "aa")])["1.1"].buried == set()


def test_a_word_that_is_no_event_is_not_passed_over(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.write_text('{"event":"acknowleged","uid":"1.1","at":1.0,"dataset":"aa"}\n')
    with pytest.raises(JournalUnreadable, match="line 1: there is no event 'acknowleged'"):
        list(events(journal))


def test_an_acknowledgement_of_nobody_knows_what_is_none(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.write_text('{"event":"acknowledged","uid":"1.1","at":1.0}\n')
    with pytest.raises(JournalUnreadable, match="line 1: it does not say which `dataset`"):
        list(events(journal))


def test_a_journal_of_nothing_proves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.touch()
    assert show(journal, ["127.0.0.1:1"], NodeAccess(), as_json=False) == 3
    assert "nothing is proved" in capsys.readouterr().out


def test_an_answer_that_breaks_off_is_no_other_answer() -> None:
    """A node that dies while it serves an instance has not altered it."""
    dataset = bytes(5000)
    debts = owed([Event("acknowledged", "1.1", 0.0, digest_of(dataset))])

    def answer(listener: socket.socket, content: bytes) -> None:
        line, _ = listener.accept()
        with line:
            line.recv(4096)
            line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + content)

    found: list[tuple[int, int]] = []
    for content in (dataset[:4000], dataset):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            served = Thread(target=answer, args=(listener, content))
            served.start()
            findings = check([f"http://127.0.0.1:{listener.getsockname()[1]}"], debts)
            served.join()
        found.append((len(findings.altered), len(findings.unavailable)))
    assert found == [(0, 1), (0, 0)]


def test_a_silent_node_is_not_asked_for_each_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a journal of ten thousand would take two days to say that a node hangs."""
    monkeypatch.setattr(perenne.cli.journal, "TIMEOUT_S", 0.05)
    debts = owed(Event("acknowledged", f"1.{number}", 0.0, "aa") for number in range(50))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        findings = check([f"http://127.0.0.1:{listener.getsockname()[1]}"], debts)
    assert (len(findings.unavailable), findings.exit_code) == (50, 3)
    assert sorted(findings.reasons.values()) == [SILENCES, 50 - SILENCES]
