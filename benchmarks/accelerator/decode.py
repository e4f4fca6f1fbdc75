"""One model step of the slot loop at the Qwen2.5-7B shape, and where its time goes.

The loop is the engine's own (`sample.slots.run`). The slots are put in the middle of their
completions, so that a step at any context length is measured without drawing the tokens before it.
The caches hold random numbers.
"""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import shapes
from benchmarks.accelerator import card, timing
from benchmarks.accelerator.draw import draw_ms
from benchmarks.accelerator.kernels import longest_kernels
from powerjax.models import LM
from powerjax.models.attention import attention
from powerjax.models.cache import KVCache, bytes_per_token, init_cache
from powerjax.sample import mh, placement, slots

PEAK = "peak memory of the loop"


class Size(NamedTuple):
    """The shapes of the measured loops."""

    prompt: int = 200  # tokens per prompt
    max_new_tokens: int = 3072  # tokens per completion at most
    window: int = 3072 + 256  # tokens that a slot's cache has room for
    fills: tuple[int, ...] = (500, 2500)  # tokens of the contexts that are measured
    num_slots: tuple[int, ...] = (64, 16)  # of the two loops
    steps: int = 64  # model steps per call


FULL = Size()
TOY = Size(prompt=8, max_new_tokens=96, window=128, fills=(24, 80), num_slots=(4, 2), steps=8)


def measure(report, dry_run: bool) -> None:
    """Writes ms per step for each number of slots and context, then the share of each part."""
    size = TOY if dry_run else FULL
    lm = shapes.random_lm(shapes.TOY if dry_run else shapes.QWEN_7B, "bfloat16")
    xla, triton = (shapes.with_attention(lm, kernel) for kernel in ("xla", "triton"))
    many, few = (_fitting(lm, size, num_slots) for num_slots in size.num_slots)
    whole, call = _loop(report, xla, size, many)
    # After the first loop alone, because the device tells only the highest peak so far.
    timing.add_peak(report, PEAK, num_slots=many)
    _kernels(report, call, size, "xla")
    del call  # frees its caches
    rest = _other_parts(report, lm, size, many, whole)
    _attention(report, "xla", lm, size, many, whole, rest)
    if timing.device().platform != "gpu":
        report.skip(step_name(many, size.fills[0], "triton"), "the kernel needs an NVIDIA GPU")
        _loop(report, xla, size, few)
        return
    _attention(report, "triton", lm, size, many, whole, None)
    _agreement(report, lm, size, many)
    _, call = _loop(report, triton, size, many)
    _kernels(report, call, size, "triton")
    del call
    _loop(report, triton, size, few)
    # This comes last, so that nothing else is lost where cudnn refuses these shapes.
    _attention(report, "cudnn", lm, size, many, whole, None)


def _fitting(lm: LM, size: Size, num_slots: int) -> int:
    """Returns `num_slots`, halved until the caches fit the device's free memory."""
    stats = timing.device().memory_stats() or {}
    free = stats.get("bytes_limit", 1 << 62) - stats.get("bytes_in_use", 0)
    platform = timing.device().platform
    per_slot = 3 * size.window * bytes_per_token(lm.config, lm.dtype, platform)
    while num_slots > 1 and num_slots * per_slot > 0.9 * free:
        num_slots //= 2
    return num_slots


def step_name(num_slots: int, fill: int, implementation: str = "xla") -> str:
    """Returns the name of a step's row. fill: tokens of its contexts."""
    return f"step, {num_slots} slots at {fill}, {implementation} attention"


