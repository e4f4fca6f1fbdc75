"""Language models: Qwen2 and Phi3 decoders, their checkpoints, and `load`."""

from powerjax.models.config import ModelConfig, RopeConfig

__all__ = ["ModelConfig", "RopeConfig"]
