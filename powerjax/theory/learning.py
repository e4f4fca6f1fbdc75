"""Two ways to train a tabular policy towards pi_alpha: self-reward RL, and power self-distillation.

RL maximises Eq. 11, by its exact gradient (`gradient_ascent`) or by REINFORCE (`reinforce`).
Distillation is maximum likelihood on drawn completions, Eq. 16 and Algorithm 1 (`distil`). The
policy is one table of logits with a row for every live prefix. All of it runs in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from powerjax.theory import laws
from powerjax.theory.exact import TabularModel


class Paths(NamedTuple):
    """Where each token of each completion stands in the table of `stacked_logits`."""

    rows: np.ndarray
    """The row of the prefix before token t, int [Y, T]."""
    tokens: np.ndarray
    """The column, which is the token, int [Y, T]; 0 where the completion has ended."""
    mask: np.ndarray
    """1.0, and 0.0 where the completion has ended, [Y, T]."""


def stacked_logits(model: TabularModel) -> np.ndarray:
    """Returns the tables of all depths, one below the other, [prefixes, V]; -inf becomes -1e3."""
    return np.maximum(np.concatenate(model.log_p), -1e3)


def row_offsets(model: TabularModel) -> np.ndarray:
    """Returns the row at which the table of depth t begins in `stacked_logits`, int [T]."""
    return np.cumsum([0, *(len(table) for table in model.log_p[:-1])])


def paths(model: TabularModel) -> Paths:
    """Returns the lookups of every completion, in the model's order."""
    tokens, lengths = model.completions()
    mask = np.arange(model.length) < lengths[:, None]
    rows = np.zeros_like(tokens)
    prefix = np.zeros(len(tokens), dtype=tokens.dtype)
    for t, offset in enumerate(row_offsets(model)):
        rows[:, t] = np.where(mask[:, t], offset + prefix, 0)
        prefix = np.where(mask[:, t], prefix * model.num_live + tokens[:, t], 0)
    return Paths(rows, np.where(mask, tokens, 0), mask.astype(np.float64))


def policy_log_law(logits: jax.Array, at: Paths) -> jax.Array:
    """Returns log q(y) of every completion, [Y], from stacked logits [prefixes, V]."""
    return jnp.sum(jax.nn.log_softmax(logits)[at.rows, at.tokens] * at.mask, axis=1)


def gradient_ascent(
    model: TabularModel, beta: float, num_steps: int, learning_rate: float
) -> np.ndarray:
    """Maximises J_beta (Eq. 11) with r = r_self by its exact gradient, with Adam from q = pi.

    Returns the policy's log-law after 0..num_steps steps, [num_steps+1, Y].
    """
    with jax.enable_x64(True):
        at, log_p = paths(model), jnp.asarray(model.log_joint())
        alive = jnp.isfinite(log_p)
        optimiser = optax.adam(learning_rate)

        def loss(logits):
            log_q = policy_log_law(logits, at)
            value = jnp.where(alive, (1 + beta) * log_p - beta * log_q, 0.0)
            return -jnp.sum(jnp.exp(log_q) * value)

        def step(carry, _):
            logits, state = carry
            updates, state = optimiser.update(jax.grad(loss)(logits), state)
            return (optax.apply_updates(logits, updates), state), policy_log_law(logits, at)

        @jax.jit
        def run(logits):
            end, trace = jax.lax.scan(step, (logits, optimiser.init(logits)), length=num_steps)
            return jnp.concatenate([trace, policy_log_law(end[0], at)[None]])

        return np.asarray(run(jnp.asarray(stacked_logits(model))))


def reinforce(
    model: TabularModel,
    beta: float,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int = 0,
) -> np.ndarray:
    """Maximises J_beta (Eq. 11) by REINFORCE, with `batch_size` completions per gradient step.

    The return of a completion is log pi - beta (log q - log pi), so the KL is part of it. At
    q = pi_alpha every return is the constant beta log Z_alpha, so the gradient estimate has no
    noise there. The baseline is leave-one-out; the learning rate falls to a hundredth along a
    cosine. Returns the policy's log-law after 0..num_steps steps, [num_steps+1, Y].
    """
    if batch_size < 2:
        raise ValueError(f"leave-one-out needs a batch of at least 2, got {batch_size}")
    with jax.enable_x64(True):
        at, log_p = paths(model), jnp.asarray(model.log_joint())
        # Adam's usual eps would blow rounding errors up to full steps where gradients vanish.
        schedule = optax.cosine_decay_schedule(learning_rate, num_steps, 0.01)
        optimiser = optax.adam(schedule, eps=1e-3)

        def loss(logits, drawn, advantage):
            return -jnp.mean(policy_log_law(logits, at)[drawn] * advantage)

        def step(carry, key):
            logits, state = carry
            log_q = policy_log_law(logits, at)
            drawn = jax.random.categorical(key, log_q, shape=(batch_size,))
            returns = (1 + beta) * log_p[drawn] - beta * log_q[drawn]
            others = (jnp.sum(returns) - returns) / (batch_size - 1)
            gradient = jax.grad(loss)(logits, drawn, returns - others)
            updates, state = optimiser.update(gradient, state)
            return (optax.apply_updates(logits, updates), state), log_q

        @jax.jit
        def run(logits, keys):
            end, trace = jax.lax.scan(step, (logits, optimiser.init(logits)), keys)
            return jnp.concatenate([trace, policy_log_law(end[0], at)[None]])

        keys = jax.random.split(jax.random.key(seed), num_steps)
        return np.asarray(run(jnp.asarray(stacked_logits(model)), keys))


def distil(model: TabularModel, completions: np.ndarray) -> TabularModel:
    """Returns the maximum-likelihood policy of drawn completions (Eq. 16, Algorithm 1).

    A table with a row for every prefix has its maximum in closed form: the counts of tokens after
    each prefix, normalised.

    Args:
      completions: places in the model's order, int [n], n >= 1.
    """
    if len(completions) == 0:
        raise ValueError("there is nothing to distil: give at least one completion")
    counts = np.bincount(completions, minlength=model.num_completions)
    return TabularModel.from_law(laws.log_of(counts / len(completions)), model)


def expected_distance(log_target: np.ndarray, log_teacher: np.ndarray, num_samples: int) -> float:
    """Returns the expected total variation between the frequencies of n draws and a target.

    The n draws are from the teacher q, the target is p, both log-laws [Y]. The value is the sum of
    E|K/n - p|/2 over outcomes, where K is binomial(n, q), followed for 12 standard deviations.
    """
    n, total = num_samples, 0.0
    for q, p in zip(np.exp(log_teacher), np.exp(log_target), strict=True):
        if q == 0 or q == 1:
            total += abs(q - p)
            continue
        reach = 12 * np.sqrt(n * q * (1 - q)) + 20
        k = np.arange(max(0, int(n * q - reach)), min(n, int(n * q + reach)) + 1)
        steps = np.log((n - k[:-1]) / (k[:-1] + 1)) + np.log(q) - np.log1p(-q)
        log_mass = laws.normalise(np.cumsum(np.concatenate([[0.0], steps])))
        total += float(np.exp(log_mass) @ np.abs(k / n - p))
    return total / 2
