"""Models small enough to enumerate, and chains of `mh.advance` driven on them by hand."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from powerjax.sample import draws, mh

EOS = 0


def table(vocab: int, horizon: int, seed: int, scale: float = 1.0) -> np.ndarray:
    """Logits after every prefix, float64 [vocab**horizon-ish, vocab], row by `code`."""
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=(num_codes(vocab, horizon), vocab))


def num_codes(vocab: int, horizon: int) -> int:
    return sum(vocab**n for n in range(horizon))


def code(prefix, vocab: int) -> int:
    """Row of a prefix: shorter ones first."""
    start = sum(vocab**n for n in range(len(prefix)))
    return start + functools.reduce(lambda a, t: a * vocab + t, prefix, 0)


def codes_of(chain: mh.Chain, vocab: int) -> jax.Array:
    """Row of the working tokens of one chain (traced; vmap for more)."""
    index = jnp.arange(chain.state.tokens.shape[0])
    tokens = jnp.where(index < chain.cut, chain.state.tokens, chain.proposal.tokens)
    inside = index < chain.position
    start = jnp.sum(jnp.where(inside, vocab**index, 0))
    place = vocab ** jnp.maximum(chain.position - 1 - index, 0)
    return (start + jnp.sum(jnp.where(inside, tokens * place, 0))).astype(jnp.int32)


def states(vocab: int, end: int) -> list[tuple[int, ...]]:
    """Every completion that ends in EOS or has length `end`."""
    found = []
    for n in range(1, end + 1):
        for body in itertools.product(range(1, vocab), repeat=n - 1):
            last = range(vocab) if n == end else [EOS]
            found += [(*body, t) for t in last]
    return found


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def proposal_law(logits: np.ndarray, inv_temperature: float, top_k: int | None) -> np.ndarray:
    """log q for rows of logits; -inf outside the top k."""
    x = logits * inv_temperature
    if top_k is not None:
        x = np.where(logits >= np.sort(logits, -1)[..., [-top_k]], x, -np.inf)
    return log_softmax(x)


def sequence_log_prob(log_p: np.ndarray, y, vocab: int, start: int = 0) -> float:
    """log prob of y[start:] given y[:start], by rows of per-prefix log-probs."""
    return sum(log_p[code(y[:t], vocab), y[t]] for t in range(start, len(y)))


def power_law(logits, ys, alpha: float, top_k: int | None = None) -> np.ndarray:
    """pi^alpha on ys by enumeration (with top_k: on strings whose tokens are all in the top k)."""
    vocab = logits.shape[1]
    log_p, log_q = log_softmax(logits), proposal_law(logits, 1.0, top_k)
    allowed = np.array([np.isfinite(sequence_log_prob(log_q, y, vocab)) for y in ys])
    weight = np.array([alpha * sequence_log_prob(log_p, y, vocab) for y in ys])
    weight = np.where(allowed, np.exp(weight - weight.max()), 0)
    return weight / weight.sum()


@functools.partial(jax.jit, static_argnames="steps")
def drive(chain: mh.Chain, logits, keys, settings, steps: int, forced=None, forced_length=None):
    """Runs chains [R] with real keys for `steps` tokens each; with `forced` [R,M] tokens, the first
    extension draws exactly those."""
    vocab = logits.shape[1]
    dtype = logits.dtype.type

    def one(chain, key, forced, forced_length):
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
    body = lambda _, c: jax.vmap(one, in_axes=axes)(c, keys, forced, forced_length)  # noqa: E731
    return jax.lax.fori_loop(0, steps, body, chain)


def start(settings: mh.Settings, count: int, max_tokens: int, dtype=jnp.float32) -> mh.Chain:
    """`count` empty chains."""
    one = mh.init(settings, max_tokens, dtype)
    return jax.tree.map(lambda x: jnp.tile(x[None], (count,) + (1,) * x.ndim), one)


def counts(chain: mh.Chain, ys) -> np.ndarray:
    """How many chains are in each state of ys; every chain must be in one."""
    place = {y: i for i, y in enumerate(ys)}
    tokens, length = np.asarray(chain.state.tokens), np.asarray(chain.length)
    found = np.zeros(len(ys), int)
    for row, n in zip(tokens, length, strict=True):
        found[place[tuple(row[:n].tolist())]] += 1
    return found


def kernel_matrix(logits, ys, alpha, inv_temperature, top_k=None, power_inf=False) -> np.ndarray:
    """P of one MH move on ys, from the formula, in numpy; nothing of the package is used."""
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
