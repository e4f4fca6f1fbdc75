"""Changing a checkpoint's folder, and checking how a changed one is refused."""

import pytest
from safetensors.numpy import load_file, save_file

from powerjax import models


def check_refusal(error, *parts, **kwargs):
    """Asserts that load(**kwargs) raises `error` in one line that names every part; returns it."""
    with pytest.raises(error) as caught:
        models.load(**kwargs)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message


def rewrite(folder, change):
    """Replaces the tensors of model.safetensors by those that `change` leaves in the dict."""
    arrays = load_file(folder / "model.safetensors")
    change(arrays)
    save_file(arrays, folder / "model.safetensors")
