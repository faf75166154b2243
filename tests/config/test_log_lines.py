"""Goal: what a stranger sent cannot pass for a line of the log, nor command the terminal of who reads it."""

import json
import logging

import pytest

from perenne.logs import JsonFormatter, TextFormatter

SENT = "the peer said goodbye: \x1b[2J\n12:00:00 info     all is well"


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()], ids=["text", "json"])
def test_one_record_is_one_printable_line(formatter: logging.Formatter) -> None:
    record = logging.makeLogRecord({"msg": "turned a connection away", "levelname": "WARNING", "reason": SENT})
    line = formatter.format(record)
    assert line.isprintable()
    assert "all is well" in line
    if isinstance(formatter, JsonFormatter):
        assert json.loads(line)["reason"] == SENT


def test_what_is_plain_is_shown_as_it_is() -> None:
    record = logging.makeLogRecord({"msg": "let in", "levelname": "INFO", "peer": "n1", "port": 11111})
    assert TextFormatter().format(record).endswith("let in peer=n1 port=11111")
