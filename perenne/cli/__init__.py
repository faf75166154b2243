"""The `perenne` command."""


def main() -> None:
    """Entry point; errors are one line and a next step, never a traceback."""
    from perenne.cli.commands import app

    app(prog_name="perenne")


if __name__ == "__main__":
    main()
