"""The draw alone: one `advance` of every slot, over the whole vocabulary."""

import functools

import jax
import jax.numpy as jnp

from benchmarks import shapes
from benchmarks.accelerator import timing
from powerjax.sample import draws, mh

TOP_K = 20


def measure(report, dry_run: bool) -> None:
    """Writes the draw's milliseconds without top_k and with it."""
    config = shapes.TOY if dry_run else shapes.QWEN_7B
    num_slots, room = (4, 32) if dry_run else (64, 256)
    plain = draw_ms(config.vocab_size, num_slots, None, room)
    what = f"draw, {num_slots} slots x {config.vocab_size:,}"
    report.add(f"{what}, all tokens", plain, "ms")
    cut = draw_ms(config.vocab_size, num_slots, TOP_K, room)
    report.add(f"{what}, top_k {TOP_K}", cut, "ms", f"{cut / plain:.2f}x without top_k")


def draw_ms(vocab_size: int, num_slots: int, top_k: int | None, max_new_tokens: int) -> float:
    """Returns the milliseconds of one draw for all slots, with the chains' bookkeeping.

    top_k: None to draw from all tokens.
    """
    settings = mh.settings(
        4.0,
        block_size=max_new_tokens,
        num_mcmc_steps=4,
        max_new_tokens=max_new_tokens,
        stop_ids=(-1,),
        top_k=top_k,
    )
    logits = jax.random.normal(jax.random.key(0), (num_slots, vocab_size))
    key = jax.random.bits(jax.random.key(1), (num_slots, 2), jnp.uint32)
    one = mh.init(settings, max_new_tokens)
    chain = jax.tree.map(lambda x: jnp.tile(x[None], (num_slots,) + (1,) * x.ndim), one)

    def call():
        nonlocal chain
        chain = _draw(key, chain, logits, settings)
        return chain.token

    return 1e3 * timing.seconds(call)


@functools.partial(jax.jit, donate_argnums=1)
def _draw(key, chain: mh.Chain, logits, settings: mh.Settings) -> mh.Chain:
    uniforms = jax.vmap(lambda k, c: draws.draw(k, c, settings))(key, chain)
    return jax.vmap(mh.advance, in_axes=(0, 0, 0, None))(chain, logits, uniforms, settings)[0]
