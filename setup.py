"""Packaging. Tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "powerjax/__init__.py").read_text()).group(1)
RUFF = "ruff==0.17.*"  # other minor versions may lay out code, and judge it, in other ways

setup(
    name="powerjax",
    version=VERSION,
    description="Power sampling and power self-distillation of language models in JAX",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    packages=find_packages(include=["powerjax", "powerjax.*", "experiments", "experiments.*"]),
    license="Apache-2.0",
    package_data={
        "powerjax": ["py.typed"],
        "powerjax.models": ["assets/**/*"],
        "powerjax.report": ["templates/*.html"],
    },
    install_requires=[
        "absl-py",
        "arviz-stats",  # k-hat, R-hat, ESS; it brings NumPy and SciPy, which jax needs anyway
        "chex",
        "datasets",
        "flax>=0.12",
        "gguf>=0.19",  # dequantises GGUF files; what it brings, transformers and datasets bring
        "huggingface_hub",
        "jax>=0.10.2",
        "jinja2",  # transformers' chat templates ask for it, and do not bring it
        "math-verify",
        "matplotlib",
        "numpy",
        "optax",
        "orbax-checkpoint",
        "safetensors>=0.5",
        "sympy",
        "tensorboardX",
        "tqdm",
        "transformers>=5",
    ],
    extras_require={
        "arviz": ["arviz-base"],  # Completions.to_arviz; it brings xarray
        "cuda": ["jax[cuda13]>=0.10.2"],  # drivers from 580 up
        "cuda12": ["jax[cuda12]>=0.10.2"],  # older ones
        "tpu": ["jax[tpu]>=0.10.2"],
        "test": ["arviz-base", "filelock", "hypothesis", "mypy", "pytest", "pytest-xdist", RUFF],
        "parity": ["peft", "torch==2.13.0"],
        "notebook": ["ipywidgets", "jupyterlab"],
        "docs": ["mkdocs-material", "mkdocstrings[python]", RUFF],  # ruff lays out signatures
    },
)
