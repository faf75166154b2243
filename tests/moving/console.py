"""`perenne` in this process: a process of its own takes seconds to begin on a busy machine."""

from typer.testing import CliRunner, Result

from perenne.cli.commands import app


def perenne(*arguments: str) -> Result:
    """Run the command line; what it prints is in `stdout` and `stderr`."""
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result
