"""Where an engine's arrays lie, and the model of each row of a mesh.

A mesh of data D x model M is D engines of M devices each. Chains share nothing, so engines share
nothing either: no program runs over the "data" axis, and no engine waits for another's chains.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, Sharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from powerjax.models.cache import cache_sharding
from powerjax.models.decoder import CausalLM
from powerjax.models.language_model import LM
from powerjax.sample import pair


class Home(NamedTuple):
    """The shardings of an engine's arrays. None means JAX's default device, as for its weights."""

    cache: Sharding | None = None  # of each array of a K/V cache
    rest: Sharding | None = None  # of everything else, which each device holds whole
    proposal_cache: Sharding | None = None  # as `cache`, of a proposal model's own layers

    @property
    def caches(self) -> tuple[Sharding | None, ...]:
        """The sharding of each model's K/V."""
        return self.cache, self.proposal_cache


def home(lm: LM, proposal: LM | None = None) -> Home:
    """The Home of an engine for this model: its arrays lie where the weights lie.

    Raises ValueError where the weights lie on several devices and the model has no mesh.
    """
    leaf = jax.tree.leaves(lm.params)[0]
    if not leaf.committed:
        return Home()
    if len(leaf.sharding.device_set) == 1:
        (device,) = leaf.sharding.device_set
        return Home(*3 * (SingleDeviceSharding(device),))
    if lm.mesh is None:
        raise ValueError(f"{lm.name or 'the model'} lies on several devices but has no mesh")
    whole = NamedSharding(lm.mesh, P())
    if proposal is None:
        return Home(cache_sharding(lm.config, lm.mesh), whole)
    return Home(cache_sharding(lm.config, lm.mesh), whole, cache_sharding(proposal.config, lm.mesh))


def module(
    lm: LM,
    long_context: bool,
    proposal: LM | None = None,
    other_long_context: bool = False,
) -> pair.Model:
    """The Flax module that an engine applies, or the pair of it and the proposal model's.

    A module knows its mesh where it is split over devices.

    long_context, other_long_context: whether longrope's long factors are used, by each model.
    """
    model = _module(lm, long_context)
    if proposal is None:
        return model
    if is_adapted(lm, proposal):
        return pair.Pair(model, None)
    return pair.Pair(model, _module(proposal, other_long_context))


def _module(lm: LM, long_context: bool) -> CausalLM:
    model = lm.model(long_context)
    return model if lm.mesh is None or lm.mesh.size == 1 else model.clone(mesh=lm.mesh)


def variables(lm: LM, proposal: LM | None = None) -> dict[str, Any]:
    """The weights that `module` is applied to."""
    if proposal is None:
        return lm.variables
    if is_adapted(lm, proposal):
        return proposal.variables
    return {"base": lm.variables, "proposal": proposal.variables}


def is_adapted(lm: LM, proposal: LM) -> bool:
    """Whether the proposal model is the model itself with an adapter beside its weights."""
    return lm.adapter is None and proposal.adapter is not None and proposal.params is lm.params


def devices(lm: LM) -> tuple[jax.Device, ...]:
    """The devices that hold the model's weights, ordered by their ids."""
    leaf = jax.tree.leaves(lm.params)[0]
    return tuple(sorted(leaf.sharding.device_set, key=lambda device: device.id))


def num_rows(lm: LM) -> int:
    """The length of the mesh's "data" axis; 1 without a mesh.

    It is also the number of engines, except that a small model on one CPU device has several
    (`workers.count_workers`).
    """
    return 1 if lm.mesh is None else lm.mesh.shape["data"]


def rows(lm: LM) -> list[LM]:
    """The model once for each row of its mesh, on that row's devices alone; [lm] without a mesh.

    Weights that are replicated over "data" are not copied. Weights that are split over it (fsdp)
    are gathered in every row.

    Raises ValueError if the mesh has devices of other processes.
    """
    if lm.mesh is None:
        return [lm]
    here = jax.process_index()
    if any(device.process_index != here for device in lm.mesh.devices.flat):
        raise ValueError(
            f"a mesh of {lm.mesh.size} devices has some of other processes: each process samples"
            " on a mesh of its own, powerjax.parallel.mesh.make_mesh(devices=jax.local_devices())"
        )
    return [_row(lm, lm.mesh, i) for i in range(lm.mesh.shape["data"])]


def rows_of_all(lm: LM, others: Mapping[str, LM | None]) -> list[tuple[LM, dict[str, Any]]]:
    """(the model, the other models by name) for each row of the mesh, as `rows` gives the model.

    Raises ValueError as `rows` does, and where a model lies on another mesh than the first.
    """
    split: list[tuple[LM, dict[str, Any]]] = [(row, {}) for row in rows(lm)]
    for name, other in others.items():
        if other is not None and other.mesh != lm.mesh:
            raise ValueError(f"the {name} lies on another mesh than the model: load both on one")
        parts = [None] * len(split) if other is None else rows(other)
        for (row, named), part in zip(split, parts, strict=True):
            if part is not None and other is not None and is_adapted(lm, other):
                part = dataclasses.replace(part, params=row.params)  # they stay one and the same
            named[name] = part
    return split


def _row(lm: LM, whole: Mesh, row: int) -> LM:
    """The model on the devices of one row of the mesh `whole`."""
    grid: np.ndarray = whole.devices[row : row + 1]
    mesh = Mesh(grid, whole.axis_names, axis_types=whole.axis_types) if grid.size > 1 else None

    def take(x: jax.Array) -> jax.Array:
        """The row's part of an array, without a copy where its devices hold all of it."""
        spec = getattr(x.sharding, "spec", P())
        if getattr(x.sharding, "mesh", None) != whole or "data" in jax.tree.leaves(tuple(spec)):
            spec = P(*("model" if name == "model" else None for name in spec))
            place = SingleDeviceSharding(grid.item()) if mesh is None else NamedSharding(mesh, spec)
            return jax.device_put(x, place)
        parts = {shard.device: shard.data for shard in x.addressable_shards}
        if mesh is None:
            return parts[grid.item()]
        return jax.make_array_from_single_device_arrays(
            x.shape, NamedSharding(mesh, spec), [parts[device] for device in grid.flat]
        )

    adapter = lm.adapter
    if adapter is not None:
        adapter = dataclasses.replace(adapter, params=jax.tree.map(take, adapter.params))
    return dataclasses.replace(lm, params=jax.tree.map(take, lm.params), mesh=mesh, adapter=adapter)
