"""The `perenne` command."""

import sys
from typing import Final

INTERRUPTED: Final = 130


def main() -> None:
    """Entry point; errors are one line and a next step, never a traceback: not even while the parts are imported."""
    try:
        from perenne.cli.commands import app
        from perenne.limits import raise_descriptor_limit

        raise_descriptor_limit()  # a log has an open file for each of its segments

        app(prog_name="perenne")
    except KeyboardInterrupt:
        sys.stderr.write("perenne: interrupted\n")
        sys.exit(INTERRUPTED)
    except OSError as error:
        if error.filename is None:
            raise
        sys.stderr.write(f"perenne: {error.filename}: {error.strerror}; may this user do that there?\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
