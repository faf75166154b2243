"""`script/chart`: write what is made from the chart, to be reviewed as a difference."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.chart import schema, table
from tests.chart.rendering import CASES, as_text, rendered


def main() -> int:
    """Exit code 0; 1 with --check when something is stale."""
    parser = argparse.ArgumentParser(
        prog="script/chart",
        description="Render the chart's presets into tests/chart/golden; write the table of values in its README, and"
        " what values.schema.json says of `config`.",
        epilog="Example: change a template, run script/chart, and look at `git diff tests/chart/golden`.",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when something is stale")
    check: bool = parser.parse_args().check
    wanted = {table.README: table.document(), schema.FILE: schema.document()}
    if schema.FILE.read_text() != wanted[schema.FILE] and not check:
        schema.FILE.write_text(wanted[schema.FILE])  # what is rendered below must fit it
        sys.stdout.write(f"written: {schema.FILE}\n")
    for case in CASES:
        with tempfile.TemporaryDirectory() as directory:
            wanted[case.golden] = as_text(rendered(case, Path(directory)))
    stale = [file for file, text in wanted.items() if not file.exists() or file.read_text() != text]
    for file in stale:
        sys.stdout.write(f"{'stale' if check else 'written'}: {file}\n")
        if not check:
            file.parent.mkdir(exist_ok=True)
            file.write_text(wanted[file])
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
