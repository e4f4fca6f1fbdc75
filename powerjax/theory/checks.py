"""Every proposition and equation, checked over random models, shapes and exponents.

Each function takes the exponents and returns one `Check`. Models are drawn from a fixed seed. An
identity is compared in cells (entries of its two sides); an inequality or a Monte-Carlo estimate is
tried in cells of its own (settings of the experiment).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from powerjax.theory import propositions as props
from powerjax.theory import sharpening, sis, zipf
from powerjax.theory.exact import TabularModel

TOLERANCE = 1e-10
SHAPES = ((3, 4, True, 0.0), (4, 3, False, 0.0), (2, 8, True, 0.0), (5, 4, True, 0.2))
"""The shapes of the random models: vocabulary, length, EOS, share of tokens of probability zero."""
MODELS_PER_SHAPE = 5

PROP3_DELTA = 0.5
PROP3_RHO = 0.05
PROP3_POLICIES = 32
PROP3_SIZES = (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
PROP3_DATA_SETS = 400


class Check(NamedTuple):
    """What was checked, and the outcome: one line of the launcher's report."""

    name: str
    what: str
    cells: int
    """How many cells were compared; 0 where no exponent allows a comparison."""
    worst: str
    """The worst cell, in words."""
    passed: bool

    def line(self) -> str:
        """Returns the line that the launcher prints."""
        verdict = ("pass" if self.cells else "skip") if self.passed else "FAIL"
        return f"{verdict}  {self.name:<9} {self.what}: {self.cells:,} cells, {self.worst}"


def random_models(seed: int = 0) -> list[TabularModel]:
    """Returns MODELS_PER_SHAPE models of each of SHAPES, of various sharpness."""
    rng = np.random.default_rng(seed)
    return [
        TabularModel.random(rng, vocab, length, eos, scale=rng.uniform(0.5, 4), zeros=zeros)
        for vocab, length, eos, zeros in SHAPES
        for _ in range(MODELS_PER_SHAPE)
    ]


def other_policy(model: TabularModel, rng: np.random.Generator) -> TabularModel:
    """Returns a random policy of the model's shape; every token has positive probability."""
    return TabularModel.random(rng, model.vocab_size, model.length, model.eos, scale=1.5)


def _identity(
    name: str, what: str, sides: Iterable[props.Sides | props.PairSides], also: bool = True
) -> Check:
    """Returns the check that all sides agree within TOLERANCE, and that `also` holds."""
    cells, worst = 0, 0.0
    for side in sides:
        cells += np.size(side.left)
        worst = max(worst, side.deviation)
    outcome = f"worst deviation {worst:.1e}" if cells else "none of the exponents is above 1"
    return Check(name, what, cells, outcome, worst <= TOLERANCE and also)


def definitions(alphas: Sequence[float]) -> Check:
    """Checks Eq. 6 and Eq. 8."""
    models = random_models()
    what = "Eq. 6, 8: conditionals of pi_alpha and prefix totals, recursion against enumeration"
    sides = [f(model, alpha) for model in models for alpha in alphas for f in _DEFINITIONS]
    return _identity("eq6-8", what, sides)


_DEFINITIONS = (props.next_token_conditionals, props.prefix_totals)


def prop1(alphas: Sequence[float]) -> Check:
    """Checks Proposition 1 (Eq. 7) on the random models and on the synthetic one."""
    sides = [props.prop1_log_odds(model, a) for model in random_models() for a in alphas]
    sides += [props.prop1_log_odds(zipf.model(), a, depth=0) for a in alphas]
    what = "Eq. 7: log odds of power over temperature, every pair after every prefix"
    return _identity("prop1", what, sides)


def prop2(alphas: Sequence[float]) -> Check:
    """Checks Proposition 2 (Eq. 9, 10, 23): mean, variance, minimiser and product of the W_t."""
    rng = np.random.default_rng(2)
    sides: list[props.Sides] = []
    least = True
    for model in random_models():
        for alpha in alphas:
            sides.append(props.prop2_minimiser(model, alpha))
            for policy in (model, model.tempered(alpha), *(other_policy(model, rng),) * 3):
                moments = props.prop2_moments(model, policy, alpha)
                sides += [*moments, props.prop2_product(model, policy, alpha)]
                least &= bool((moments[1].left >= -TOLERANCE).all())
    what = "Eq. 9, 10, 23: E[W_t], Var[W_t] and its least value, product of the W_t"
    return _identity("prop2", what, sides, least)


