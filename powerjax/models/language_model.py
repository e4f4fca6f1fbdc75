"""LM: a loaded language model, and `load`."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from powerjax import text
from powerjax.models import checkpoint
from powerjax.models.config import ModelConfig
from powerjax.models.decoder import CausalLM

_DTYPES = ("bfloat16", "float32", "float16")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LM:
    """A language model: weights, tokenizer (None where the folder has none), stop ids, mesh."""

    config: ModelConfig
    params: dict
    tokenizer: object = None
    stop_ids: tuple[int, ...] = ()
    mesh: Mesh | None = None
    name: str = ""
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        object.__setattr__(self, "dtype", jnp.dtype(self.dtype))

    def model(self, long_context: bool = False) -> CausalLM:
        """The Linen module that `params` belong to."""
        return CausalLM(self.config, self.dtype, long_context)

    @property
    def num_parameters(self) -> int:
        """How many numbers `params` holds."""
        return sum(math.prod(x.shape) for x in jax.tree.leaves(self.params))

    def encode(self, string: str) -> list[int]:
        """The token ids of a prompt, with the special tokens its tokenizer adds, if any."""
        return list(self._tokenizer()(string)["input_ids"])

    def decode(self, ids) -> str:
        """The text of token ids, special tokens left out."""
        return self._tokenizer().decode(np.asarray(ids).tolist(), skip_special_tokens=True)

    def _tokenizer(self):
        if self.tokenizer is None:
            raise ValueError(
                f"{self.name or 'this model'} has no tokenizer files: give prompts as token ids"
            )
        return self.tokenizer

    def logits(self, tokens, lengths=None) -> jax.Array:
        """float32[B,T,V] of right-padded tokens[B,T]; rows are real up to lengths[B], then 0."""
        tokens = np.asarray(tokens, np.int32)
        batch, width = tokens.shape
        lengths = np.full(batch, width) if lengths is None else np.asarray(lengths)
        self.config.check_length(int(lengths.max(initial=0)))
        padded = np.zeros((_bucket(batch, 1), _bucket(width, 16)), np.int32)
        padded[:batch, :width] = np.where(np.arange(width) < lengths[:, None], tokens, 0)
        model = self.model(self.config.long_context(int(lengths.max(initial=0))))
        return _logits(model, self.params, padded)[:batch, :width]


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: CausalLM, params: dict, tokens: jax.Array) -> jax.Array:
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden, _ = model.apply({"params": params}, tokens, positions)
    return model.apply({"params": params}, hidden, method="unembed")


def _bucket(n: int, smallest: int) -> int:
    """The next power of two, so that few shapes are compiled."""
    return max(smallest, 1 << (n - 1).bit_length())


def load(
    name_or_folder: str,
    *,
    dtype="bfloat16",
    mesh: Mesh | None = None,
    adapter: str | None = None,
    random_weights: bool = False,
    seed: int = 0,
    revision: str | None = None,
) -> LM:
    """Loads "tiny", a Hugging Face id, or a folder in the Hugging Face format.

    random_weights: the same architecture with N(0, initializer_range) weights drawn from `seed`
        (the paper's RandW); needs config.json alone.
    """
    dtype = jnp.dtype(dtype)
    if dtype.name not in _DTYPES:
        raise ValueError(f"dtype {dtype.name!r} is not one of {', '.join(_DTYPES)}")
    folder = checkpoint.find_folder(
        str(name_or_folder), revision=revision, weights=not random_weights
    )
    hf_config = checkpoint.read_config(folder)
    config = ModelConfig.from_hf(hf_config)
    if random_weights:
        params = checkpoint.random_params(config, dtype, mesh, seed)
    else:
        params = checkpoint.load_params(folder, config, dtype, mesh)
    return LM(
        config=config,
        params=params,
        tokenizer=text.load_tokenizer(folder),
        stop_ids=text.stop_ids(folder, hf_config),
        mesh=mesh,
        name=str(name_or_folder),
        dtype=dtype,
    )
