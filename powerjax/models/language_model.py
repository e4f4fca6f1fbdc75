"""LM: a loaded language model, and `load`."""

import dataclasses
import functools
import hashlib
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from powerjax.models import buckets, checkpoint, lora, peft, text, weight_files
from powerjax.models import prompts as prompts_lib
from powerjax.models.config import ModelConfig
from powerjax.models.decoder import CausalLM
from powerjax.records import scalars

_DTYPES = ("bfloat16", "float32", "float16")
_SCORE_ROWS, _SCORE_TOKENS = 64, 8192  # one scoring batch; powers of two
_SCORE_LOGITS = 1 << 26  # logits alive at once while scoring: 256 MiB


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LM:
    """A language model, as `load` returns it.

    tokenizer: None where the folder has none. stop_ids: any of them ends a completion.
    name: what `load` was given. adapter: applied beside `params`, as it is, wherever they are used;
        `merged` adds it to them (so do the samplers, for a run, where `params` are small).
        adapter_name: of either, None where there is none.
    weights: a name for `params` where they have one ("random-0" for seed 0); `identity` makes a
        hash of them where they have none. origin: `identity` before the adapter was merged.
    """

    config: ModelConfig
    params: dict
    tokenizer: object = None
    stop_ids: tuple[int, ...] = ()
    mesh: Mesh | None = None
    name: str = ""
    dtype: jnp.dtype = jnp.float32
    attention: str | None = None  # "xla" (the default) or "cudnn", see models/attention.py
    adapter: lora.Adapter | None = None
    adapter_name: str | None = None
    weights: str | None = None
    origin: dict | None = None

    def __post_init__(self):
        object.__setattr__(self, "dtype", jnp.dtype(self.dtype))
        if self.adapter is not None and self.adapter_name is None:
            object.__setattr__(self, "adapter_name", self.adapter.name)

    def model(self, long_context: bool = False, remat: bool = False) -> CausalLM:
        """The Linen module that `variables` belong to."""
        return CausalLM(self.config, self.dtype, long_context, self.attention, remat)

    @functools.cached_property
    def variables(self) -> dict:
        """What `model().apply` takes: {"params": ...}, and "lora" where there is an adapter."""
        if self.adapter is None:
            return {"params": self.params}
        scaled = lora.collection(self.adapter.params, self.adapter.config.scale)
        return {"params": self.params, "lora": scaled}

    def merged(self, *, donate: bool = False) -> "LM":
        """This model with its adapter added to the weights, which then costs nothing to apply.

        donate: reuse the memory of the old weights; this LM must then not be used afterwards.
        """
        if self.adapter is None:
            return self
        # In float32 a merge only adds numbers in another order; narrower weights are rounded.
        origin = self.identity | {"adapter_merged": jnp.dtype(self.dtype).itemsize < 4}
        params = lora.merge(self.params, self.adapter, donate=donate)
        return dataclasses.replace(self, params=params, adapter=None, origin=origin)

    @functools.cached_property
    def identity(self) -> dict:
        """Which weights draw a completion, as the fields of its record state it.

        adapter, adapter_hash, adapter_merged: None without an adapter; the last is whether a merge
        has rounded the weights. weights: a hash of the weights as they were loaded, or their name.
        dtype: their type.
        """
        if self.origin is not None and self.adapter is None:
            return self.origin
        adapter_hash = None
        if self.adapter is not None:
            scale = self.adapter.config.scale
            adapter_hash = _fingerprint(self.adapter.params, self.mesh, f"{scale:.6g} ")
        return {
            "adapter": self.adapter_name,
            "adapter_hash": adapter_hash,
            "adapter_merged": None if self.adapter is None else False,
            "weights": self.weights or self.fingerprint,
            "dtype": self.dtype.name,
        }

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of `params` by a few numbers of every tensor, the same on any mesh.

        It tells models of one name apart, not weights that differ in a few places only.
        """
        return _fingerprint(self.params, self.mesh)

    @property
    def num_parameters(self) -> int:
        """How many numbers `params` holds."""
        return sum(math.prod(x.shape) for x in jax.tree.leaves(self.params))

    def encode(self, text, *, special: bool = True, what: str = "the prompt") -> list[int]:
        """The token ids of a text, of token ids or of chat messages (see `prompts`), checked.

        special: encode a text with the special tokens the tokenizer adds, as a prompt has them; a
            completion has none. A rendered chat template has its own and gets none, see
            `text.encode`.
        what: names the text in messages.
        Raises ValueError for anything else, and for an id that the model has no embedding for.
        """
        return prompts_lib.encode(self, text, what, special=special)

    def decode(self, ids) -> str:
        """The text of token ids, special tokens left out."""
        if self.tokenizer is None:
            raise ValueError(f"{self.name or 'this model'} has no tokenizer files to decode with")
        return self.tokenizer.decode(prompts_lib.ids(self, ids), skip_special_tokens=True)

    def logits(self, tokens, lengths=None) -> jax.Array:
        """float32[B,T,V] of tokens[B,T], right-padded with anything past lengths[B].

        Row b is real up to lengths[b] and 0 after it.
        """
        tokens, lengths = _rectangle(tokens, lengths)
        batch, width = tokens.shape
        real = np.arange(width) < lengths[:, None]
        longest = int(lengths.max(initial=0))
        self.config.check_length(longest)
        prompts_lib.ids(self, tokens[real])
        padded = np.zeros((buckets.power_of_two(batch), buckets.power_of_two(width, 16)), np.int32)
        padded[:batch, :width] = np.where(real, tokens, 0)
        model = self.model(self.config.long_context(longest))
        logits = _unembed(model, self.variables, _hidden(model, self.variables, self._rows(padded)))
        return jnp.where(real[..., None], logits[:batch, :width], 0.0)

    def score(self, prompts, completions, *, long_context: bool | None = None) -> list[np.ndarray]:
        """log p(completion token | everything before it), float32, one array per completion.

        Eq. 1: an array's sum is the self-reward of its completion; the reported one is its mean.
        Both are lists. A prompt is a string, token ids or chat messages, a completion a string or
        token ids. A string is encoded alone and a string completion gets no EOS: give ids to have
        EOS scored. `long_context` overrules the choice of longrope's factors, which else goes by
        each sequence's own length.
        Raises ValueError for what is none of these, and names which prompt or completion it is.
        """
        prompts = prompts_lib.encode_all(self, prompts)
        completions = prompts_lib.encode_all(
            self, completions, "completion", special=False, chat=False
        )
        if len(prompts) != len(completions):
            raise ValueError(f"{len(prompts)} prompts but {len(completions)} completions")
        groups = {}  # (long factors?, width) -> rows, so that each shape is compiled once
        for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            if not prompt:
                raise ValueError(f"prompt {i} is empty: its first token would have no context")
            total = len(prompt) + len(completion)
            try:
                self.config.check_length(total)
            except ValueError as error:
                raise ValueError(f"prompt {i} and its completion: {error}") from None
            long = self.config.long_context(total) if long_context is None else long_context
            if completion:
                groups.setdefault((long, buckets.power_of_two(total - 1, 16)), []).append(i)
        scores = [np.zeros(0, np.float32)] * len(prompts)
        for (long, width), members in sorted(groups.items()):
            size = max(1, min(_SCORE_ROWS, _SCORE_TOKENS // width))
            for start in range(0, len(members), size):
                batch = members[start : start + size]
                found = self._score_batch(
                    [(prompts[i], completions[i]) for i in batch], width, self.model(long)
                )
                for i, log_probs in zip(batch, found, strict=True):
                    scores[i] = log_probs
        return scores

    def _score_batch(self, pairs, width: int, model: CausalLM) -> list[np.ndarray]:
        tokens = np.zeros((buckets.power_of_two(len(pairs)), width), np.int32)
        counts = [len(completion) for _, completion in pairs]
        # Flat places of the hidden states that predict completion tokens: no others are unembedded.
        places = np.zeros(buckets.power_of_two(sum(counts), 64), np.int32)
        targets = np.zeros_like(places)
        done = 0
        for row, (prompt, completion) in enumerate(pairs):
            fed = [*prompt, *completion[:-1]]
            tokens[row, : len(fed)] = fed
            stop = done + len(completion)
            places[done:stop] = row * width + np.arange(len(prompt) - 1, len(fed))
            targets[done:stop] = completion
            done = stop
        hidden = _hidden(model, self.variables, self._rows(tokens))
        log_probs = np.asarray(_token_log_probs(model, self.variables, hidden, places, targets))
        return np.split(log_probs[:done], np.cumsum(counts)[:-1])

    def _rows(self, tokens: np.ndarray) -> jax.Array:
        """tokens[B,T] on the devices, rows along the data axis where they divide."""
        if self.mesh is None:
            return jnp.asarray(tokens)
        even = tokens.shape[0] % self.mesh.shape["data"] == 0
        return jax.device_put(tokens, NamedSharding(self.mesh, P("data") if even else P()))

    def _with_adapter(self) -> str:
        if self.adapter is None:
            return f" with {self.adapter_name} merged" if self.adapter_name else ""
        return f" with {self.adapter_name or 'an adapter'} of rank {self.adapter.config.rank}"

    def __repr__(self) -> str:
        c = self.config
        where = jax.tree.leaves(self.params)[0].sharding
        places = f"{len(where.device_set)} x {next(iter(where.device_set)).platform}"
        return (
            f"LM({self.name or 'unnamed'}{self._with_adapter()}: {c.architecture}, "
            f"{self.num_parameters / 1e6:.3g} M parameters in {self.dtype.name} on {places}; "
            f"{c.num_layers} layers, width {c.hidden_size}, {c.num_heads} heads "
            f"({c.num_kv_heads} kv), vocabulary {c.vocab_size}, "
            f"context {c.max_position_embeddings}; stop ids {list(self.stop_ids)}; "
            f"{'no tokenizer' if self.tokenizer is None else type(self.tokenizer).__name__})"
        )


def _rectangle(tokens, lengths) -> tuple[np.ndarray, np.ndarray]:
    """tokens[B,T] and lengths[B] as integer arrays; ValueError where they are none."""
    try:
        tokens = np.asarray(tokens)
    except ValueError:  # rows of several lengths
        raise ValueError("tokens have rows of several lengths: pad them and give lengths") from None
    if tokens.ndim != 2:
        raise ValueError(f"tokens have shape {tokens.shape}: give one row per sequence, [B,T]")
    batch, width = tokens.shape
    lengths = np.full(batch, width) if lengths is None else np.asarray(lengths)
    for name, array in (("tokens", tokens), ("lengths", lengths)):
        if array.size and not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"{name} are {array.dtype}: give whole numbers")
    if lengths.shape != (batch,) or ((lengths < 0) | (lengths > width)).any():
        raise ValueError(f"lengths must be {batch} whole numbers from 0 to {width}")
    return tokens, lengths


@functools.partial(jax.jit, static_argnums=0)
def _hidden(model: CausalLM, variables: dict, tokens: jax.Array) -> jax.Array:
    """hidden[B,T,D] of whole sequences."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return model.apply(variables, tokens, positions)[0]