class Prop3Cell(NamedTuple):
    """Proposition 3's experiment at one exponent and one number of completions, n."""

    alpha: float
    n: int
    fits: sharpening.PolicyFits


def prop3_cells(alphas: Sequence[float], seed: int = 3) -> list[Prop3Cell]:
    """Repeats power self-distillation for every n of PROP3_SIZES and every exponent.

    The exponents of PROP3_LIMIT are added to `alphas`. `seed` fixes the base models, the policy
    classes and the data sets.
    """
    rng = np.random.default_rng(seed)
    prompts = [TabularModel.random(rng, 3, 3, True, scale=1.5) for _ in range(8)]
    log_p = np.stack([model.log_joint() for model in prompts])
    cells = []
    for alpha in sorted({*alphas, *PROP3_LIMIT}):
        policies = sharpening.policy_class(log_p, alpha, PROP3_POLICIES, rng)
        for n in PROP3_SIZES:
            fits = sharpening.prop3_fits(
                log_p,
                policies,
                alpha,
                n,
                delta=PROP3_DELTA,
                rho=PROP3_RHO,
                num_data_sets=PROP3_DATA_SETS,
                rng=rng,
            )
            cells.append(Prop3Cell(alpha, n, fits))
    return cells


PROP3_LIMIT = (2.0, 4.0, 8.0, 16.0, 32.0)
"""Exponents of the limit n, alpha -> inf. The k-th largest goes with the k-th largest n."""


def prop3(alphas: Sequence[float]) -> Check:
    """Checks Proposition 3 (Eq. 17) and Lemma 1, which are inequalities that may fail at rate rho.

    The worst cell is the one of largest failure rate. Along the limit the bound must vanish, and
    what it bounds with it.
    """
    cells = prop3_cells(alphas)
    telling = sum(cell.fits.bound < 1 for cell in cells)
    rates = [max(c.fits.failure_rate, c.fits.hellinger_failure_rate) for c in cells]
    path = [
        next(c.fits for c in cells if (c.alpha, c.n) == setting)
        for setting in zip(PROP3_LIMIT, PROP3_SIZES[-len(PROP3_LIMIT) :], strict=True)
    ]
    bounds = [fits.bound for fits in path]
    shrinks = bounds == sorted(bounds, reverse=True) and bounds[-1] < 0.01
    vanishes = path[-1].unsharpened.mean() <= bounds[-1]
    what = f"Eq. 17, Lemma 1: MLE of {PROP3_POLICIES} policies, {PROP3_DATA_SETS} data sets a cell"
    worst = (
        f"{telling} with the bound below 1; worst failure rate {max(rates):.3f} (rho "
        f"{PROP3_RHO:g}); the bound is {bounds[-1]:.4f} at n = {PROP3_SIZES[-1]:,}, alpha = "
        f"{PROP3_LIMIT[-1]:g}"
    )
    passed = max(rates) <= PROP3_RHO and telling >= 10 and shrinks and vanishes
    return Check("prop3", what, len(cells), worst, bool(passed))


def prop4(alphas: Sequence[float]) -> Check:
    """Checks Proposition 4: arbitrary rewards (Eq. 18), and the affine case (Eq. 19)."""
    rng = np.random.default_rng(4)
    sides: list[props.Sides] = []
    rises = True
    for model in random_models()[::2]:
        log_p = model.log_joint()
        rewards = (rng.standard_normal(log_p.shape), (rng.random(log_p.shape) < 0.3).astype(float))
        for alpha in alphas:
            sides += [props.prop4_derivative(log_p, reward, alpha) for reward in rewards]
            affine = props.prop4_affine(log_p, rng.uniform(0.1, 2), rng.normal(), alpha)
            sides.append(affine)
            rises &= bool(affine.left >= -TOLERANCE)
    what = "Eq. 18, 19: jax.grad of R(alpha) and the covariance; the affine case rises"
    return _identity("prop4", what, sides, rises)


PROP5_BETAS = (0.1, 1.0, 5.0)


