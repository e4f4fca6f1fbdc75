"""Power sampling and power self-distillation of language models in JAX."""

from powerjax.former import names as _former_names

__version__ = "0.1.0"

_former_names.install()
