"""Structured logs on standard error: JSON lines, or text for eyes. Patient data never gets into an `extra`.

What pydicom and pynetdicom say quotes the data sets and PDUs that they read, so they are not heard. Of other
warnings the kind and the place are told, not the text.
"""

import json
import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Final, TextIO

_LOG: Final = logging.getLogger("perenne.logs")
_QUOTING: Final = ("pydicom", "pynetdicom")
_PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _PLAIN}


class JsonFormatter(logging.Formatter):
    """One object per line: time, level, logger, message, then what the record carries."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        facts: dict[str, object] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extras(record),
        }
        if record.exc_info:
            facts["error"] = self.formatException(record.exc_info)
        return json.dumps(facts, default=str)


class TextFormatter(logging.Formatter):
    """For eyes. What somebody else sent can neither begin a line of its own nor speak to the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        extras = " ".join(f"{key}={_shown(value)}" for key, value in _extras(record).items())
        line = f"{stamp} {record.levelname.lower():8} {record.getMessage()} {extras}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _shown(value: object) -> str:
    text = str(value)
    return text if text.isprintable() else repr(text)


def configure(level: str, style: str) -> None:
    """Send everything that Perenne logs to standard error; libraries only from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("perenne").setLevel(level.upper())
    hush()
    warnings.showwarning = _tell_warning


def hush() -> None:
    """Silence what libraries say past us, in a node and in every verb."""
    # It reports every lost connection as an error; the coordination part says the same once, in its own words.
    for name in ("perenne.kazoo", "kazoo"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for name in _QUOTING:
        # Not by level: pydicom sets that of its own when it is imported. Without a handler, a last resort would print.
        quoting = logging.getLogger(name)
        quoting.handlers[:] = [logging.NullHandler()]
        quoting.propagate = False
        # Ignored for good and for all threads: warnings.catch_warnings would do it for one thread, and harm the others.
        warnings.filterwarnings("ignore", module=rf"{name}(\.|$)")


def _tell_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Stands in for `warnings.showwarning`. The text of a warning may quote what was read."""
    _LOG.warning("a library warns", extra={"kind": category.__name__, "place": f"{Path(filename).name}:{lineno}"})
