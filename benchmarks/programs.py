"""Compiles the project's programs for TPUs without a TPU, from shapes without values.

libtpu holds the whole TPU compiler, which runs on any host. It compiles here what a host with these
chips would run, so its figures for memory and collectives hold there.
"""

import dataclasses
import math
import os
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import collectives as collectives_lib
from benchmarks.shapes import PHI_35_MINI, QWEN_7B
from powerjax.distill import step as step_lib
from powerjax.models import LM, ModelConfig
from powerjax.models import sharding as sharding_lib
from powerjax.models.cache import init_cache
from powerjax.models.layout import tensors
from powerjax.models.lora import LoraConfig
from powerjax.plan.hardware import CHIPS, Chip
from powerjax.sample import feed, memory, mh, placement, shapes, slots

MODELS = {"Qwen2.5-7B": QWEN_7B, "Phi-3.5-mini": PHI_35_MINI}


class Unavailable(RuntimeError):
    """There is no libtpu here, or another process holds it."""


def devices(topology: str) -> list:
    """Returns the devices of a topology such as "v5e:2x4", as JAX counts them on such a machine.

    Raises Unavailable where libtpu cannot be used.
    """
    # Outside of Google's cloud libtpu waits for these in vain.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "none")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # it opens no device
    from jax.experimental import topologies

    options = {}
    if topology.startswith("v4"):
        options["chip_config_name"] = "megacore"  # v4 shows its two cores as one device
    if math.prod(map(int, topology.split(":")[1].split("x"))) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return topologies.get_topology_desc(topology, "tpu", **options).devices
    except (RuntimeError, NotImplementedError) as error:
        raise Unavailable(f"{error}".splitlines()[0]) from error


def chip(topology: str) -> Chip:
    return CHIPS[topology.split(":")[0]]


@dataclasses.dataclass(frozen=True)
class Program:
    """A traced program.

    about: its shapes, in words.
    tokens: those that one turn of its loop (or one call, without a loop) serves on all devices.
    least_bytes: what each device must at least read in that turn.
    """

    traced: object
    about: str
    tokens: int
    least_bytes: int

    def compile(self) -> "Compiled":
        """Compiles it with libtpu. Raises JaxRuntimeError where the chips' memory is too small."""
        began = time.perf_counter()
        compiled = self.traced.lower(lowering_platforms=("tpu",)).compile()
        return Compiled(self, compiled, time.perf_counter() - began)


def model(config: ModelConfig, mesh: Mesh, *, fsdp: bool = False) -> LM:
    """Returns the model in bfloat16 without values, laid out as `models.load` does it."""
    flat = {
        path: jax.ShapeDtypeStruct(
            tensor.shape,
            jnp.bfloat16,
            sharding=sharding_lib.param_sharding(path, tensor.shape, config, mesh, fsdp=fsdp),
        )
        for path, tensor in tensors(config).items()
    }
    params = traverse_util.unflatten_dict(flat, sep="/")
    return LM(config, params, mesh=mesh, dtype=jnp.bfloat16, stop_ids=(0, 1))


