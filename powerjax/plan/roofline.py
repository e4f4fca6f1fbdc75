"""What a model takes of a chip that is not here: bytes on each device, slots, time by the roofline.

From a config.json and the chip's data sheet alone. The roofline is a floor: a model step reads the
weights and all slots' caches once and does each product once, at the chip's peak; a share of it is
what programs reach. What a run will draw is `workload.Workload`'s to say.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from powerjax.models import lora, sharding
from powerjax.models.cache import bytes_per_token, cache_sharding
from powerjax.models.config import ModelConfig
from powerjax.models.layout import tensors
from powerjax.models.lora import LoraConfig
from powerjax.plan.hardware import Hardware
from powerjax.sample import shapes as shapes_lib

# Of a GPU's memory JAX gets what launch/ asks for; a TPU's figure is of what programs get.
_GPU_SHARE = 0.95
_HOP_S = 15e-6  # of one small all-reduce between the devices of a host: assumed, not measured
# Of a training step: more than distill/loss.py keeps, for what else the compiler does.
_LOGITS_BYTES = 1 << 28
_LEAST_SLOTS = 8


class Layout(NamedTuple):
    """Sampling with each copy of the model on `model_axis` devices. Bytes are of one device.

    room: of the chip's memory, for programs.
    buffers: the largest transient, a batch of prompts in prefill.
    num_slots: of one engine; 0 where not even one fits.
    step_s: the roofline of one model step, which moves each of an engine's slots by one token.
    """

    model_axis: int
    num_engines: int
    room: int
    weights: int
    slot: int
    buffers: int
    num_slots: int
    step_s: float

    @property
    def all_slots(self) -> int:
        return self.num_engines * self.num_slots

    @property
    def tokens_per_s(self) -> float:
        """Of all engines with all slots busy."""
        return self.all_slots / self.step_s if self.num_slots else 0.0

    def seconds(self, chains: int, forward_tokens: float) -> float:
        """So many chains of so many tokens in all; none ends before its own tokens are fed."""
        if not chains:
            return 0.0
        return self.step_s * max(forward_tokens / self.all_slots, forward_tokens / chains)


class Training(NamedTuple):
    """The student's step on a mesh. Bytes are of one device."""

    batch_size: int
    data_axis: int
    model_axis: int
    fsdp: bool
    room: int
    weights: int
    adapter: int  # float32, with AdamW's two moments
    activations: int
    tokens_per_s: float  # by the roofline

    @property
    def num_bytes(self) -> int:
        return self.weights + self.adapter + self.activations

    @property
    def fits(self) -> bool:
        return self.num_bytes <= self.room


def layouts(
    config: ModelConfig,
    hardware: Hardware,
    *,
    longest_prompt: int,
    max_new_tokens: int,
    num_chains: int,
    dtype="bfloat16",
) -> list[Layout]:
    """One for each model axis that divides a host's devices, from 1 up.

    num_chains: the most that run at a time; no engine gets more slots than its share of them.
    """
    axes = [n for n in range(1, hardware.host_devices + 1) if hardware.host_devices % n == 0]
    given = config, hardware, longest_prompt, max_new_tokens, num_chains, jnp.dtype(dtype)
    return [_layout(axis, *given) for axis in axes]


def best(found: list[Layout]) -> Layout:
    """The one of most tokens a second, among those with 8 slots an engine if there are any.

    Raises ValueError where the model fits in no way.
    """
    fitting = [layout for layout in found if layout.num_slots]
    if not fitting:
        least = found[-1]
        raise ValueError(
            f"the model does not fit: with {least.model_axis} devices a copy each holds"
            f" {least.weights / 2**30:.1f} GiB of weights, {least.buffers / 2**30:.1f} of buffers"
            f" and {least.slot / 2**30:.2f} a slot, and has {least.room / 2**30:.1f}"
        )
    roomy = [layout for layout in fitting if layout.num_slots >= _LEAST_SLOTS]
    return max(roomy or fitting, key=lambda layout: layout.tokens_per_s)


def room(hardware: Hardware) -> int:
    """Bytes of a device that programs get."""
    share = 1.0 if hardware.is_tpu else _GPU_SHARE
    return int(share * hardware.chip.memory_bytes)


