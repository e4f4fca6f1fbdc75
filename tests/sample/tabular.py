"""Models small enough to enumerate, and chains that call `mh.advance` on them directly.

A model is a table of logits, with one row for each prefix of a completion.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from powerjax.sample import draws, mh

EOS = 0


def table(vocab: int, horizon: int, seed: int, scale: float = 1.0) -> np.ndarray:
    """Returns random logits after every prefix shorter than `horizon`.

    They are float64 [num_codes, vocab]; `code` gives the row of a prefix.
    """
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=(num_codes(vocab, horizon), vocab))


def num_codes(vocab: int, horizon: int) -> int:
    """Returns the number of prefixes shorter than `horizon`."""
    return sum(vocab**n for n in range(horizon))


def code(prefix, vocab: int) -> int:
    """Returns the row of a prefix. Shorter prefixes come first."""
    start = sum(vocab**n for n in range(len(prefix)))
    return start + functools.reduce(lambda a, t: a * vocab + t, prefix, 0)


def codes_of(chain: mh.Chain, vocab: int) -> jax.Array:
    """Returns the row of one chain's working tokens, traced; vmap it for several chains."""
    index = jnp.arange(chain.state.tokens.shape[0])
    tokens = jnp.where(index < chain.cut, chain.state.tokens, chain.proposal.tokens)
    inside = index < chain.position
    start = jnp.sum(jnp.where(inside, vocab**index, 0))
    place = vocab ** jnp.maximum(chain.position - 1 - index, 0)
    return (start + jnp.sum(jnp.where(inside, tokens * place, 0))).astype(jnp.int32)


def states(vocab: int, end: int) -> list[tuple[int, ...]]:
    """Returns every completion that ends in EOS or has length `end`."""
    completions = []
    for n in range(1, end + 1):
        for body in itertools.product(range(1, vocab), repeat=n - 1):
            last = range(vocab) if n == end else [EOS]
            completions += [(*body, t) for t in last]
    return completions


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def proposal_law(logits: np.ndarray, inv_temperature: float, top_k: int | None) -> np.ndarray:
    """Returns log q for rows of logits; it is -inf outside the top k (None: of all)."""
    x = logits * inv_temperature
    if top_k is not None:
        x = np.where(logits >= np.sort(logits, -1)[..., [-top_k]], x, -np.inf)
    return log_softmax(x)


def sequence_log_prob(log_p: np.ndarray, y, vocab: int, start: int = 0) -> float:
    """Returns log p of y[start:] given y[:start].

    log_p: log probabilities after every prefix, in rows by `code`.
    """
    return sum(log_p[code(y[:t], vocab), y[t]] for t in range(start, len(y)))


def power_law(logits, ys, alpha: float, top_k: int | None = None) -> np.ndarray:
    """Returns pi^alpha on ys, by enumeration.

    With top_k it is restricted to completions whose tokens are all among the top k.
    """
    vocab = logits.shape[1]
    log_p, log_q = log_softmax(logits), proposal_law(logits, 1.0, top_k)
    allowed = np.array([np.isfinite(sequence_log_prob(log_q, y, vocab)) for y in ys])
    weight = np.array([alpha * sequence_log_prob(log_p, y, vocab) for y in ys])
    weight = np.where(allowed, np.exp(weight - weight.max()), 0)
    return weight / weight.sum()


@functools.partial(jax.jit, static_argnames="steps")
def drive(chain: mh.Chain, logits, keys, settings, steps: int, forced=None, forced_length=None):
    """Runs chains [R] with real keys for `steps` tokens each.

    forced: tokens [R,M] that the first extension must draw; None lets it draw its own.
    """
    vocab = logits.shape[1]
    dtype = logits.dtype.type

    def advance(chain, key, forced, forced_length):
        row = logits[codes_of(chain, vocab)]
        uniforms = draws.draw(key, chain, settings, dtype)
        if forced is not None:
            mass = jnp.exp((row - row.max()) * settings.inv_temperature.astype(dtype))
            cdf = jnp.cumsum(mass) / jnp.sum(mass)
            token = forced[jnp.minimum(chain.position, forced.shape[0] - 1)]
            middle = cdf[token] - mass[token] / jnp.sum(mass) / 2
            u = jnp.where((chain.stage == 0) & (chain.step == 0), middle, uniforms.token[1])
            uniforms = uniforms._replace(token=jnp.stack([uniforms.token[0], u]))
        return mh.advance(chain, row, uniforms, settings)[0]

    axes = (0, 0, None if forced is None else 0, None)
    body = lambda _, c: jax.vmap(advance, in_axes=axes)(c, keys, forced, forced_length)  # noqa: E731
    return jax.lax.fori_loop(0, steps, body, chain)


def start(settings: mh.Settings, count: int, max_tokens: int, dtype=jnp.float32) -> mh.Chain:
    """Returns `count` empty chains."""
    chain = mh.init(settings, max_tokens, dtype)
    return jax.tree.map(lambda x: jnp.tile(x[None], (count,) + (1,) * x.ndim), chain)


def counts(chain: mh.Chain, ys) -> np.ndarray:
    """Returns how many chains are in each state of ys. Every chain must be in one of them."""
    place = {y: i for i, y in enumerate(ys)}
    tokens, length = np.asarray(chain.state.tokens), np.asarray(chain.length)
    count = np.zeros(len(ys), int)
    for row, n in zip(tokens, length, strict=True):
        count[place[tuple(row[:n].tolist())]] += 1
    return count


def kernel_matrix(logits, ys, alpha, inv_temperature, top_k=None, power_inf=False) -> np.ndarray:
    """Returns P of one MH move on ys, from the formula, in numpy and without the package."""
    vocab, end = logits.shape[1], max(map(len, ys))
    log_p, log_q = log_softmax(logits), proposal_law(logits, inv_temperature, top_k)
    place = {y: i for i, y in enumerate(ys)}
    matrix = np.zeros((len(ys), len(ys)))
    tails = {}
    for prefix_length in range(end):
        for y in ys:
            if len(y) > prefix_length:
                tails.setdefault(y[:prefix_length], []).append(y)
    for y in ys:
        i = place[y]
        for m in range(len(y)):
            for z in tails[y[:m]]:
                move = sequence_log_prob(log_q, z, vocab, m)
                if not np.isfinite(move):
                    continue
                gain = sequence_log_prob(log_p, z, vocab, m) - sequence_log_prob(log_p, y, vocab, m)
                back = sequence_log_prob(log_q, y, vocab, m)
                if power_inf:
                    accept = float(gain > 1e-12)
                else:
                    log_a = alpha * gain + back - move + np.log(len(y)) - np.log(len(z))
                    accept = np.exp(min(0.0, log_a))
                rate = np.exp(move) / len(y) * accept
                matrix[i, place[z]] += rate
                matrix[i, i] += np.exp(move) / len(y) * (1 - accept)
    return matrix
