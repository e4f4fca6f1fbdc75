"""LM: a loaded language model, `load`, and `adapted`."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from powerjax.models import checkpoint, gguf, lora, peft, scoring, text, weight_hash
from powerjax.models import prompts as prompts_lib
from powerjax.models.config import ModelConfig
from powerjax.models.decoder import CausalLM
from powerjax.models.sharding import param_sharding
from powerjax.records import scalars

_DTYPES = ("bfloat16", "float32", "float16")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LM:
    """A language model, as `load` returns it.

    params: the weights' pytree, each tensor on its devices.
    tokenizer: the folder's tokenizer; None where the folder has none.
    stop_ids: token ids; any of them ends a completion.
    mesh: the devices that the weights are laid out on; None for one device.
    name: the name or folder that `load` was given.
    attention: the kernel behind attention, "xla", "triton" or "cudnn", see attention.py; None takes
        the fastest for JAX's default device.
    adapter: a LoRA adapter, which is computed beside `params` wherever they are used. `merged`
        adds it to them instead; so do the samplers, for one run, where `params` are small.
    adapter_name: the name of the adapter, merged or not; None where there is none.
    weights: a name for `params`, such as "random-0" for random weights of seed 0. None where they
        have no name; `identity` then takes a hash of them.
    origin: the `identity` from before the adapter was merged; None where none was merged.
    quantised: the types that the weights' file held them in, such as "Q4_K and Q6_K". The model's
        law is then that of the quantised weights. None where they were not quantised.
    """

    config: ModelConfig
    params: dict[str, Any]
    tokenizer: Any = None
    stop_ids: tuple[int, ...] = ()
    mesh: Mesh | None = None
    name: str = ""
    dtype: jnp.dtype = jnp.float32
    attention: str | None = None
    adapter: lora.Adapter | None = None
    adapter_name: str | None = None
    weights: str | None = None
    origin: dict[str, Any] | None = None
    quantised: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "dtype", jnp.dtype(self.dtype))
        if self.adapter is not None and self.adapter_name is None:
            object.__setattr__(self, "adapter_name", self.adapter.name)

    def model(self, long_context: bool = False, remat: bool = False) -> CausalLM:
        """Returns the Linen module that `variables` belong to; see `CausalLM` for the arguments."""
        return CausalLM(self.config, self.dtype, long_context, self.attention, remat)

    @functools.cached_property
    def variables(self) -> dict[str, Any]:
        """What `model().apply` takes: {"params": ...}, and "lora" where there is an adapter."""
        if self.adapter is None:
            return {"params": self.params}
        scaled = lora.collection(self.adapter.params, self.adapter.config.scale)
        return {"params": self.params, "lora": scaled}

    def merged(self, *, donate: bool = False) -> "LM":
        """Returns this model with its adapter added to the weights.

        The adapter then costs no computation of its own. A model without an adapter is returned as
        it is.

        donate: whether to reuse the memory of the old weights; this LM must not be used afterwards
            then.
        """
        if self.adapter is None:
            return self
        # In float32 a merge only adds numbers in another order; narrower weights are rounded.
        origin = self.identity | {"adapter_merged": jnp.dtype(self.dtype).itemsize < 4}
        params = lora.merge(self.params, self.adapter, donate=donate)
        return dataclasses.replace(self, params=params, adapter=None, origin=origin)

    def with_vocabulary(self, size: int) -> "LM":
        """Returns this model over the token ids below `size` alone, its laws renormalised.

        The embedding tables are copied, cut to these ids. Raises ValueError where the model has
        fewer.
        """
        if not 1 <= size <= self.config.vocab_size:
            raise ValueError(f"the model has {self.config.vocab_size} token ids, not {size}")
        config = dataclasses.replace(self.config, vocab_size=size)
        params = dict(self.params)
        for name, leaf, axis in (("embed_tokens", "embedding", 0), ("lm_head", "kernel", 1)):
            if name in params:
                table = jax.lax.slice_in_dim(params[name][leaf], 0, size, axis=axis)
                if self.mesh is not None:
                    place = param_sharding(f"{name}/{leaf}", table.shape, config, self.mesh)
                    table = jax.device_put(table, place)
                params[name] = {leaf: table}
        weights = self.identity["weights"]  # named after the whole model, whose weights they are
        return dataclasses.replace(self, config=config, params=params, weights=weights)

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """Which weights draw a completion, as the fields of its record state it.

        adapter, adapter_hash: the adapter's name and hash; None without an adapter.
        adapter_merged: whether a merge has rounded the weights; None without an adapter.
        weights: the name of the weights as they were loaded, or else a hash of them.
        dtype: the name of their dtype.
        """
        if self.origin is not None and self.adapter is None:
            return self.origin
        adapter_hash = None
        if self.adapter is not None:
            scale = self.adapter.config.scale
            adapter_hash = weight_hash.of(self.adapter.params, self.mesh, f"{scale:.6g} ")
        return {
            "adapter": self.adapter_name,
            "adapter_hash": adapter_hash,
            "adapter_merged": None if self.adapter is None else False,
            "weights": self.weights or self.fingerprint,
            "dtype": self.dtype.name,
        }

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of a few numbers of every tensor in `params`, the same on any mesh.

        It tells models of one name apart. Weights that differ in a few places only may share it.
        """
        return weight_hash.of(self.params, self.mesh)

    @property
    def num_parameters(self) -> int:
        """How many numbers `params` holds."""
        return sum(math.prod(x.shape) for x in jax.tree.leaves(self.params))

    def encode(self, text, *, special: bool = True, what: str = "the prompt") -> list[int]:
        """Returns the token ids of a text, of token ids or of chat messages, checked.

        Args:
          text: see prompts.py for what may be given.
          special: whether a text gets the special tokens that the tokenizer adds to a prompt; a
            completion has none. A rendered chat template contains its own and gets none, see
            `text.encode`.
          what: names the text in messages.

        Raises ValueError for anything else, and for an id that the model has no embedding for.
        """
        return prompts_lib.encode(self, text, what, special=special)

    def decode(self, ids) -> str:
        """Returns the text of token ids, without special tokens.

        Raises ValueError where the model has no tokenizer or no embedding for an id.
        """
        if self.tokenizer is None:
            raise ValueError(f"{self.name or 'this model'} has no tokenizer files to decode with")
        return self.tokenizer.decode(prompts_lib.ids(self, ids), skip_special_tokens=True)

    def logits(self, tokens, lengths=None) -> jax.Array:
        """Returns float32[B,T,V] for tokens[B,T]. Row b has logits up to lengths[b] and 0 after it.

        Args:
          tokens: whole numbers; what stands from lengths[b] on in row b does not matter.
          lengths: whole numbers [B] from 0 to T; None stands for T in every row.

        Raises ValueError for what is none of these, or longer than the model's context.
        """
        return scoring.logits(self, tokens, lengths)

    def score(self, prompts, completions, *, long_context: bool | None = None) -> list[np.ndarray]:
        """Returns log p(token | everything before it) of each completion's tokens, float32[tokens].

        Eq. 1: the sum of such an array is the self-reward of its completion. Reports show its mean.

        Args:
          prompts: a list of texts, token ids or chat messages.
          completions: a list of texts or token ids, one per prompt. A text is encoded by itself and
            gets no EOS; give token ids to have an EOS scored.
          long_context: whether longrope's long factors are taken; None decides it for each pair by
            its own length.

        Raises ValueError that names which prompt or completion is none of these.
        """
        return scoring.score(self, prompts, completions, long_context=long_context)

    def _adapter_note(self) -> str:
        """Returns what `__repr__` says of the adapter, "" where there is none."""
        if self.adapter is None:
            return f" with {self.adapter_name} merged" if self.adapter_name else ""
        return f" with {self.adapter_name or 'an adapter'} of rank {self.adapter.config.rank}"

    def __repr__(self) -> str:
        c = self.config
        where = jax.tree.leaves(self.params)[0].sharding
        rounded = f" (quantised: {self.quantised})" if self.quantised else ""
        places = f"{len(where.device_set)} x {next(iter(where.device_set)).platform}"
        return (
            f"LM({self.name or 'unnamed'}{self._adapter_note()}: {c.architecture}, "
            f"{self.num_parameters / 1e6:.3g} M parameters{rounded} in {self.dtype.name} on"
            f" {places}; "
            f"{c.num_layers} layers, width {c.hidden_size}, {c.num_heads} heads "
            f"({c.num_kv_heads} kv), vocabulary {c.vocab_size}, "
            f"context {c.max_position_embeddings}; stop ids {list(self.stop_ids)}; "
            f"{'no tokenizer' if self.tokenizer is None else type(self.tokenizer).__name__})"
        )


