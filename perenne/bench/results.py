"""What was measured, and how it is shown."""

import json
import sys

Results = dict[str, dict[str, float]]
"""By what was measured: label and figure."""


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def show(results: Results, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(results, indent=2) + "\n")
        return
    for name, figures in results.items():
        sys.stdout.write(f"{name}\n")
        for label, value in figures.items():
            sys.stdout.write(f"    {label:24} {value:12.3f}\n")
    for other in ("storescp, never syncs", "Orthanc, one copy"):
        for name in ("two copies, at the leader", "two copies, at the follower", "one copy, standalone"):
            if other in results and name in results:
                pairs = {label: results[name][label] / results[other][label] for label in results[other]}
                text = ", ".join(f"{label.removesuffix(' per s')} {ratio:.2f}" for label, ratio in pairs.items())
                sys.stdout.write(f"{name} / {other}: {text}\n")