def _loop(report, lm: LM, size: Size, num_slots: int) -> tuple[dict[int, float], Callable]:
    """Writes a step's rows; returns ms per step by fill, and a call at the last fill."""
    state, queue, settings = _start(lm, size, num_slots)
    model, implementation = placement.module(lm, False), lm.attention
    ms_of = {}
    for fill in size.fills:

        def call(fill=fill):
            nonlocal state
            state = _at(state, fill - size.steps // 2 - size.prompt)
            state, *_, tally, _ = slots.run(
                model, lm.variables, state, queue, settings, np.int32(size.steps), np.bool_(False)
            )
            return tally

        ms = 1e3 * timing.seconds(call, repeats=1) / size.steps
        ms_of[fill] = ms
        rate = 1e3 * num_slots / ms
        report.add(
            step_name(num_slots, fill, implementation),
            ms,
            "ms",
            f"{rate:,.0f} tokens/s; {_against_floor(report, lm, num_slots, fill, ms)}",
            tokens_per_s=rate,
        )
    return ms_of, call


def _against_floor(report, lm: LM, num_slots: int, fill: int, ms: float) -> str:
    """Returns the share of the step that reading weights, live keys and values takes at least."""
    bandwidth = report.value("card", card.COPY)
    if bandwidth is None:
        return "no copy bandwidth to compare with"
    live = num_slots * fill * bytes_per_token(lm.config, lm.dtype, timing.device().platform)
    least_ms = 1e3 * (shapes.read_bytes(lm) + live) / (1e9 * bandwidth)
    return f"{least_ms / ms:.0%} of the floor of {least_ms:.3g} ms"


def _start(lm: LM, size: Size, num_slots: int) -> tuple[slots.Slots, slots.Queue, mh.Settings]:
    """Returns busy slots with filled caches, an empty queue, and settings of power sampling."""
    settings = mh.settings(
        4.0,
        block_size=size.max_new_tokens,
        num_mcmc_steps=4,
        max_new_tokens=size.max_new_tokens,
        stop_ids=lm.stop_ids,
    )
    state = slots.init(lm.model(), num_slots, size.window, size.max_new_tokens, settings)
    whole = functools.partial(jnp.full, (num_slots,))
    state = state._replace(
        chain=state.chain._replace(done=whole(False), token=whole(1)),
        key=jax.random.bits(jax.random.key(1), (num_slots, 2), jnp.uint32),
        prompt_length=whole(size.prompt),
        request=jnp.arange(num_slots, dtype=jnp.int32),
        busy=whole(True),
        cache=_filled(state.cache),
    )
    room = 2 * num_slots
    column = np.zeros(room, np.int32)
    queue = slots.Queue(
        prefix=init_cache(lm.config, 1, size.prompt, lm.dtype),
        prefix_row=column,
        prompt_length=column,
        prompt_last=column,
        key=np.zeros((room, 2), np.uint32),
        request=column,
        first_step=column,
        size=np.int32(0),
    )
    return state, queue, settings


def _filled(cache: KVCache) -> KVCache:
    """Fills the cache with random numbers, one array after the other in its own memory."""
    fill = jax.jit(
        lambda old, key: jax.random.normal(key, old.shape, old.dtype),
        donate_argnums=0,
        keep_unused=True,  # an argument that is left out cannot be donated
    )
    keys = iter(jax.random.split(jax.random.key(2), 2 * len(cache.k)))
    return jax.tree.map(lambda old: fill(old, next(keys)), cache)


def _at(state: slots.Slots, position: int) -> slots.Slots:
    """Returns the slots with every chain extending its completion at this position."""
    chain, shape = state.chain, state.chain.position.shape
    position = jnp.full(shape, position, jnp.int32)
    return state._replace(chain=chain._replace(position=position, step=jnp.zeros_like(position)))


def _other_parts(report, lm: LM, size: Size, num_slots: int, whole: dict[int, float]) -> float:
    """Writes the milliseconds of logits and draw alone; returns their sum."""
    c = lm.config
    hidden = jax.random.normal(jax.random.key(4), (num_slots, c.hidden_size)).astype(lm.dtype)
    unembed = jax.jit(lambda v, x: lm.model().apply(v, x, method="unembed"))
    alone = {
        "logits": 1e3 * timing.seconds(lambda: unembed(lm.variables, hidden)),
        "draw": draw_ms(c.vocab_size, num_slots, None, size.max_new_tokens),
    }
    step_ms = whole[size.fills[0]]
    for what, ms in alone.items():
        report.add(f"{what} alone, {num_slots} slots", ms, "ms", f"{ms / step_ms:.0%} of the step")
    return sum(alone.values())


def _attention(
    report,
    implementation: str,
    lm: LM,
    size: Size,
    num_slots: int,
    whole: dict[int, float],
    others_ms: float | None,
) -> None:
    """Writes the milliseconds of all layers' attention alone, at each fill.

    whole: milliseconds of a step by fill.
    others_ms: those of logits and draw, to write what is left of the step as well; None leaves
      that out.
    """
    c = lm.config
    queries, cache = _queries_and_cache(lm, size, num_slots)
    for fill, step_ms in whole.items():
        at = jnp.full((num_slots, 1), fill - 1, jnp.int32)
        call = functools.partial(_attend, implementation, queries, cache, at)
        ms = 1e3 * timing.seconds(call)
        name = f"attention alone, {num_slots} slots at {fill}, {implementation}"
        note = f"{c.num_layers} layers; {ms / step_ms:.0%} of the step with xla attention"
        report.add(name, ms, "ms", note)
        if others_ms is not None:
            rest = step_ms - ms - others_ms
            note = "the step less the parts above: the layers' products and small operations"
            report.add(f"the rest, {num_slots} slots at {fill}", rest, "ms", note)


def _queries_and_cache(lm: LM, size: Size, num_slots: int) -> tuple[jax.Array, KVCache]:
    """Returns random queries [B,1,N,H] and a cache of random numbers."""
    c = lm.config
    queries = jax.random.normal(jax.random.key(3), (num_slots, 1, c.num_heads, c.head_dim))
    cache = _filled(init_cache(c, num_slots, size.window, lm.dtype))
    return queries.astype(lm.dtype), cache


def _agreement(report, lm: LM, size: Size, num_slots: int) -> None:
    """Writes how far our kernel is from XLA's attention, for slots of all lengths."""
    queries, cache = _queries_and_cache(lm, size, num_slots)
    at = jnp.linspace(0, size.window - 1, num_slots).astype(jnp.int32)[:, None]
    one = KVCache(cache.k[:1], cache.v[:1])
    ours, xla = (_attend(kernel, queries, one, at) for kernel in ("triton", "xla"))
    apart = jnp.max(jnp.abs((ours - xla).astype(jnp.float32)))
    scale = jnp.max(jnp.abs(xla.astype(jnp.float32)))
    note = f"{num_slots} contexts of 1 to {size.window} tokens; {jnp.dtype(lm.dtype).name}"
    report.add("triton attention against xla, largest difference", apart / scale, "of 1", note)
    alone = _attend("triton", queries[-1:], jax.tree.map(lambda x: x[-1:], one), at[-1:])
    equal = bool((alone == ours[-1:]).all())
    report.add("triton attention of one row alone", float(equal), "equal", "1: bit for bit")


@functools.partial(jax.jit, static_argnums=0)
def _attend(implementation: str, queries, cache: KVCache, positions):
    """Runs every layer's attention of one token per slot, each on the result of the one before."""
    for k, v in zip(cache.k, cache.v, strict=True):
        queries = attention(queries, k, v, positions, implementation=implementation)
    return queries


def _kernels(report, call, size: Size, implementation: str) -> None:
    """Writes the kernels in which one call of the loop with this attention spends most time."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with jax.profiler.trace(folder):
                jax.block_until_ready(call())
            kernels = longest_kernels(Path(folder), 10)
        except RuntimeError as error:  # a driver may forbid profiling
            report.skip("kernels", str(error).split("\n")[0])
            return
        if not kernels:
            report.skip("kernels", "the profiler's trace holds none")
        for kernel in kernels:
            ms = kernel.total_ms / size.steps
            runs = kernel.count / size.steps
            note = f"{kernel.share:.0%} of the device's time, {runs:.1f} a step; {implementation}"
            report.add(f"kernel {kernel.name[:44]}", ms, "ms", note, name=kernel.name)
