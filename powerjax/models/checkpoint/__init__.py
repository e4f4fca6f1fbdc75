"""Hugging Face checkpoints in and out, and random weights of the same shapes."""

from powerjax.models.checkpoint.folders import find_folder, model_config, read_config
from powerjax.models.checkpoint.random_weights import random_params
from powerjax.models.checkpoint.reading import fit, load_params, read_headers
from powerjax.models.checkpoint.writing import save

__all__ = [
    "find_folder",
    "fit",
    "load_params",
    "model_config",
    "random_params",
    "read_config",
    "read_headers",
    "save",
]
