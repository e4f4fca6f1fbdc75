"""The model shapes that benchmarks use. Weights are random: speed does not depend on them."""

import dataclasses

import jax
from flax import traverse_util

from powerjax.models import LM, ModelConfig, checkpoint

# Vocabulary, model width, ffw width, layers, heads, kv heads, head dimension.
QWEN_7B = ModelConfig(152_064, 3584, 18_944, 28, 28, 4, 128)
QWEN_HALF_B = ModelConfig(151_936, 896, 4864, 24, 14, 2, 64, tie_word_embeddings=True)
QWEN_25M = ModelConfig(8192, 512, 1408, 8, 8, 4, 64, tie_word_embeddings=True)
# Without Phi-3.5's longrope factors, which cost no more than other rotary factors.
PHI_35_MINI = ModelConfig(
    32_064, 3072, 8192, 32, 32, 32, 96, architecture="Phi3ForCausalLM", qkv_bias=False
)
TOY = ModelConfig(512, 64, 128, 2, 4, 2, 16)
TOY_TIED = dataclasses.replace(TOY, tie_word_embeddings=True)


def random_lm(config: ModelConfig, dtype: str, name: str = "random weights") -> LM:
    """Returns a model of this shape with random weights, which never ends a completion."""
    params = checkpoint.random_params(config, dtype, seed=0)
    jax.block_until_ready(params)
    return LM(config, params, stop_ids=(-1,), name=name, dtype=dtype)


def with_attention(lm: LM, kernel: str) -> LM:
    """Returns the model with another kernel behind attention, see `models/attention.py`."""
    return LM(lm.config, lm.params, stop_ids=lm.stop_ids, dtype=lm.dtype, attention=kernel)


def matrix_numbers(lm: LM) -> int:
    """Returns the number of weights in the matrices that every token is multiplied with."""
    flat = traverse_util.flatten_dict(lm.params, sep="/")
    read = {path: x for path, x in flat.items() if _is_read(lm.config, path)}
    return sum(x.size for x in read.values() if x.ndim > 1)


def read_bytes(lm: LM) -> int:
    """Returns the bytes of the weights that one model step reads.

    A step only looks rows up in the table of embeddings, unless that is the head as well.
    """
    flat = traverse_util.flatten_dict(lm.params, sep="/")
    return sum(x.nbytes for path, x in flat.items() if _is_read(lm.config, path))


def _is_read(config: ModelConfig, path: str) -> bool:
    return config.tie_word_embeddings or not path.startswith("embed_tokens")