def distill(
    config: ModelConfig,
    mesh: Mesh,
    *,
    fsdp: bool = False,
    remat: bool = True,
    length: int = 1024,
    batch_size: int = 8,
    lora: LoraConfig | None = None,
) -> Program:
    """Returns the paper's training step.

    Each row of the mesh takes one row of `length` tokens at a time, and accumulates gradients until
    all have taken `batch_size` rows.
    """
    lm, lora = model(config, mesh, fsdp=fsdp), lora or LoraConfig()
    settings = step_lib.Settings(learning_rate=1e-4, num_steps=100, remat=remat)
    rows = mesh.shape["data"]
    shape = (batch_size // rows, rows, length)
    places = step_lib.batch_sharding(mesh)
    batch = step_lib.Batch(
        jax.ShapeDtypeStruct(shape, jnp.int32, sharding=places.tokens),
        jax.ShapeDtypeStruct(shape, jnp.bool_, sharding=places.completion),
        jax.ShapeDtypeStruct(shape[:2], jnp.int32, sharding=places.example),
    )
    state = step_lib.abstract_state(config, lora, settings, mesh)
    traced = step_lib.make_step(lm, lora, settings, mesh).trace(state, lm.params, batch)
    about = f"1 x {length} tokens a row" + ("" if remat else ", no remat")
    # Weights are read forward and backward. Split weights are gathered, so they are read whole.
    whole = model(config, mesh)
    return Program(traced, about, rows * length, 2 * _num_bytes(whole.params))


def slot_loop(
    config: ModelConfig,
    mesh: Mesh,
    chip: Chip,
    *,
    prompt: int = 512,
    max_new_tokens: int = 3072,
    num_slots: int | None = None,
) -> Program:
    """Returns one engine's loop on the first row of the mesh, at its longest cache.

    num_slots: slots of this engine; None for as many as it would take on this chip.
    """
    lm, home = _engine(config, mesh)
    if num_slots is None:
        free = chip.memory_bytes - _num_bytes(lm.params)
        with mock.patch.object(memory, "free_bytes", lambda device: free):
            num_slots = memory.pick_num_slots(lm, prompt, max_new_tokens, 1 << 20)
    settings = mh.settings(
        block_size=192,
        num_mcmc_steps=10,
        max_new_tokens=max_new_tokens,
        stop_ids=lm.stop_ids,
    )
    window = prompt + max_new_tokens

    def start():
        where = placement.Home(cache=home.cache)
        model = placement.module(lm, False)
        return slots.init(model, num_slots, window, max_new_tokens, settings, where)

    state = jax.eval_shape(start)
    caches = _place((state.cache, state.undo), home.cache)
    state = _place(state._replace(cache=(), undo=()), home.rest)
    state = state._replace(cache=caches[0], undo=caches[1])
    room = max(8, 2 * num_slots)
    column = jax.ShapeDtypeStruct((room,), jnp.int32)
    queue = slots.Queue(
        prefix=_prefix(lm, num_slots, prompt, home.cache),
        prefix_row=column,
        prompt_length=column,
        prompt_last=column,
        key=jax.ShapeDtypeStruct((room, 2), jnp.uint32),
        request=column,
        first_step=column,
        size=jax.ShapeDtypeStruct((), jnp.int32),
    )
    traced = slots.run.trace(
        placement.module(lm, False),
        lm.variables,
        state,
        queue,
        settings,
        np.int32(1000),
        np.bool_(True),
    )
    least = _num_bytes(lm.params) + _num_bytes(state.cache)
    return Program(traced, f"{num_slots} slots of {window}", num_slots, least)


def prefill(config: ModelConfig, mesh: Mesh, *, prompt: int = 512, num_slots: int = 64) -> Program:
    """Returns the prefill of one batch of prompts on the first row of the mesh."""
    lm, home = _engine(config, mesh)
    rows = shapes.PREFILL_ROWS
    traced = feed._prefill.trace(
        placement.module(lm, False),
        lm.variables,
        _prefix(lm, num_slots, prompt, home.cache),
        jax.ShapeDtypeStruct((rows, prompt), jnp.int32),
        jax.ShapeDtypeStruct((rows,), jnp.int32),
    )
    return Program(traced, f"{rows} x {prompt} tokens", rows * prompt, _num_bytes(lm.params))


def _engine(config: ModelConfig, mesh: Mesh) -> tuple[LM, placement.Home]:
    """Returns the model and the home of the first row's engine.

    The row is a mesh also where it is one device.
    """
    row = Mesh(mesh.devices[:1], mesh.axis_names, axis_types=mesh.axis_types)
    lm = model(config, row)
    return lm, placement.Home(placement.cache_sharding(config, row), NamedSharding(row, P()))


def _prefix(lm: LM, num_slots: int, prompt: int, place: NamedSharding):
    """Returns the cache of the queue's prompts, at its largest: each chain has its own prompt."""
    rows = num_slots + shapes.PREFILL_ROWS + 1
    empty = jax.eval_shape(lambda: init_cache(lm.config, rows, prompt, lm.dtype, place))
    return _place(empty, place)


def _place(tree, sharding):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _num_bytes(tree) -> int:
    """Returns the bytes that one device holds of a tree of shapes."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of a program. Bytes and operations are of one device."""

    program: Program
    compiled: object
    seconds: float

    @property
    def argument_bytes(self) -> int:
        return self.compiled.memory_analysis().argument_size_in_bytes

    @property
    def temporary_bytes(self) -> int:
        """Bytes beside the arguments. Results that reuse no argument's memory are among them."""
        memory = self.compiled.memory_analysis()
        return memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes

    @property
    def flops(self) -> float:
        """Operations of one call, with each loop's body counted once."""
        return self.compiled.cost_analysis()["flops"]

    @property
    def moved_bytes(self) -> float:
        """Bytes of the operands and results of all operations, with each loop's body counted once.

        This is more than goes to and from memory: data that stays in the chip's fast memory counts
        as well, and an array counts whole where an operation touches a part of it.
        """
        return self.compiled.cost_analysis()["bytes accessed"]

    def collectives(self) -> list[collectives_lib.Collective]:
        """Returns each collective operation once, also asynchronous and fused ones."""
        return collectives_lib.find(self.compiled.as_text())
