"""What one model step applies: a model alone, or a model and its proposal model side by side.

`slots` and `feed` call these functions with a `CausalLM`, or with a `Pair`. A pair reads the same
tokens at the same positions by both models, and keeps the K/V of both current. It does so in one of
two ways:

    proposal = the base with an adapter   one batch of twice the rows over one set of weights; the
                                          second half of the rows has the adapter (a gate per row)
    proposal = any other model            two applications; the cache has the layers of both models

Letters as in models/decoder.py. S slots are here the rows of one model, and a cache of the first
way has 2S rows.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from powerjax.models import lora
from powerjax.models.cache import KVCache, cache_sharding, init_cache, save_slots
from powerjax.models.decoder import CausalLM


@dataclasses.dataclass(frozen=True)
class Pair:
    """A model and its proposal model.

    Attributes:
      base: the module of the model.
      proposal: the module of the proposal model; None where it is the base with an adapter. The
        variables of such a pair are those of the model with the adapter; else they are
        {"base": ..., "proposal": ...}.
    """

    base: CausalLM
    proposal: CausalLM | None

    @property
    def mesh(self) -> Mesh | None:
        """The mesh that both models are split over; None on one device."""
        return self.base.mesh

    @property
    def is_shared(self) -> bool:
        """Whether one set of weights serves both models."""
        return self.proposal is None


Model = CausalLM | Pair


def modules(model: Model) -> tuple[CausalLM, ...]:
    """The modules whose layers a cache holds, in the order of its layers."""
    if isinstance(model, CausalLM):
        return (model,)
    return (model.base,) if model.proposal is None else (model.base, model.proposal)


def cache_rows(model: Model, count: int) -> int:
    """How many rows of a cache serve `count` slots, or prompts."""
    return 2 * count if isinstance(model, Pair) and model.is_shared else count


def every_row(model: Model, values: Array) -> Array:
    """Repeats values [S,...] for all rows of a cache, such as positions of slots."""
    copies = cache_rows(model, 1)
    return values if copies == 1 else jnp.concatenate([values] * copies)


def same_rows(model: Model, row: Array, count: int) -> list[Array]:
    """The rows of a cache that belong to one slot, or prompt, of `count`."""
    return [row + copy * count for copy in range(cache_rows(model, 1))]


def empty_cache(model: Model, count: int, length: int, places: tuple[Any, ...] = ()) -> KVCache:
    """A cache for `count` slots, or prompts, of `length` positions.

    places: the sharding of each module's arrays; () puts all on the default device.
    """
    rows = cache_rows(model, count)
    parts = [
        init_cache(module.config, rows, length, module.dtype, places[i] if places else None)
        for i, module in enumerate(modules(model))
    ]
    return _joined(parts)


def shardings(model: Model) -> KVCache | None:
    """The sharding of each array of a cache; None without a mesh."""
    mesh = model.mesh
    if mesh is None:
        return None
    layers: list[Any] = []
    for module in modules(model):
        layers += [cache_sharding(module.config, mesh)] * module.config.num_layers
    return KVCache(k=tuple(layers), v=tuple(layers))


def save(model: Model, undo: KVCache, cache: KVCache, positions: Array) -> tuple[KVCache, Array]:
    """`cache.save_slots` for every module: (undo, the positions to write at), int32 [rows]."""
    saved = []
    caches = zip(modules(model), _parts(model, undo), _parts(model, cache), strict=True)
    for module, old, new in caches:
        place = None if model.mesh is None else cache_sharding(module.config, model.mesh)
        part, positions = save_slots(old, new, positions, place)
        saved.append(part)
    return _joined(saved), positions


def decode(
    model: Model, variables: Mapping[str, Any], tokens: Array, positions: Array, cache: KVCache
) -> tuple[Array, Array | None, KVCache]:
    """One model step.

    Args:
      model: the module or the pair.
      variables: its weights.
      tokens: int32 [S], the token that each slot is fed.
      positions: int32 [rows], where each row of the cache is written (`save`).
      cache: of the slots.

    Returns:
      (logits [S,V], the proposal model's logits [S,V] or None, the cache), the logits whole on
      every device.
    """
    hidden, cache = _apply(model, variables, every_row(model, tokens)[:, None], positions, cache)
    sets = _variables(model, variables)
    logits = [
        whole(module.apply(part, h[:, 0], method="unembed"), model.mesh)
        for module, part, h in zip(modules(model), sets, hidden, strict=True)
    ]
    if isinstance(model, CausalLM):
        return logits[0], None, cache
    base, proposal = jnp.split(logits[0], 2) if model.is_shared else logits
    return base, proposal, cache


def prefill(model: Model, variables: Mapping[str, Any], tokens: Array) -> KVCache:
    """The K/V of whole prompts, tokens int32 [B,T]: each array [rows,K,T,H]."""
    return _apply(model, variables, every_row(model, tokens), None, None)[1]


def whole(tree: Any, mesh: Mesh | None) -> Any:
    """The arrays of a tree, each whole on every device of the mesh."""
    if mesh is None:
        return tree
    return lax.with_sharding_constraint(tree, NamedSharding(mesh, P()))


def _apply(model, variables, tokens, positions, cache) -> tuple[list[Array], KVCache]:
    """([hidden [rows,T,D] of each module], the new cache).

    positions: int32 [rows]; None for whole sequences.
    """
    if positions is None:
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    else:
        positions = positions[:, None]
    sets = _variables(model, variables)
    if isinstance(model, Pair) and model.is_shared:
        gate = jnp.arange(tokens.shape[0]) >= tokens.shape[0] // 2
        sets = [{**sets[0], "lora": lora.gated(sets[0]["lora"], gate)}]
    parts = [None] * len(sets) if cache is None else _parts(model, cache)
    hidden: list[Array] = []
    caches: list[KVCache] = []
    for module, part, layers in zip(modules(model), sets, parts, strict=True):
        h, new = cast(Any, module.apply(part, tokens, positions, layers))
        hidden.append(h)
        caches.append(new)
    return hidden, _joined(caches)


def _variables(model: Model, variables: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The variables of each module."""
    if isinstance(model, Pair) and not model.is_shared:
        return [variables["base"], variables["proposal"]]
    return [variables]


def _parts(model: Model, cache: KVCache) -> list[KVCache]:
    """The layers of each module in a cache."""
    parts, start = [], 0
    for module in modules(model):
        stop = start + module.config.num_layers
        parts.append(KVCache(cache.k[start:stop], cache.v[start:stop]))
        start = stop
    return parts


def _joined(parts: list[KVCache]) -> KVCache:
    """One cache with the layers of all parts."""
    if len(parts) == 1:
        return parts[0]
    return KVCache(sum((p.k for p in parts), ()), sum((p.v for p in parts), ()))
