"""The three roads to pi_alpha on one enumerable model, each as curves of distance against cost.

    sampling_curves       Metropolis-Hastings (Eq. 20), token temperature (Eq. 5), resampling
    rl_curves             gradient ascent and REINFORCE on Eq. 11, at the beta of Cor. 1
    distillation_curves   maximum likelihood on n completions (Eq. 16)

A distance is the total variation between a law over completions and the enumerated pi_alpha.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from powerjax.sample import mh
from powerjax.theory import chains, laws, learning, sis, transitions
from powerjax.theory.exact import TabularModel

PARTICLES = tuple(int(n) for n in np.unique(np.round(np.geomspace(1, 300, 20))))
SAMPLE_SIZES = tuple(int(n) for n in np.round(np.geomspace(10, 1e6, 16)))
BATCH_SIZES = (16, 256)
TEACHER_STEPS = 16
RULES: tuple[tuple[str, mh.Kernel], ...] = (
    ("MH, exact kernel", "exact"),
    ("MH, published rule", "karan2026"),
)


class Curve(NamedTuple):
    """One line of the figure: distance to pi_alpha against cost. The arrays are [points]."""

    road: str
    """"sampling", "rl" or "distillation"."""
    method: str
    """The name in legend and table."""
    is_exact: bool
    """True if the law is exact, False if it is estimated from draws."""
    steps: np.ndarray
    """MH moves, particles, gradient steps or training completions, by method."""
    tokens_per_completion: np.ndarray
    """Tokens drawn for each finished completion, on the sampling road; nan on the others."""
    completions_drawn: np.ndarray
    """Completions drawn in training, on the rl and distillation roads; nan where none are."""
    distance: np.ndarray
    """Total variation between the law and pi_alpha."""


def mean_length(model: TabularModel, policy: TabularModel) -> float:
    """Returns the expected tokens of one completion of a policy, EOS counted."""
    return float(np.exp(policy.log_joint()) @ model.completions()[1])


def _unknown(points: np.ndarray) -> np.ndarray:
    """Returns nan for each point: what a curve holds for a cost that its road does not have."""
    return np.full(len(points), np.nan)


def sampling_curves(
    model: TabularModel, alpha: float, num_steps: int, num_chains: int, seed: int = 0
) -> list[Curve]:
    """Returns the curves of road (a): Metropolis-Hastings, importance resampling, temperature."""
    return [
        *_chain_curves(model, alpha, num_steps, num_chains, seed),
        *_resampling_curves(model, alpha),
        _temperature_curve(model, alpha),
    ]


def _chain_curves(
    model: TabularModel, alpha: float, num_steps: int, num_chains: int, seed: int
) -> list[Curve]:
    """Returns two curves for each rule: the chain's exact law, and that of `mh` chains."""
    log_target = laws.power(model.log_joint(), alpha)
    proposal = model.tempered(alpha)
    start, tokens_at_start = np.exp(proposal.log_joint()), mean_length(model, proposal)
    curves = []
    checkpoints = np.unique(np.round(np.geomspace(1, num_steps + 1, 14)).astype(int)) - 1
    steps = np.arange(num_steps + 1)
    for name, rule in RULES:
        move = transitions.kernel(model, proposal, alpha, rule)
        chain_laws, tokens = transitions.laws_of_chain(move, start, num_steps)
        tokens = tokens + tokens_at_start
        exact = transitions.distance_to(log_target, chain_laws)
        curves.append(Curve("sampling", name, True, steps, tokens, _unknown(steps), exact))
        strings = chains.run_chains(model, alpha, num_steps, num_chains, rule, seed)[checkpoints]
        seen = transitions.distance_to(log_target, chains.empirical_laws(model, strings))
        at = checkpoints
        curves.append(Curve("sampling", name, False, at, tokens[at], _unknown(at), seen))
    return curves


