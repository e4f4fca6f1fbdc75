"""A chain driven by hand, and how near it comes to another outcome."""

import math

import jax.numpy as jnp
import numpy as np

from powerjax.sample import draws, mh


def next_logits(lm, prompt, chain):
    """Returns the logits, float32 [V], after a chain's working tokens, by a fresh forward pass."""
    row = [*prompt, *mh.working_tokens(chain).tolist()]
    padded = np.zeros((1, 128), np.int32)
    padded[0, : len(row)] = row
    return lm.logits(padded, [len(row)])[0, len(row) - 1]


def margin(lm, prompt, key, settings) -> float:
    """Returns how near a chain, driven by hand, comes to another outcome.

    That is the least distance of a uniform to a boundary of the CDF, over 1e-5, or of log u to
    log A, over 1e-4. Below 1, rounding may decide otherwise.
    """
    chain, least = mh.init(settings), np.inf
    while not chain.done:
        logits = np.asarray(next_logits(lm, prompt, chain), np.float64)
        uniforms = draws.draw(key, chain, settings)
        mass = np.exp((logits - logits.max()) * float(settings.inv_temperature))
        width = math.isqrt(mass.size - 1) + 1
        table = np.pad(mass, (0, -mass.size % width)).reshape(-1, width)
        u_block, u_token = np.asarray(uniforms.token, np.float64)
        block_cdf = np.cumsum(table.sum(1)) / table.sum()
        token_cdf = np.cumsum(table[np.argmax(block_cdf > u_block)])
        distances = [
            np.abs(block_cdf - u_block).min(),
            np.abs(token_cdf / token_cdf[-1] - u_token).min(),
        ]
        least = min(least, min(distances) / 1e-5)
        log_u, proposing = float(chain.log_u), bool(chain.step > 0)
        chain, info = mh.advance(chain, jnp.asarray(logits, jnp.float32), uniforms, settings)
        if proposing:
            least = min(least, abs(float(info.log_accept) - log_u) / 1e-4)
    return least
