"""Language models: Qwen2 and Phi3 decoders, their checkpoints, and `load`."""

from powerjax.models.config import ModelConfig, RopeConfig
from powerjax.models.language_model import LM, load

__all__ = ["LM", "ModelConfig", "RopeConfig", "load"]
