"""The `perenne` command."""

import sys
from typing import Final

INTERRUPTED: Final = 130


def main() -> None:
    """Entry point; errors are one line and a next step, never a traceback: not even while the parts are imported."""
    try:
        from perenne.cli.commands import app

        app(prog_name="perenne")
    except KeyboardInterrupt:
        sys.stderr.write("perenne: interrupted\n")
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
