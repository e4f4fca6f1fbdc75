"""The one small model of the tests, and the changed copies of it that some of them need."""

import dataclasses

import jax
import numpy as np

from powerjax.models import LM, ModelConfig, checkpoint, lora

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


def student(lm: LM, *, seed: int = 1, size: float = 0.05) -> LM:
    """The model with a random adapter of rank 4 over the same weights.

    size: the standard deviation of the adapter's B; its A is as at the start of training.
    """
    config = lora.LoraConfig(rank=4, alpha=8.0)
    params = lora.init(lm.config, config, seed=seed, mesh=lm.mesh)
    rng = np.random.default_rng(seed)
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: (
            jax.device_put(rng.normal(0, size, x.shape).astype("float32"), x.sharding)
            if path[-1].key == "lora_b"
            else x
        ),
        params,
    )
    return dataclasses.replace(lm, adapter=lora.Adapter(config, params, "student"))