def prop5(alphas: Sequence[float]) -> Check:
    """Checks Proposition 5 (Eq. 11, 12): the objective of any policy, and its maximiser."""
    rng = np.random.default_rng(5)
    sides: list[props.Sides] = []
    best = True
    for model in random_models():
        log_p = model.log_joint()
        for beta in {*PROP5_BETAS, *_betas(alphas)}:
            reward = rng.standard_normal(log_p.shape)
            log_star, log_z = props.regularised_optimum(log_p, reward, beta)
            policies = other_policy(model, rng).log_joint(), log_p, log_star
            objectives = [props.prop5_objective(q, log_p, reward, beta) for q in policies]
            best &= all(side.left <= beta * log_z + TOLERANCE for side in objectives)
            sides += objectives
    what = "Eq. 11, 12: J_beta(q) = -beta KL(q || pi*) + beta log Z_r, never above its maximum"
    return _identity("prop5", what, sides, best)


def cor1(alphas: Sequence[float]) -> Check:
    """Checks Corollary 1 (Eq. 13)."""
    models = random_models()
    sides = [props.cor1_optimum(model.log_joint(), b) for model in models for b in _betas(alphas)]
    return _identity("cor1", "Eq. 13: pi*_beta with r_self is pi_alpha, alpha = 1 + 1/beta", sides)


def kl_forms(alphas: Sequence[float]) -> Check:
    """Checks Eq. 14 to 16."""
    stationary = random_models()[::MODELS_PER_SHAPE]
    sides = [props.eq16_stationary(model, alpha) for model in stationary for alpha in alphas]
    rng, least = np.random.default_rng(6), True
    for model in random_models():
        log_p = model.log_joint()
        log_q = other_policy(model, rng).log_joint()
        sides += [
            props.eq14_reverse_kl(q, log_p, b) for q in (log_q, log_p) for b in _betas(alphas)
        ]
        forward = [props.eq15_forward_kl(log_q, log_p, alpha) for alpha in alphas]
        least &= all((side.left > 0).all() for side in forward)
        sides += forward
    what = "Eq. 14 to 16: reverse and forward KL; the NLL's gradient vanishes at pi_alpha"
    return _identity("eq14-16", what, sides, least)


def _betas(alphas: Sequence[float]) -> list[float]:
    """Returns beta = 1/(alpha - 1) (Cor. 1) of the exponents above 1."""
    return [1 / (alpha - 1) for alpha in alphas if alpha > 1]


ESS_SIZES = (10**4, 10**6, 10**8, 10**9)
ESS_REPLICATES = 400
ESS_SETTLED = 0.05
"""The delta method is compared only where it predicts a relative spread below this."""


def ess(alphas: Sequence[float]) -> Check:
    """Checks that Monte-Carlo ESS/N of the synthetic model nears the exact value as N^-1/2.

    At each N the error of the mean is measured in its standard errors, and the spread in units of
    what the delta method predicts.
    """
    rng = np.random.default_rng(7)
    off, spreads = [], []
    for alpha in alphas:
        policies = zipf.proposals(alpha)
        log_target = policies.pop("oracle")
        for log_q in policies.values():
            exact = sis.ess_fraction(log_target, log_q)
            for n in ESS_SIZES:
                spread = sis.ess_error_scale(log_target, log_q) / np.sqrt(n)
                if not 1e-9 < spread < ESS_SETTLED * exact:  # 1e-9: all weights are equal
                    continue
                seen = sis.monte_carlo_ess(rng, log_target, log_q, n, ESS_REPLICATES)
                spreads.append(seen.std() / spread)
                off.append(abs(seen.mean() - exact) * np.sqrt(ESS_REPLICATES) / spread)
    if not off:
        return Check("ess", "Monte-Carlo ESS/N", 0, "no cell is in the asymptotic regime", True)
    worst = (
        f"mean within {max(off):.1f} standard errors, sqrt(N) x spread {min(spreads):.2f} to "
        f"{max(spreads):.2f} of the delta method's, N = {ESS_SIZES[0]:.0e} to {ESS_SIZES[-1]:.0e}"
    )
    passed = max(off) < 5 and min(spreads) > 0.8 and max(spreads) < 1.2
    return Check("ess", "Monte-Carlo ESS/N, synthetic model", len(off), worst, bool(passed))


ALL: dict[str, Callable[[Sequence[float]], Check]] = {
    "eq6-8": definitions,
    "prop1": prop1,
    "prop2": prop2,
    "prop3": prop3,
    "prop4": prop4,
    "prop5": prop5,
    "cor1": cor1,
    "eq14-16": kl_forms,
    "ess": ess,
}
