"""The kernel whose moves a second model draws: its transition matrix, by `advance` in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from powerjax.sample import mh
from tests.sample import tabular

KINDS = (mh.RESTART, mh.SUFFIX, mh.BASE)
SHARES = (0.4, 0.35, 0.25)
CASES = [
    (alpha, tau, top_k)
    for alpha, tau, top_k in itertools.product((1.0, 1.7, 4.0), (0.5, 1.0, 2.0), (None, 2))
]

_advance = jax.jit(jax.vmap(mh.advance, in_axes=(0, 0, 0, None, 0)))


class Moves:
    """Every (state, kind, cut, proposal) of one stage, and the log A that `advance` gives it.

    Arrays are [R], one entry for each. base_temperature is the base's; None: 1 / alpha.
    """

    def __init__(self, logits, other, end, alpha, tau, top_k=None, base_temperature=None):
        self.logits, self.other, self.end, self.vocab = logits, other, end, logits.shape[1]
        base_inv = alpha if base_temperature is None else 1 / base_temperature
        self.log_p = tabular.log_softmax(logits)
        masked = other
        if top_k is not None:
            masked = np.where(logits >= np.sort(logits, -1)[..., [-top_k]], other, -np.inf)
        of_base = tabular.proposal_law(logits, base_inv, top_k)
        of_other = tabular.log_softmax(masked / tau)
        self.log_q = {mh.RESTART: of_other, mh.SUFFIX: of_other, mh.BASE: of_base}
        self.settings = mh.settings(
            alpha,
            base_temperature,
            block_size=end,
            num_mcmc_steps=10**6,
            max_new_tokens=end,
            stop_ids=(tabular.EOS,),
            top_k=top_k,
            early_rejection=False,
            shares=SHARES,
            proposal_temperature=tau,
            dtype=np.float64,
        )
        self.ys = [y for y in tabular.states(self.vocab, end) if self._can_draw(y)]
        moves = [
            (i, kind, m, z)
            for kind in KINDS
            for i, y in enumerate(self.ys)
            for m in range(1 if kind == mh.RESTART else len(y))
            for z in self.ys
            if z[:m] == y[:m] and len(z) > m
        ]
        self.source, self.kind, self.cut = (np.array(x) for x in list(zip(*moves, strict=True))[:3])
        self.proposals = [move[3] for move in moves]
        self.alpha = alpha
        self.log_rate = np.array(
            [
                self.sum_of(self.log_q[kind], z, m)
                - (0 if kind == mh.RESTART else np.log(len(self.ys[i])))
                for i, kind, m, z in moves
            ]
        )

    def _can_draw(self, y):
        return np.isfinite(self.sum_of(self.log_q[mh.BASE], y, 0))

    def sum_of(self, table, y, start):
        return tabular.sequence_log_prob(table, y, self.vocab, start)

    def log_a(self):
        """Drives each move through `advance`: log A, float64 [R]."""
        count, steps = len(self.source), 2 * self.end
        uniforms, rows = np.zeros((steps, count)), np.zeros((steps, count), int)
        total = np.zeros(count, int)
        lengths = np.array([len(self.ys[i]) for i in self.source])
        for r, z in enumerate(self.proposals):
            y, m = self.ys[self.source[r]], self.cut[r]
            plan = [(y, t, mh.SUFFIX) for t in range(len(y))]  # the proposal model extends
            plan += [(z, t, self.kind[r]) for t in range(m, len(z))]
            total[r] = len(plan)
            for at, (x, t, kind) in enumerate(plan):
                row = tabular.code(x[:t], self.vocab)
                mass = np.exp(self.log_q[kind][row])
                uniforms[at, r] = mass[: x[t] + 1].sum() - mass[x[t]] / 2
                rows[at, r] = row
        cut_bits = np.ceil(self.cut * 2.0**32 / lengths).astype(np.uint32)
        middle = np.cumsum(SHARES) - np.array(SHARES) / 2
        result = np.zeros(count)
        with jax.enable_x64(True):
            chain = tabular.start(self.settings, count, self.end, jnp.float64)
            for t in range(steps):
                draws = mh.Draws(
                    token=jnp.stack([jnp.zeros(count), uniforms[t]], axis=1),
                    cut=jnp.asarray(cut_bits),
                    log_u=jnp.full(count, -jnp.inf),
                    kind=jnp.asarray(middle[self.kind], jnp.float32),
                )
                logits, other = (jnp.asarray(x[rows[t]]) for x in (self.logits, self.other))
                chain, info = _advance(chain, logits, draws, self.settings, other)
                last = t == total - 1
                result = np.where(last, np.asarray(info.log_accept), result)
                assert (np.asarray(info.finished)[last]).all()
                assert (np.asarray(info.kind)[last] == self.kind[last]).all()
                tokens = np.asarray(chain.state.tokens)
                for r in np.nonzero(last)[0]:
                    assert tuple(tokens[r, : len(self.proposals[r])]) == self.proposals[r]
        return result

    def matrices(self, log_a):
        """P [kinds, Y, Y] of the moves of each kind."""
        size, place = len(self.ys), {y: i for i, y in enumerate(self.ys)}
        matrix = np.zeros((len(KINDS), size, size))
        rate, accept = np.exp(self.log_rate), np.exp(np.minimum(log_a, 0))
        to = np.array([place[z] for z in self.proposals])
        np.add.at(matrix, (self.kind, self.source, to), rate * accept)
        np.add.at(matrix, (self.kind, self.source, self.source), rate * (1 - accept))
        np.testing.assert_allclose(matrix.sum(-1), 1, atol=1e-12)
        return matrix

    def error(self, log_a):
        """max |pi P - pi| of each kind, float64 [kinds]."""
        top_k = self.settings.top_k
        target = tabular.power_law(self.logits, self.ys, self.alpha, top_k)
        return np.abs(target @ self.matrices(log_a) - target).max(-1)

    def formula(self, *, normalised=True, lengths=True, restart_lengths=False, swapped=False):
        """log A by the formula in numpy, right or with one mistake: float64 [R].

        normalised: whether log q is a normalised law at tau_q, and not log q_1 / tau_q.
        lengths: whether suffixes have their length terms. restart_lengths: whether restarts do.
        swapped: whether a kind's move is weighed by the other kind's law.
        """
        tau = 1 / float(self.settings.mixture.inv_temperature)
        result = []
        for r, z in enumerate(self.proposals):
            y, m, kind = self.ys[self.source[r]], self.cut[r], self.kind[r]
            of = {mh.BASE: mh.SUFFIX, mh.SUFFIX: mh.BASE, mh.RESTART: mh.BASE}[kind]
            log_q = self.log_q[of if swapped else kind]
            if not normalised and kind != mh.BASE:
                log_q = tabular.log_softmax(self.other) / tau
            gain = self.alpha * (self.sum_of(self.log_p, z, m) - self.sum_of(self.log_p, y, m))
            gain += self.sum_of(log_q, y, m) - self.sum_of(log_q, z, m)
            if restart_lengths if kind == mh.RESTART else lengths:
                gain += np.log(len(y)) - np.log(len(z))
            result.append(gain)
        return np.array(result)


@pytest.fixture(scope="module")
def tables():
    """Two different models: the logits of the base, and those of the proposal model."""
    return tabular.table(3, 4, seed=12, scale=1.3), tabular.table(3, 4, seed=77, scale=1.3)


def test_each_kind_of_move_leaves_power_law_invariant(tables, record_property):
    worst = np.zeros(3)
    for alpha, tau, top_k in CASES:
        moves = Moves(*tables, 4, alpha, tau, top_k)
        log_a = moves.log_a()
        np.testing.assert_allclose(log_a, moves.formula(), atol=1e-12)
        worst = np.maximum(worst, moves.error(log_a))
    record_property("max |pi P - pi| of restart, suffix, base", worst)
    assert worst.max() < 1e-12


def test_a_mixture_leaves_power_law_invariant_at_other_sizes(record_property):
    base, other = tabular.table(4, 3, seed=5, scale=2.0), tabular.table(4, 3, seed=6, scale=2.0)
    moves = Moves(base, other, 3, 2.5, 1.4, top_k=3, base_temperature=0.8)
    matrix = np.tensordot(SHARES, moves.matrices(moves.log_a()), 1)
    target = tabular.power_law(base, moves.ys, 2.5, 3)
    worst = np.abs(target @ matrix - target).max()
    record_property("max |pi P - pi|", worst)
    assert worst < 1e-12


@pytest.mark.parametrize(
    ("mistake", "kinds"),
    [
        ({"normalised": False}, (mh.RESTART, mh.SUFFIX)),
        ({"lengths": False}, (mh.SUFFIX, mh.BASE)),
        ({"restart_lengths": True}, (mh.RESTART,)),
        ({"swapped": True}, KINDS),
    ],
)
def test_each_wrong_ratio_is_caught(tables, mistake, kinds, record_property):
    moves = Moves(*tables, 4, 2.5, 2.0)
    errors = moves.error(moves.formula(**mistake))
    record_property(f"max |pi P - pi| with {mistake}", errors)
    assert min(errors[kind] for kind in kinds) > 1e-3


def test_a_base_move_alone_is_rejected_early(tables):
    """Early rejection ends a base move before its end, and never one of the proposal model."""
    settings = mh.settings(
        4.0,
        block_size=4,
        num_mcmc_steps=1,
        max_new_tokens=4,
        stop_ids=(tabular.EOS,),
        shares=SHARES,
    )
    row, early = jnp.asarray([-3.0, 0.0, 0.1]), {}
    for kind, u in zip(KINDS, (0.1, 0.5, 0.9), strict=True):
        chain = mh.init(settings)
        for _ in range(5):
            draws = mh.Draws(
                token=jnp.asarray([0.0, 0.99]),
                cut=jnp.uint32(0),
                log_u=jnp.float32(50.0),  # above any log A, so each move is hopeless at once
                kind=jnp.float32(u),
            )
            chain, info = mh.advance(chain, row, draws, settings, row[::-1])
        early[kind] = bool(info.rejected_early)
        assert int(info.kind) == kind
    assert early == {mh.RESTART: False, mh.SUFFIX: False, mh.BASE: True}
