"""The one small model of the tests, and the changed copies of it that some of them need."""

import dataclasses

from powerjax.models import LM, ModelConfig, checkpoint

_CONFIG = ModelConfig(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    max_position_embeddings=512,
    tie_word_embeddings=True,
    initializer_range=0.3,
)


def config(**changes) -> ModelConfig:
    """A Qwen2 of two layers and 97 tokens with tied embeddings. `changes` replace its fields."""
    return dataclasses.replace(_CONFIG, **changes)


def eight_heads(**changes) -> ModelConfig:
    """The same with eight heads and kv heads, so that an axis of eight devices splits attention."""
    return config(vocab_size=96, hidden_size=64, num_heads=8, num_kv_heads=8, **changes)


def random_lm(config: ModelConfig, *, seed: int = 1, mesh=None, **options) -> LM:
    """A model with random float32 weights that stops at token 0.

    The weights depend on the config and the seed alone. mesh: None for JAX's default device.
    `options` are further ones of LM, such as its name.
    """
    params = checkpoint.random_params(config, "float32", seed=seed, mesh=mesh)
    return LM(config, params, **{"stop_ids": (0,), "mesh": mesh, **options})
