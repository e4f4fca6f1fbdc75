"""The project's programs for TPUs that are not there: shapes without values, compiled as they run.

libtpu holds the whole TPU compiler and needs no TPU for it. What it compiles here is what a host
with these chips would run, so what it says of memory and collectives holds there.
"""

import collections
import dataclasses
import math
import os
import re
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

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
    """There is no libtpu here, or it is another process's."""


def devices(topology: str) -> list:
    """The devices of "v5e:2x4" and the like, as JAX counts them on such a machine.

    Raises Unavailable.
    """
    # Away from Google's cloud libtpu asks for these in vain.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "none")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # it opens no device
    from jax.experimental import topologies

    options = {}
    if topology.startswith("v4"):
        options["chip_config_name"] = "megacore"  # two cores, one device: how v4 is served
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

    tokens: what one turn of its loop, or one call, serves on all its devices.
    least_bytes: what a device cannot but read in that turn.
    """

    traced: object
    about: str
    tokens: int
    least_bytes: int

    def compile(self) -> "Compiled":
        """By libtpu; raises JaxRuntimeError where the chips' memory is too small."""
        began = time.perf_counter()
        compiled = self.traced.lower(lowering_platforms=("tpu",)).compile()
        return Compiled(self, compiled, time.perf_counter() - began)


def model(config: ModelConfig, mesh: Mesh, *, fsdp: bool = False) -> LM:
    """The model in bfloat16, laid out as `models.load` does it."""
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
    """The paper's training step: one row of `length` tokens a data row, accumulated to 8."""
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
    # Weights are read forward and backward, whole where they are gathered.
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
    """One engine's loop, on the first row of the mesh, at its longest cache.

    num_slots: of this engine; None: as many as the engine would take on this chip.
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
        return slots.init(config, num_slots, window, max_new_tokens, settings, lm.dtype, where)

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


def prefill(
    config: ModelConfig,
    mesh: Mesh,
    chip: Chip,
    *,
    prompt: int = 512,
    num_slots: int = 64,
) -> Program:
    """One batch of prompts, on the first row of the mesh."""
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
    """What the engine of the mesh's first row works with; a mesh also where it is one device."""
    row = Mesh(mesh.devices[:1], mesh.axis_names, axis_types=mesh.axis_types)
    lm = model(config, row)
    return lm, placement.Home(placement.cache_sharding(config, row), NamedSharding(row, P()))


def _prefix(lm: LM, num_slots: int, prompt: int, place: NamedSharding):
    """The queue's prompts, each of its own chain (the most there can be)."""
    rows = num_slots + shapes.PREFILL_ROWS + 1
    empty = jax.eval_shape(lambda: init_cache(lm.config, rows, prompt, lm.dtype, place))
    return _place(empty, place)


def _place(tree, sharding):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _num_bytes(tree) -> int:
    """On one device."""
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
        """Beside the arguments, results that reuse no argument included."""
        found = self.compiled.memory_analysis()
        return found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes

    @property
    def flops(self) -> float:
        """Of one call, each loop's body counted once."""
        return self.compiled.cost_analysis()["flops"]

    @property
    def moved_bytes(self) -> float:
        """Operands and results of all operations, each loop's body counted once.

        More than goes to and from memory: what stays in the chip's fast memory is counted as well,
        and so is the whole of an array of which an operation touches a part.
        """
        return self.compiled.cost_analysis()["bytes accessed"]

    def collectives(self) -> list["Collective"]:
        """Each collective operation once, asynchronous ones included, however they are fused."""
        return find_collectives(self.compiled.as_text())


@dataclasses.dataclass(frozen=True)
class Collective:
    """kind: "all-reduce" and so on; shapes: of its results on one device ("bf16[1,1024,3584]")."""

    kind: str
    shapes: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        return sum(_shape_bytes(shape) for shape in self.shapes)


_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast"
_OPERATION = re.compile(rf" = (.*?) ({_KINDS})(-start)?\(.*channel_id=(\d+)")
_SHAPE = re.compile(r"([a-z]+\d*)\[([\d,]*)\]")


def find_collectives(text: str) -> list[Collective]:
    """The collectives of a compiled program's text."""
    found = {}
    for line in text.splitlines():
        match = _OPERATION.search(line)
        if match and match[4] not in found:
            shapes = [f"{dtype}[{sizes}]" for dtype, sizes in _SHAPE.findall(match[1])]
            if match[3] and match[2] != "all-reduce":  # (operands, results, flags)
                shapes = [s for s in shapes if s != "u32[]"]
                shapes = shapes[len(shapes) // 2 :]
            found[match[4]] = Collective(match[2], tuple(shapes))
    return list(found.values())


def summarize(collectives: list[Collective]) -> dict[str, tuple[int, int]]:
    """kind -> (operations, bytes of their results on one device)."""
    count, size = collections.Counter(), collections.Counter()
    for item in collectives:
        count[item.kind] += 1
        size[item.kind] += item.num_bytes
    return {kind: (count[kind], size[kind]) for kind in sorted(count)}


def _shape_bytes(shape: str) -> int:
    dtype, sizes = _SHAPE.fullmatch(shape).groups()
    bits = 8 if dtype == "pred" else int(re.search(r"\d+", dtype)[0])
    return math.prod(map(int, filter(None, sizes.split(",")))) * bits // 8
