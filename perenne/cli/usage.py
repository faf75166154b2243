"""What every verb does about a wrong call: one line on standard error, and an exit code."""

import os
import sys
from pathlib import Path

import typer

from perenne.config import Config, ConfigError
from perenne.config_reading import load_config


def fail(text: str, code: int = 1) -> typer.Exit:
    """To be raised. 1: something is wrong with the data or the cluster. 2: bad usage."""
    sys.stderr.write(f"perenne: {text}\n")
    return typer.Exit(code)


def read_config(file: Path | None) -> Config:
    """Raises typer.Exit, with everything that is wrong."""
    try:
        return load_config(file, os.environ)
    except ConfigError as error:
        raise fail(str(error), 2) from error