def _resampling_curves(model: TabularModel, alpha: float) -> list[Curve]:
    """Returns a curve over the number of particles for each proposal, with exact laws."""
    log_target = laws.power(model.log_joint(), alpha)
    policies = {
        "base": model,
        "temperature": model.tempered(alpha),
        "oracle": model.powered(alpha),
    }
    particles = np.array(PARTICLES)
    curves = []
    for name, policy in policies.items():
        log_q = policy.log_joint()
        resampled = [sis.resampled_law(log_target, log_q, n) for n in PARTICLES]
        distance = np.array([laws.total_variation(law, log_target) for law in resampled])
        tokens = particles * mean_length(model, policy)
        method = f"SIS, {name} proposal"
        curves.append(
            Curve("sampling", method, True, particles, tokens, _unknown(particles), distance)
        )
    return curves


def _temperature_curve(model: TabularModel, alpha: float) -> Curve:
    """Returns the one point of token temperature: its distance does not fall with more draws."""
    proposal = model.tempered(alpha)
    distance = laws.total_variation(proposal.log_joint(), laws.power(model.log_joint(), alpha))
    tokens = np.array([mean_length(model, proposal)])
    point = np.array([1])
    name = "token temperature"
    return Curve("sampling", name, True, point, tokens, _unknown(point), distance[None])


def rl_curves(model: TabularModel, alpha: float, num_steps: int, seed: int = 0) -> list[Curve]:
    """Returns the curves of road (b): self-reward RL (Eq. 11) at beta = 1/(alpha - 1) (Cor. 1).

    Raises ValueError unless alpha > 1.
    """
    if alpha <= 1:
        raise ValueError(f"the RL road needs alpha > 1 (beta = 1/(alpha - 1)), got {alpha:g}")
    beta = 1 / (alpha - 1)
    log_target = laws.power(model.log_joint(), alpha)
    steps = np.arange(num_steps + 1)
    policies = learning.gradient_ascent(model, beta, num_steps, 0.1)
    distance = laws.total_variation(policies, log_target)
    name, unknown = "exact gradient of Eq. 11", _unknown(steps)
    curves = [Curve("rl", name, True, steps, unknown, unknown, distance)]
    for batch in BATCH_SIZES:
        policies = learning.reinforce(model, beta, num_steps, batch, 0.1, seed)
        distance = laws.total_variation(policies, log_target)
        name = f"REINFORCE, {batch} completions per step"
        curves.append(Curve("rl", name, False, steps, unknown, steps * batch, distance))
    return curves


def distillation_curves(
    model: TabularModel, alpha: float, num_chains: int, seed: int = 0
) -> list[Curve]:
    """Returns the curves of road (c): maximum likelihood on n completions of a teacher (Eq. 16).

    One teacher is pi_alpha itself. The other is a Metropolis-Hastings chain of TEACHER_STEPS moves.
    Each has a curve of exact expectations and one of single fits to drawn completions.
    """
    # --- the teachers' laws, and completions drawn from them ---
    log_target = laws.power(model.log_joint(), alpha)
    proposal = model.tempered(alpha)
    move = transitions.kernel(model, proposal, alpha)
    path, _ = transitions.laws_of_chain(move, np.exp(proposal.log_joint()), TEACHER_STEPS)
    short = laws.log_of(np.maximum(path[-1][: model.num_completions], 0))
    teachers = {
        "MLE on exact samples": log_target,
        f"MLE on MH samples, {TEACHER_STEPS} steps": short,
    }
    rng = np.random.default_rng(seed)
    strings = chains.run_chains(model, alpha, TEACHER_STEPS, num_chains, seed=seed)[-1]
    pools = [
        laws.draw(rng, log_target, SAMPLE_SIZES[-1]),
        chains.string_index(model, strings),
    ]
    # --- the students' distances ---
    curves = []
    for (name, log_teacher), pool in zip(teachers.items(), pools, strict=True):
        mean = [learning.expected_distance(log_target, log_teacher, n) for n in SAMPLE_SIZES]
        n = np.array(SAMPLE_SIZES)
        curves.append(Curve("distillation", name, True, n, _unknown(n), n, np.array(mean)))
        n = n[n <= len(pool)]
        fits = [learning.distil(model, rng.choice(pool, size, replace=False)) for size in n]
        seen = np.array([laws.total_variation(fit.log_joint(), log_target) for fit in fits])
        curves.append(Curve("distillation", name, False, n, _unknown(n), n, seen))
    return curves
