"""Language models: decoders of the families in families.py, their checkpoints, and `load`."""

from powerjax.models.config import ModelConfig, RopeConfig
from powerjax.models.language_model import LM, adapted, load

__all__ = ["LM", "ModelConfig", "RopeConfig", "adapted", "load"]
