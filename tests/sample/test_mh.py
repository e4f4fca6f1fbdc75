"""The kernel of one chain: its transition matrix, computed with `advance` itself in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from powerjax.sample import mh
from tests.sample import tabular

CASES = [
    (alpha, inv_temperature, top_k)
    for alpha, inv_temperature in itertools.product((1.0, 1.7, 4.0), (0.5, 1.0, 1.5, 2.5, 4.0))
    for top_k in (None, 2)
]


class Moves:
    """Every (state, cut, proposal) of one stage, and how `advance` decides each."""

    def __init__(self, logits, end, alpha, inv_temperature, top_k=None, kernel="exact"):
        vocab = logits.shape[1]
        self.ys = tabular.states(vocab, end)
        self.settings = mh.settings(
            alpha,
            1 / inv_temperature,
            block_size=end,
            num_mcmc_steps=10**6,
            max_new_tokens=end,
            stop_ids=(tabular.EOS,),
            kernel=kernel,
            top_k=top_k,
            dtype=np.float64,
            early_rejection=False,
        )
        log_q = tabular.proposal_law(logits, inv_temperature, top_k)
        possible = [np.isfinite(tabular.sequence_log_prob(log_q, y, vocab)) for y in self.ys]
        self.ys = [y for y, ok in zip(self.ys, possible, strict=True) if ok]
        capped = kernel == "karan2026"
        self.source, self.cut, proposals = [], [], []
        for i, y in enumerate(self.ys):
            for m in range(len(y)):
                ends = tabular.states(vocab, len(y)) if capped else self.ys
                for z in ends:
                    if (
                        z[:m] == y[:m]
                        and len(z) > m
                        and np.isfinite(tabular.sequence_log_prob(log_q, z, vocab))
                    ):
                        self.source.append(i)
                        self.cut.append(m)
                        proposals.append(z)
        self.proposals = proposals
        self.log_move = np.array(
            [
                tabular.sequence_log_prob(log_q, z, vocab, m) - np.log(len(self.ys[i]))
                for i, m, z in zip(self.source, self.cut, proposals, strict=True)
            ]
        )
        self._logits, self._cdf = logits, np.cumsum(np.exp(log_q), axis=-1)
        self._mass, self._end, self._vocab = np.exp(log_q), end, vocab

    def _uniform(self, prefix, token):
        row = tabular.code(prefix, self._vocab)
        return self._cdf[row, token] - self._mass[row, token] / 2

    def run(self, log_u):
        """Drives all moves with these log u [R]; returns the final chains, and log A [R]."""
        count, end = len(self.source), self._end
        ys = [self.ys[i] for i in self.source]
        lengths = np.array([len(y) for y in ys])
        total = lengths + np.array([len(z) for z in self.proposals]) - np.array(self.cut)
        steps = 2 * end
        uniforms, rows = np.zeros((steps, count)), np.zeros((steps, count), int)
        for r, (y, m, z) in enumerate(zip(ys, self.cut, self.proposals, strict=True)):
            for t in range(len(y)):
                uniforms[t, r], rows[t, r] = (
                    self._uniform(y[:t], y[t]),
                    tabular.code(y[:t], self._vocab),
                )
            for t in range(m, len(z)):
                at = len(y) + t - m
                uniforms[at, r], rows[at, r] = (
                    self._uniform(z[:t], z[t]),
                    tabular.code(z[:t], self._vocab),
                )
        cut_bits = np.ceil(np.array(self.cut) * 2.0**32 / lengths).astype(np.uint32)
        with jax.enable_x64(True):
            chain = tabular.start(self.settings, count, end, jnp.float64)
            log_a = np.zeros(count)
            for t in range(steps):
                draws = mh.Draws(
                    token=jnp.stack([jnp.zeros(count), uniforms[t]], axis=1),
                    cut=jnp.asarray(cut_bits),
                    log_u=jnp.asarray(log_u),
                )
                live = t < total
                new, info = _advance(
                    chain, jnp.asarray(self._logits[rows[t]]), draws, self.settings
                )
                chain = jax.tree.map(
                    lambda a, b, live=live: jnp.where(live.reshape(-1, *[1] * (a.ndim - 1)), b, a),
                    chain,
                    new,
                )
                log_a = np.where(t == total - 1, np.asarray(info.log_accept), log_a)
                ended = np.asarray(info.finished)
                assert (ended[t == total - 1]).all()
            return jax.device_get(chain), log_a

    def matrix(self, log_a):
        """Returns P on the states.

        The published rule also reaches completions that end before `end` without EOS. They are one
        more state, which is absorbing and has target probability 0.
        """
        size = len(self.ys)
        place = {y: i for i, y in enumerate(self.ys)}
        outside = any(z not in place for z in self.proposals)
        matrix = np.zeros((size + outside, size + outside))
        if outside:
            matrix[size, size] = 1
        rate, accept = np.exp(self.log_move), np.exp(np.minimum(log_a, 0))
        for r, i in enumerate(self.source):
            matrix[i, place.get(self.proposals[r], size)] += rate[r] * accept[r]
            matrix[i, i] += rate[r] * (1 - accept[r])
        np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-12)
        return matrix


_advance = jax.jit(jax.vmap(mh.advance, in_axes=(0, 0, 0, None)))


@pytest.fixture(scope="module")
def logits():
    return tabular.table(3, 4, seed=0)


@pytest.mark.parametrize(("vocab", "end"), [(3, 4), (4, 3), (3, 6)])
def test_kernel_leaves_power_law_invariant(vocab, end, record_property):
    logits = tabular.table(vocab, end, seed=vocab * end, scale=1.5)
    worst = 0.0
    for alpha, inv_temperature, top_k in CASES if end < 6 else [(4.0, 4.0, None), (1.0, 0.5, None)]:
        moves = Moves(logits, end, alpha, inv_temperature, top_k)
        _, log_a = moves.run(np.full(len(moves.source), -np.inf))
        matrix = moves.matrix(log_a)
        target = tabular.power_law(logits, moves.ys, alpha, top_k)
        worst = max(worst, np.abs(target @ matrix - target).max())
    record_property("max |pi P - pi|", worst)
    assert worst < 1e-12


def test_published_rule_and_uncorrected_kernel_fail(logits, record_property):
    moves = Moves(logits, 4, 4.0, 4.0)
    _, log_a = moves.run(np.full(len(moves.source), -np.inf))
    target = tabular.power_law(logits, moves.ys, 4.0)
    lengths = np.array(
        [[len(moves.ys[i]), len(z)] for i, z in zip(moves.source, moves.proposals, strict=True)]
    )
    uncorrected = moves.matrix(log_a - np.log(lengths[:, 0]) + np.log(lengths[:, 1]))
    published = Moves(logits, 4, 4.0, 4.0, kernel="karan2026")
    _, log_a = published.run(np.full(len(published.source), -np.inf))
    published = published.matrix(log_a)
    padded = np.append(target, 0)
    errors = [
        np.abs(target @ uncorrected - target).max(),
        np.abs(padded @ published - padded).max(),
    ]
    record_property("max |pi P - pi| without the length terms, by the published rule", errors)
    assert min(errors) > 1e-3


@pytest.mark.parametrize("kernel", ["exact", "power_inf"])
def test_a_move_is_kept_just_below_the_threshold_and_not_above(logits, kernel):
    moves = Moves(logits, 4, 3.0, 2.0, kernel=kernel)
    _, log_a = moves.run(np.full(len(moves.source), -np.inf))
    for offset, is_below in ((-1e-9, True), (1e-9, False)):
        chain, _ = moves.run(log_a + offset)
        for r, (i, z) in enumerate(zip(moves.source, moves.proposals, strict=True)):
            # A real log u is below 0, so it cannot exceed log A > 0. Here log u is free, so both
            # sides of log A are tried.
            is_kept = log_a[r] > 0 if kernel == "power_inf" else is_below
            state = tuple(chain.state.tokens[r][: chain.length[r]].tolist())
            assert state == (z if is_kept else moves.ys[i])


def test_log_ratio_is_that_of_the_formula(logits):
    moves = Moves(logits, 4, 2.5, 0.7)
    _, log_a = moves.run(np.full(len(moves.source), -np.inf))
    log_p, log_q = tabular.log_softmax(logits), tabular.proposal_law(logits, 0.7, None)
    for r, (i, m, z) in enumerate(zip(moves.source, moves.cut, moves.proposals, strict=True)):
        y = moves.ys[i]
        parts = [tabular.sequence_log_prob(lp, s, 3, m) for lp in (log_p, log_q) for s in (z, y)]
        expected = 2.5 * (parts[0] - parts[1]) - parts[2] + parts[3] + np.log(len(y) / len(z))
        assert abs(log_a[r] - expected) < 1e-12


def test_books_of_long_sequences_stay_exact_in_float32():
    """Compensated sums of 4,000 weights of about -1 are right to within 1e-4 under jit."""
    rng = np.random.default_rng(0)
    values = -rng.gamma(1.0, size=4000).astype(np.float32)

    @jax.jit
    def total(values):
        def add(carry, x):
            return mh._add(*carry, x), None

        return jax.lax.scan(add, (jnp.float32(0), jnp.float32(0)), values)[0]

    hi, lo = total(values)
    assert abs(float(hi) + float(lo) - values.astype(np.float64).sum()) < 1e-4


def test_cut_is_uniform_over_the_current_length():
    bits = np.random.default_rng(0).integers(0, 2**32, 300_000, dtype=np.uint32)
    for length in (1, 3, 1000, 3072):
        cuts = np.asarray(jax.vmap(lambda b, n=length: mh._scale(b, jnp.int32(n)))(bits))
        expected = (bits.astype(np.uint64) * length) >> 32
        np.testing.assert_array_equal(cuts, expected)


def test_kernel_is_usable_by_hand(logits):
    """As in a notebook, where any function of the working tokens may give the logits."""
    from powerjax.sample import draws

    settings = mh.settings(
        4.0,
        block_size=2,
        num_mcmc_steps=3,
        max_new_tokens=4,
        stop_ids=(tabular.EOS,),
        stop="horizon",
    )
    key = draws.chain_keys(0, ["by hand"], [0])[0]
    chain, moves = mh.init(settings), 0
    while not chain.done:
        row = logits[tabular.code(mh.working_tokens(chain).tolist(), 3)].astype(np.float32)
        chain, info = mh.advance(
            chain, jnp.asarray(row), draws.draw(key, chain, settings), settings
        )
        moves += int(info.is_proposal & info.finished)
    tokens = tuple(np.asarray(chain.state.tokens)[: int(chain.length)].tolist())
    assert tokens in tabular.states(3, 4)
    assert moves == 6
