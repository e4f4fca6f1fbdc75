"""Logits and log-probabilities of whole sequences, in batches of few shapes.

Batch sizes are rounded up to powers of two, and sequence lengths to these or to one and a half of
them, so that each program is compiled for few shapes. Letters as in decoder.py.
"""

import functools
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from powerjax.models import buckets
from powerjax.models import prompts as prompts_lib
from powerjax.models.decoder import CausalLM

_SCORE_ROWS, _SCORE_TOKENS = 64, 8192  # the most in one scoring batch; powers of two
_SCORE_LOGITS = 1 << 26  # logits alive at once while scoring: 256 MiB


class Scorer(prompts_lib.Encoder, Protocol):
    """What this file needs of a loaded model, see `language_model.LM`."""

    @property
    def mesh(self) -> Mesh | None: ...

    @property
    def variables(self) -> Mapping[str, Any]: ...

    def model(self, long_context: bool = False, remat: bool = False) -> CausalLM: ...


def logits(lm: Scorer, tokens, lengths=None) -> jax.Array:
    """Returns float32[B,T,V], see `LM.logits`."""
    tokens, lengths = _rectangle(tokens, lengths)
    batch, width = tokens.shape
    real = np.arange(width) < lengths[:, None]
    longest = int(lengths.max(initial=0))
    lm.config.check_length(longest)
    prompts_lib.ids(lm, tokens[real])
    padded = np.zeros((buckets.power_of_two(batch), buckets.half_octave(width, 16)), np.int32)
    padded[:batch, :width] = np.where(real, tokens, 0)
    model = lm.model(lm.config.long_context(longest))
    hidden = _hidden(model, lm.variables, _on_devices(padded, lm.mesh))
    unmasked = _unembed(model, lm.variables, hidden)[:batch, :width]
    return jnp.where(real[..., None], unmasked, 0.0)


def score(
    lm: Scorer, prompts, completions, *, long_context: bool | None = None
) -> list[np.ndarray]:
    """Returns float32[tokens] per completion, see `LM.score`."""
    prompts = prompts_lib.encode_all(lm, prompts)
    completions = prompts_lib.encode_all(lm, completions, "completion", special=False, chat=False)
    groups = _groups(lm, prompts, completions, long_context)
    scores = [np.zeros(0, np.float32)] * len(prompts)
    for (long, width), members in sorted(groups.items()):
        size = max(1, min(_SCORE_ROWS, _SCORE_TOKENS // width))
        for start in range(0, len(members), size):
            batch = members[start : start + size]
            pairs = [(prompts[i], completions[i]) for i in batch]
            for i, log_probs in zip(batch, _score_batch(lm, pairs, width, long), strict=True):
                scores[i] = log_probs
    return scores


def _groups(
    lm: Scorer, prompts: list[list[int]], completions: list[list[int]], long_context: bool | None
) -> dict[tuple[bool, int], list[int]]:
    """Groups pairs by (whether they take longrope's long factors, padded width in tokens).

    Pairs with an empty completion are in no group. Raises ValueError for a pair that cannot be
    scored.
    """
    if len(prompts) != len(completions):
        raise ValueError(f"{len(prompts)} prompts but {len(completions)} completions")
    groups: dict[tuple[bool, int], list[int]] = {}
    for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        if not prompt:
            raise ValueError(f"prompt {i} is empty: its first token would have no context")
        total = len(prompt) + len(completion)
        try:
            lm.config.check_length(total)
        except ValueError as error:
            raise ValueError(f"prompt {i} and its completion: {error}") from None
        long = lm.config.long_context(total) if long_context is None else long_context
        if completion:
            groups.setdefault((long, buckets.half_octave(total - 1, 16)), []).append(i)
    return _few(groups)


def _few(groups: dict[tuple[bool, int], list[int]]) -> dict[tuple[bool, int], list[int]]:
    """Makes one group of all widths where one batch holds them, so that one program is compiled."""
    merged = dict(groups)
    for long in (False, True):
        widths = [width for flag, width in groups if flag == long]
        rows = [i for width in widths for i in groups[long, width]]
        if widths and len(rows) <= max(1, min(_SCORE_ROWS, _SCORE_TOKENS // max(widths))):
            merged = {key: members for key, members in merged.items() if key[0] != long}
            merged[long, max(widths)] = sorted(rows)
    return merged


def _score_batch(
    lm: Scorer, pairs: list[tuple[list[int], list[int]]], width: int, long_context: bool
) -> list[np.ndarray]:
    """Scores (prompt, completion) pairs in one batch of `width` tokens per row."""
    tokens = np.zeros((buckets.power_of_two(len(pairs)), width), np.int32)
    counts = [len(completion) for _, completion in pairs]
    # Indices into the flattened [B*T] hidden states, of those that predict a completion's token:
    # no others are unembedded.
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
    model = lm.model(long_context)
    hidden = _hidden(model, lm.variables, _on_devices(tokens, lm.mesh))
    log_probs = np.asarray(_token_log_probs(model, lm.variables, hidden, places, targets))
    return np.split(log_probs[:done], np.cumsum(counts)[:-1])


def _on_devices(tokens: np.ndarray, mesh: Mesh | None) -> jax.Array:
    """Puts tokens[B,T] on the devices, split by rows over "data" if "data" divides B."""
    if mesh is None:
        return jnp.asarray(tokens)
    even = tokens.shape[0] % mesh.shape["data"] == 0
    return jax.device_put(tokens, NamedSharding(mesh, P("data") if even else P()))


def _rectangle(tokens, lengths) -> tuple[np.ndarray, np.ndarray]:
    """Returns tokens[B,T] and lengths[B] as integer arrays. Raises ValueError where they are not.

    lengths: None stands for T in every row.
    """
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
def _hidden(model: CausalLM, variables: dict[str, Any], tokens: jax.Array):
    """Returns hidden[B,T,D] of whole sequences."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return model.apply(variables, tokens, positions)[0]


@functools.partial(jax.jit, static_argnums=0)
def _unembed(model: CausalLM, variables: dict[str, Any], hidden: jax.Array):
    """Returns logits[B,T,V] of hidden[B,T,D]."""
    return model.apply(variables, hidden, method="unembed")


@functools.partial(jax.jit, static_argnums=0)
def _token_log_probs(
    model: CausalLM,
    variables: dict[str, Any],
    hidden: jax.Array,
    places: jax.Array,
    targets: jax.Array,
) -> jax.Array:
    """Returns float32[M], log p(targets[M]) at places[M], which are indices into hidden as [B*T,D].

    The logits are made for one chunk of places at a time, [chunk,V], and never all at once.
    """
    chunk = 1 << max(0, (_SCORE_LOGITS // model.config.vocab_size).bit_length() - 1)
    chunk = min(chunk, places.shape[0])

    def log_probs(part):
        rows, token_ids = part
        logits = model.apply(variables, rows, method="unembed")
        unnormalised = jnp.take_along_axis(logits, token_ids[:, None], axis=-1)[:, 0]
        return unnormalised - jax.nn.logsumexp(logits, axis=-1)

    rows = hidden.reshape(-1, hidden.shape[-1])[places]
    parts = rows.reshape(-1, chunk, rows.shape[-1]), targets.reshape(-1, chunk)
    return jax.lax.map(log_probs, parts).reshape(-1)