def load(
    name_or_folder: str,
    *,
    dtype="bfloat16",
    mesh: Mesh | None = None,
    fsdp: bool = False,
    adapter: str | None = None,
    random_weights: bool = False,
    seed: int = 0,
    revision: str | None = None,
) -> LM:
    """Loads "tiny", a Hugging Face id, a folder in the Hugging Face format, or a GGUF file.

    Quantised weights of a GGUF file are dequantised into `dtype`.

    Args:
      dtype: the dtype of weights, activations and cache: bfloat16, float32 or float16.
      mesh: the devices to lay the weights out on; None takes one device.
      fsdp: whether to split the weights over the mesh's "data" axis as well.
      adapter: a PEFT LoRA folder, applied without a merge (`LM.merged` merges it).
      random_weights: whether to draw N(0, initializer_range) weights for the same architecture
        (the paper's RandW); needs the config alone.
      seed: the seed of the random weights, from 0 to 2**32 - 1.
      revision: branch, tag or commit of a Hugging Face id.

    Raises FileNotFoundError or ValueError, in one line, where there is no such model, or the folder
    or file is damaged or asks for something that is not supported.
    """
    dtype_name = dtype if isinstance(dtype, str) else jnp.dtype(dtype).name
    if dtype_name not in _DTYPES:
        raise ValueError(f"dtype {dtype_name!r} is not one of {', '.join(_DTYPES)}")
    dtype = jnp.dtype(dtype_name)
    folder = checkpoint.find_folder(
        str(name_or_folder), revision=revision, weights=not random_weights
    )
    hf_config = checkpoint.read_config(folder)
    config = checkpoint.model_config(folder, hf_config)
    if random_weights:
        seed = scalars.key_seed(seed)
        stored, params = None, checkpoint.random_params(config, dtype, mesh, seed, fsdp=fsdp)
    else:
        stored = checkpoint.read_headers(folder, hf_config)
        config = checkpoint.fit(config, stored, dtype, folder)
        params = checkpoint.load_params(stored, config, dtype, mesh, fsdp=fsdp)
    return LM(
        config=config,
        params=params,
        tokenizer=text.load_tokenizer(folder),
        stop_ids=text.stop_ids(folder, hf_config),
        mesh=mesh,
        name=str(name_or_folder),
        dtype=dtype,
        adapter=(
            None if adapter is None else peft.load(adapter, config, mesh, base=stored, dtype=dtype)
        ),
        weights=f"random-{seed}" if random_weights else None,
        quantised=None if stored is None else gguf.dequantised_from(stored),
    )


def adapted(lm: LM, adapter: str, *, revision: str | None = None) -> LM:
    """Returns a loaded model with a LoRA adapter, over the same weights: no tensor is copied.

    An adapter that the model has already is left out. The file headers of the model are read again,
    to compare tensors of the model in the adapter's file.

    Args:
      lm: a model of `load`, into which no adapter was merged.
      adapter: the PEFT LoRA folder.
      revision: as `load` was given it.

    Raises FileNotFoundError or ValueError, in one line, where the adapter is not one of this model.
    """
    if lm.origin is not None:
        raise ValueError(f"{lm.name} has an adapter in its weights: load it without one")
    stored = None
    if lm.weights is None or not lm.weights.startswith("random-"):
        folder = checkpoint.find_folder(lm.name, revision=revision)
        hf_config = checkpoint.read_config(folder)
        stored = checkpoint.read_headers(folder, hf_config)
    return dataclasses.replace(
        lm,
        adapter=peft.load(adapter, lm.config, lm.mesh, base=stored, dtype=lm.dtype),
        adapter_name=None,  # the adapter's own
    )
