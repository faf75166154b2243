"""Hypothesis profiles: `default` for script/test, `long` for HYPOTHESIS_PROFILE=long script/test.

In CI both go on choosing by chance, which Hypothesis would not by itself.
"""

import os
from typing import Any

from hypothesis import HealthCheck, settings

from tests.needs import pytest_runtest_setup

__all__ = ["pytest_runtest_setup"]
_EVERY: dict[str, Any] = {
    "deadline": None,
    "derandomize": False,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow],
}

settings.register_profile("default", max_examples=60, **_EVERY)
settings.register_profile("long", max_examples=3000, **_EVERY)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
