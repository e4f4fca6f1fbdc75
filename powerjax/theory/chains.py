"""Chains of `powerjax.sample.mh` on a tabular model, and the frequencies of where they are.

The sampler's own code draws here from models that can be enumerated. Its frequencies are compared
with the exact laws of `transitions`, whose states are called strings.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from powerjax.sample import mh
from powerjax.theory import learning, transitions
from powerjax.theory.exact import TabularModel


def run_chains(
    model: TabularModel,
    alpha: float,
    num_steps: int,
    num_chains: int,
    rule: mh.Kernel = "exact",
    seed: int = 0,
    temperature: float | None = None,
) -> np.ndarray:
    """Runs chains of one stage with `mh.advance`, and keeps each chain's string after every move.

    The model must have EOS. The proposal is the model at `temperature`; None means 1/alpha.

    Returns int [num_steps+1, num_chains, T+1], after 0..num_steps moves: T tokens, -1 after the
    end, then the length.
    """
    if not model.eos:
        raise ValueError("the sampler's chain needs a model with EOS")
    length, live = model.length, model.num_live
    logits = jnp.asarray(learning.stacked_logits(model), jnp.float32)
    offsets = jnp.asarray(learning.row_offsets(model), jnp.int32)
    config = _one_stage(model, alpha, num_steps, rule, temperature)

    def one_token(chain, draws, trace):
        # --- the row of the working prefix in the stacked tables ---
        index = jnp.arange(length)
        working = jnp.where(index < chain.cut, chain.state.tokens, chain.proposal.tokens)
        before = index < chain.position
        digit = jnp.where(before, live ** jnp.maximum(chain.position - 1 - index, 0), 0)
        row = offsets[chain.position] + jnp.sum(digit * working)
        # --- one token more; a move that it finishes is written to the trace ---
        step = chain.step
        chain, info = mh.advance(chain, logits[row], draws, config)
        ended = jnp.where(index < chain.length, chain.state.tokens, -1)
        entry = jnp.concatenate([ended, chain.length[None]]).astype(jnp.int8)
        return chain, trace.at[step].set(jnp.where(info.finished, entry, trace[step]))

    def body(carry):
        chains, traces, key = carry
        key, *keys = jax.random.split(key, 4)
        draws = mh.Draws(
            token=jax.random.uniform(keys[0], (num_chains, 2)),
            cut=jax.random.bits(keys[1], (num_chains,), jnp.uint32),
            log_u=jnp.log1p(-jax.random.uniform(keys[2], (num_chains,))),
        )
        return *jax.vmap(one_token)(chains, draws, traces), key

    @jax.jit
    def run(key):
        chains = jax.vmap(lambda _: mh.init(config))(jnp.arange(num_chains))
        traces = jnp.zeros((num_chains, num_steps + 1, length + 1), jnp.int8)
        carry = (chains, traces, key)
        return jax.lax.while_loop(lambda c: ~jnp.all(c[0].done), body, carry)[1]

    return np.moveaxis(np.asarray(run(jax.random.key(seed))), 1, 0).astype(int)


def _one_stage(
    model: TabularModel,
    alpha: float,
    num_steps: int,
    rule: mh.Kernel,
    temperature: float | None,
) -> mh.Settings:
    """Returns the settings of a chain with one stage, which ends at EOS or after T tokens."""
    return mh.settings(
        alpha,
        temperature,
        block_size=model.length,
        num_mcmc_steps=num_steps,
        max_new_tokens=model.length,
        stop_ids=(model.vocab_size - 1,),
        stop="horizon",
        kernel=rule,
    )


def string_index(model: TabularModel, strings: np.ndarray) -> np.ndarray:
    """Returns the place of each string [..., chains, T+1] in `transitions.strings`."""
    known = transitions.strings(model)
    base = model.vocab_size + 1
    digits = base ** np.arange(model.length)
    codes = (known.tokens + 1) @ digits
    order = np.argsort(codes)
    place = np.searchsorted(codes[order], (strings[..., :-1] + 1) @ digits)
    return order[place]


def empirical_laws(model: TabularModel, strings: np.ndarray) -> np.ndarray:
    """Returns the frequencies [..., Y+U] of strings [..., chains, T+1] in `transitions.strings`."""
    index = string_index(model, strings)
    num_strings = len(transitions.strings(model).lengths)
    by_law = index.reshape(-1, index.shape[-1])
    counts = [np.bincount(places, minlength=num_strings) for places in by_law]
    return np.array(counts).reshape(*index.shape[:-1], -1) / index.shape[-1]