@functools.partial(jax.jit, static_argnums=0)
def _unembed(model: CausalLM, variables: dict, hidden: jax.Array) -> jax.Array:
    return model.apply(variables, hidden, method="unembed")


@functools.partial(jax.jit, static_argnums=0)
def _token_log_probs(
    model: CausalLM, variables: dict, hidden: jax.Array, places: jax.Array, targets: jax.Array
) -> jax.Array:
    """log p(targets[M]) at the flat places[M] of hidden[B,T,D]; [chunk,V] logits at a time."""
    chunk = 1 << max(0, (_SCORE_LOGITS // model.config.vocab_size).bit_length() - 1)
    chunk = min(chunk, places.shape[0])

    def log_probs(part):
        rows, wanted = part
        logits = model.apply(variables, rows, method="unembed")
        found = jnp.take_along_axis(logits, wanted[:, None], axis=-1)[:, 0]
        return found - jax.nn.logsumexp(logits, axis=-1)

    rows = hidden.reshape(-1, hidden.shape[-1])[places]
    parts = rows.reshape(-1, chunk, rows.shape[-1]), targets.reshape(-1, chunk)
    return jax.lax.map(log_probs, parts).reshape(-1)


def _fingerprint(tensors: dict, mesh: Mesh | None, beginning: str = "") -> str:
    """A hash of `beginning` and of a few numbers of every tensor, the same on any mesh."""
    few = _few_numbers(None if mesh is None else NamedSharding(mesh, P()))
    digest = hashlib.sha256(beginning.encode())
    for path, x in jax.tree_util.tree_leaves_with_path(tensors):
        digest.update(f"{jax.tree_util.keystr(path)} {x.shape} {x.dtype}".encode())
        digest.update(np.asarray(few(x)).tobytes())
    return digest.hexdigest()[:16]


@functools.cache
def _few_numbers(everywhere: NamedSharding | None):
    """The compiled function of `_fingerprint`, kept so that it is compiled once for each shape."""
    return jax.jit(lambda x: x[(0,) * (x.ndim - 1)][:64], out_shardings=everywhere)


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
    """Loads "tiny", a Hugging Face id, or a folder in the Hugging Face format.

    mesh: devices to lay the weights on; fsdp: split them over its "data" axis as well.
    adapter: a PEFT LoRA folder, applied without a merge (`LM.merged` merges it).
    random_weights: the same architecture with N(0, initializer_range) weights drawn from `seed`,
        from 0 to 2**32 - 1 (the paper's RandW); needs config.json alone.
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
        stored = weight_files.read_headers(folder, hf_config.get("transformers_weights"))
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
    )
