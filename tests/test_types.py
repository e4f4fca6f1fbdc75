"""The types of the rooms that users import most, checked by mypy."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.full

ROOT = Path(__file__).resolve().parents[1]


def test_mypy_has_no_complaint():
    """Which rooms it reads, and how strictly, stands in pyproject.toml under [tool.mypy]."""
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed: pip install powerjax[test]")
    checked = subprocess.run(
        [sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert checked.returncode == 0, f"\n{checked.stdout}{checked.stderr}"
