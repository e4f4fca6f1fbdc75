"""What a model takes of hardware that is not at hand: bytes on each device, slots and time.

All of it is computed from a config.json and the chip's data sheet. The time is the roofline's: a
model step reads the weights and all slots' caches once and does each product once, at the chip's
peak. That is a floor, and programs reach a share of its speed.
"""

import math

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from powerjax.models import lora, sharding
from powerjax.models.cache import bytes_per_token, cache_sharding
from powerjax.models.config import ModelConfig
from powerjax.models.layout import tensors
from powerjax.models.lora import LoraConfig
from powerjax.plan.hardware import Hardware
from powerjax.plan.layout import Layout, Training
from powerjax.sample import shapes as shapes_lib

# The share of a GPU's memory that the scripts in launch/ ask JAX to take. A TPU's memory in
# `hardware` is what programs get, so it needs no such share.
_GPU_SHARE = 0.95
_HOP_S = 15e-6  # seconds per small all-reduce between the devices of a host: assumed, not measured
# Bytes of logits in a training step: more than distill/loss.py keeps, for what the compiler adds.
_LOGITS_BYTES = 1 << 28
_LEAST_SLOTS = 8  # per engine; with fewer, a layout is taken only where no other has them


def layouts(
    config: ModelConfig,
    hardware: Hardware,
    *,
    longest_prompt: int,
    max_new_tokens: int,
    num_chains: int,
    dtype="bfloat16",
) -> list[Layout]:
    """Returns a layout for each model axis that divides the devices of a host, from 1 up.

    Args:
      config: the model.
      hardware: the devices.
      longest_prompt, max_new_tokens: the most tokens of a prompt and of a completion.
      num_chains: chains that are to run at a time. No engine gets more slots than its share of
        them.
      dtype: the dtype of weights and cache.
    """
    axes = [n for n in range(1, hardware.host_devices + 1) if hardware.host_devices % n == 0]
    shared = config, hardware, longest_prompt, max_new_tokens, num_chains, jnp.dtype(dtype)
    return [_layout(axis, *shared) for axis in axes]


def best(candidates: list[Layout]) -> Layout:
    """Returns the layout with the most tokens per second.

    Only those with at least 8 slots per engine are compared, if there are any.

    Raises ValueError where the model fits in none of them.
    """
    fitting = [layout for layout in candidates if layout.num_slots]
    if not fitting:
        least = candidates[-1]
        raise ValueError(
            f"the model does not fit: with {least.model_axis} devices per copy, each needs"
            f" {least.weights / 2**30:.1f} GiB for weights, {least.buffers / 2**30:.1f} for buffers"
            f" and {least.slot / 2**30:.2f} per slot, and has {least.room / 2**30:.1f}"
        )
    roomy = [layout for layout in fitting if layout.num_slots >= _LEAST_SLOTS]
    return max(roomy or fitting, key=lambda layout: layout.tokens_per_s)


def room(hardware: Hardware) -> int:
    """Returns the bytes of a device's memory that programs get."""
    share = 1.0 if hardware.is_tpu else _GPU_SHARE
    return int(share * hardware.chip.memory_bytes)


def _mesh(data: int, model: int) -> Mesh:
    """Returns a mesh without devices; what is asked of it here are its axes and their sizes."""
    return AbstractMesh((data, model), ("data", "model"))  # type: ignore[return-value]