def _layout(axis, config, hardware, longest_prompt, max_new_tokens, num_chains, dtype) -> Layout:
    c, chip = config, hardware.chip
    platform = "tpu" if hardware.is_tpu else "gpu"
    grid = AbstractMesh((1, axis), ("data", "model"))
    shapes = {path: tensor.shape for path, tensor in tensors(c).items()}
    weights = sharding.num_bytes_per_device(shapes, c, grid, dtype.itemsize)
    slot = shapes_lib.bytes_per_slot(c, dtype, longest_prompt, max_new_tokens, platform, grid)
    buffers = _prefill_bytes(c, axis, longest_prompt, dtype.itemsize)
    engines = hardware.count // axis
    free = room(hardware) - weights - buffers
    num_slots = shapes_lib.count_fitting(free, slot, platform) if free >= slot else 0
    num_slots = min(num_slots, shapes_lib.slots_for(math.ceil(num_chains / engines)))
    # The embedding's table is looked up, not read, unless it is the head as well.
    read = {p: s for p, s in shapes.items() if c.tie_word_embeddings or "embed_tokens" not in p}
    read_bytes = sharding.num_bytes_per_device(read, c, grid, dtype.itemsize)
    products = sharding.num_bytes_per_device(
        {path: shape for path, shape in read.items() if len(shape) > 1}, c, grid, 1
    )
    window = longest_prompt + max_new_tokens
    heads = c.num_heads // (axis if "model" in cache_sharding(c, grid).spec else 1)
    cache = bytes_per_token(c, dtype, platform, grid) * window
    logits = shapes_lib.LOGIT_ROWS * 4 * c.vocab_size
    flops = 2 * products + 4 * c.num_layers * heads * c.head_dim * window
    step = chip.roofline_s(num_slots * flops, read_bytes + num_slots * (cache + logits))
    if axis > 1:
        step += (2 * c.num_layers + 2) * _HOP_S
    return Layout(axis, engines, room(hardware), weights, slot, buffers, num_slots, step)


def _prefill_bytes(c: ModelConfig, axis: int, longest_prompt: int, itemsize: int) -> int:
    """One layer's activations of a batch of prompts, and one block of its scores in float32."""
    rows, width = shapes_lib.prefill_shape(longest_prompt)
    wide = 4 * c.hidden_size + 3 * c.intermediate_size // axis
    scores = 2 * 4 * -(-c.num_heads // axis) * min(width, max(128, width // 8))
    return rows * width * (wide * itemsize + scores)


def training(
    config: ModelConfig,
    hardware: Hardware,
    *,
    model_axis: int | None = None,
    length: int = 1024,
    batch_size: int = 8,
    lora_config: LoraConfig | None = None,
    remat: bool = True,
) -> Training:
    """The student's step, laid out with as little splitting as fits; else as it would fit least.

    Weights whole on each device, then split over "model" within a host (or as model_axis says),
    then over "data" as well. Data rows divide the batch: as many as there are, but that a TPU slice
    of several hosts has to be used whole, by a batch of a multiple of its rows, and GPUs of several
    hosts whole hosts at a time.
    """
    axes = [n for n in (1, 2, 4, 8) if hardware.host_devices % n == 0]
    tries = []
    for fsdp in (False, True):
        for axis in axes if model_axis is None else [model_axis]:
            batch, data = _batch_rows(hardware, axis, batch_size)
            if not fsdp or data > 1:
                given = batch, data, axis, fsdp, length, lora_config, remat
                tries.append(_training(config, hardware, *given))
    return next((one for one in tries if one.fits), min(tries, key=lambda one: one.num_bytes))


def _batch_rows(hardware: Hardware, axis: int, batch_size: int) -> tuple[int, int]:
    """(examples of a batch, data rows)."""
    rows = hardware.count // axis
    if hardware.is_tpu and hardware.num_hosts > 1:
        return math.ceil(batch_size / rows) * rows, rows
    per_host = hardware.host_devices // axis if hardware.num_hosts > 1 else 1
    fitting = [n for n in range(per_host, rows + 1, per_host) if batch_size % n == 0]
    return batch_size, max(fitting, default=1)


def _training(c, hardware, batch, data, axis, fsdp, length, lora_config, remat) -> Training:
    grid = AbstractMesh((data, axis), ("data", "model"))
    shapes = {path: tensor.shape for path, tensor in tensors(c).items()}
    weights = sharding.num_bytes_per_device(shapes, c, grid, 2, fsdp=fsdp)
    adapters = lora.shapes(c, lora_config or LoraConfig())
    adapter = 3 * 4 * _count(adapters)
    # One row of a batch at a time. A layer's inputs are kept; with remat what lies within a layer
    # is there for one layer only: width-D and width-F arrays, forward and backward.
    kept = length * c.hidden_size * 2
    within = length * (8 * c.hidden_size + 6 * c.intermediate_size // axis) * 2
    layers = c.num_layers * kept + within * (2 if remat else c.num_layers)
    head = c.hidden_size * c.vocab_size * 2 // axis if fsdp else 0  # gathered, kept for both ways
    activations = layers + 2 * _LOGITS_BYTES + head
    products = sum(math.prod(s) for p, s in shapes.items() if len(s) > 1 and "embed" not in p)
    products += c.vocab_size * c.hidden_size if c.tie_word_embeddings else 0
    passes = 3 if remat else 2  # forward, again, and to activations: base weights have no gradient
    flops = passes * (2 * products + 2 * c.num_layers * c.num_heads * c.head_dim * length)
    tokens_per_s = data * axis * hardware.chip.bf16_flops / flops
    held = room(hardware), weights, adapter, activations
    return Training(batch, data, axis, fsdp, *held, tokens_per_s)


def _count(tree) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))
