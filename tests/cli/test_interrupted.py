"""Goal: Ctrl-C is a line at most and exit code 130. Method: a real signal while the parts are being imported."""

import subprocess
import sys

SCRIPT = """
import os, signal, sys

module = sys.argv[1]
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background

class Presses:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Presses())
from perenne.cli import main
sys.argv[1:] = ["import", "/nowhere", "--to", "127.0.0.1:1"]
main()
"""


def test_ctrl_c_while_a_verb_begins_shows_no_traceback() -> None:
    for module in ("perenne.cli.retention", "perenne.cli.importing"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, module], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout) == (130, ""), (module, done.stderr)
        assert done.stderr in ("", "perenne: interrupted\n"), (module, done.stderr)
