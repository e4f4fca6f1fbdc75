"""Fixtures of the tests of models."""

import pytest

from tests.golden import cases


@pytest.fixture
def folder(tmp_path):
    """A small tied Qwen2 checkpoint in one file, which the test may change."""
    return cases.write_checkpoint("qwen2_tied", tmp_path / "model")