def _layout(
    axis: int,
    config: ModelConfig,
    hardware: Hardware,
    longest_prompt: int,
    max_new_tokens: int,
    num_chains: int,
    dtype: jnp.dtype,
) -> Layout:
    c, chip = config, hardware.chip
    platform = "tpu" if hardware.is_tpu else "gpu"
    grid = _mesh(1, axis)

    # --- memory, and the slots that fit ---
    shapes = {path: tensor.shape for path, tensor in tensors(c).items()}
    weights = sharding.num_bytes_per_device(shapes, c, grid, dtype.itemsize)
    slot = shapes_lib.bytes_per_slot(c, dtype, longest_prompt, max_new_tokens, platform, grid)
    buffers = _prefill_bytes(c, axis, longest_prompt, dtype.itemsize)
    engines = hardware.count // axis
    free = room(hardware) - weights - buffers
    num_slots = shapes_lib.count_fitting(free, slot, platform) if free >= slot else 0
    num_slots = min(num_slots, shapes_lib.slots_for(math.ceil(num_chains / engines)))

    # --- the roofline of a step ---
    # A step reads only a few rows of the embedding's table, unless the table is the head as well.
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
    """Returns the bytes of one layer's activations for a batch of prompts.

    One block of attention scores in float32 is counted as well.
    """
    rows, width = shapes_lib.prefill_shape(longest_prompt)
    # Half of the arrays of width D are q's and attention's, whose width need not be D.
    wide = 2 * (c.hidden_size + c.num_heads * c.head_dim) + 3 * c.intermediate_size // axis
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
    """Returns the student's training step, with the weights split as little as fits.

    The layouts are tried in this order: the weights whole on each device; split over "model", the
    devices of a host; split over "data" as well. Where none fits, the one that needs the fewest
    bytes on each device is returned.

    Args:
      config: the base model, in bfloat16.
      hardware: the devices.
      model_axis: devices that share the weights; None tries 1, 2, 4 and 8.
      length: tokens per example.
      batch_size: examples per step. A TPU slice of several hosts gets a few more where the batch
        does not divide by its rows.
      lora_config: the adapter's shape; None for the defaults.
      remat: whether activations are computed again in the backward pass.
    """
    axes = [n for n in (1, 2, 4, 8) if hardware.host_devices % n == 0]
    layouts = []
    for fsdp in (False, True):
        for axis in axes if model_axis is None else [model_axis]:
            batch, data = _batch_rows(hardware, axis, batch_size)
            if not fsdp or data > 1:
                layout = batch, data, axis, fsdp
                layouts.append(_training(config, hardware, *layout, length, lora_config, remat))
    least = min(layouts, key=lambda layout: layout.num_bytes)
    return next((layout for layout in layouts if layout.fits), least)


def _batch_rows(hardware: Hardware, axis: int, batch_size: int) -> tuple[int, int]:
    """Returns (examples per batch, data rows that share it), with `axis` devices per row.

    The rows divide the batch, and are as many as can be. A TPU slice of several hosts has to be
    used whole, so there the batch grows to a multiple of all rows. GPUs in several hosts are used
    in whole hosts.
    """
    rows = hardware.count // axis
    if hardware.is_tpu and hardware.num_hosts > 1:
        return math.ceil(batch_size / rows) * rows, rows
    per_host = hardware.host_devices // axis if hardware.num_hosts > 1 else 1
    fitting = [n for n in range(per_host, rows + 1, per_host) if batch_size % n == 0]
    return batch_size, max(fitting, default=1)


def _training(
    config: ModelConfig,
    hardware: Hardware,
    batch: int,
    data: int,
    axis: int,
    fsdp: bool,
    length: int,
    lora_config: LoraConfig | None,
    remat: bool,
) -> Training:
    c, grid = config, _mesh(data, axis)

    # --- memory ---
    shapes = {path: tensor.shape for path, tensor in tensors(c).items()}
    weights = sharding.num_bytes_per_device(shapes, c, grid, 2, fsdp=fsdp)
    adapters = lora.shapes(c, lora_config or LoraConfig())
    adapter = 3 * 4 * _count(adapters)
    # A row computes one example at a time. The inputs of every layer are kept. What is computed
    # within a layer (arrays of width D, N * H and F) is kept for all layers, or with remat for one
    # layer at a time, forward and backward.
    inputs = length * c.hidden_size * 2
    wide = 4 * (c.hidden_size + c.num_heads * c.head_dim) + 6 * c.intermediate_size // axis
    within = length * wide * 2
    layers = c.num_layers * inputs + within * (2 if remat else c.num_layers)
    # The head's weights, which fsdp gathers once for the forward and the backward pass.
    head = c.hidden_size * c.vocab_size * 2 // axis if fsdp else 0
    activations = layers + 2 * _LOGITS_BYTES + head

    # --- the roofline ---
    products = sum(math.prod(s) for p, s in shapes.items() if len(s) > 1 and "embed" not in p)
    products += c.vocab_size * c.hidden_size if c.tie_word_embeddings else 0
    # Forward, with remat forward again, and backward to the activations alone: the base weights
    # have no gradient.
    passes = 3 if remat else 2
    flops = passes * (2 * products + 2 * c.num_layers * c.num_heads * c.head_dim * length)
    tokens_per_s = data * axis * hardware.chip.bf16_flops / flops
    num_bytes = room(hardware), weights, adapter, activations
    return Training(batch, data, axis, fsdp, *num_bytes, tokens_per_s)


def _count(tree) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))
