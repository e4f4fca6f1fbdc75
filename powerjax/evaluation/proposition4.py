"""Prop. 4 on samples: what power sampling adds to a reward, and what the covariance predicts.

The reward is synthetic, r_lambda = lambda z_self + sqrt(1 - lambda^2) z_h + eps: the z-scores of
self-reward and of a hash of the text, and noise. By Prop. 4 (Eq. 18) its mean rises from standard
to power sampling by the integral over alpha of Cov_alpha(r_lambda, r_self), r_self the *sum*
log-likelihood, prompt by prompt. Of the three parts only z_self has a covariance in the mean, and
it is Var_alpha(r_self) / sd, so gain against covariance is a line of slope

    integral from 1 to alpha of E_x Var_a(r_self | x) da / E_x Var_1(r_self | x).

That it is a line says little, for gain and covariance are both near-linear in lambda; its slope is
what tests the proposition. Variances and covariances are within a prompt: between prompts
self-reward varies too, and no sampler changes that.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from powerjax.records import Record, fields

NOISE = 0.5  # standard deviation of eps
_PERCENTILES = (2.5, 97.5)
_NEEDED = ("problem_id", "seed", "sample_index", "log_prob")


class Interval(NamedTuple):
    """A number and its 95 % interval, a bootstrap over problems."""

    value: float
    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


class Samples(NamedTuple):
    """Completions of one law: [problem, sample] each."""

    log_prob: np.ndarray  # their sum log-likelihood under the model (nats)
    probe: np.ndarray  # `probe` of their text


@dataclasses.dataclass(frozen=True)
class Probed:
    """What the synthetic rewards show.

    Attributes:
      lambdas, gain, covariance: [points]; gain is power's mean minus standard's.
      slope, intercept: of the line fitted to gain against covariance.
      predicted: the slope by Prop. 4.
      difference: fitted slope minus predicted, from the same bootstrap draws.
      alphas, rise: [nodes], the mean of the sum log-likelihood at alpha minus that at 1.
      rise_predicted: [(nodes + 1) / 2], its prediction at every second alpha.
    """

    lambdas: np.ndarray
    gain: np.ndarray
    covariance: np.ndarray
    slope: Interval
    intercept: float
    predicted: Interval
    difference: Interval
    alphas: np.ndarray
    rise: list[Interval]
    rise_predicted: list[Interval]

    @property
    def agrees(self) -> bool:
        """Whether the prediction lies in the fitted slope's 95 % interval."""
        return self.predicted.value in self.slope


def probe(text: str) -> float:
    """The leading 64 bits of SHA-256 of a text, as a fraction in [0, 1)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def alphas(most: float, num: int) -> np.ndarray:
    """`num` exponents from 1 to `most`, equally spaced in their logarithm; `num` is odd."""
    if num < 3 or num % 2 == 0:
        raise ValueError(f"{num} exponents: Simpson's rule needs an odd number, 3 or more")
    return most ** np.linspace(0, 1, num)


def samples(records: Sequence[Record]) -> Samples:
    """The records of one sampler, problems in the order of their ids.

    Raises ValueError where a problem has fewer completions than another, or fewer than two.
    """
    by_problem: dict[str, list[Record]] = {}
    for record in records:
        fields.check(record, f"the record {record.get('id')!r}", needs=_NEEDED)

    def place(record: Record) -> tuple[str, int, int]:
        return str(record["problem_id"]), record["seed"], record["sample_index"]

    for record in sorted(records, key=place):
        by_problem.setdefault(record["problem_id"], []).append(record)
    counts = {len(found) for found in by_problem.values()}
    if len(counts) != 1 or min(counts) < 2:
        raise ValueError(
            "a variance within problems needs the same number of completions of each, 2 or more;"
            f" these have {', '.join(map(str, sorted(counts)))}"
        )
    rows = list(by_problem.values())
    return Samples(
        np.array([[r["log_prob"] for r in row] for row in rows]),
        np.array([[probe(_text(r)) for r in row] for row in rows]),
    )


def _text(record: Record) -> str:
    """The completion; its token ids where the text is secret."""
    text = record.get("completion")
    return json.dumps(record["tokens"]) if text is None else text


def synthetic(
    by_alpha: dict[float, Samples],
    *,
    num_points: int = 41,
    seed: int = 0,
    num_resamples: int = 2000,
) -> Probed:
    """The figure's numbers from completions of the same problems at the exponents of `alphas`."""
    nodes = np.array(sorted(by_alpha))
    laws = [by_alpha[alpha] for alpha in nodes]
    standard, power = laws[0], laws[-1]
    rng = np.random.default_rng(seed)
    lambdas = np.linspace(-1, 1, num_points)
    weights = lambdas, np.sqrt(1 - lambdas**2), np.ones(num_points)
    gain = covariance = 0.0  # [problem, point]
    for weight, (of_standard, of_power) in zip(
        weights,
        (
            _z_scores(standard.log_prob, power.log_prob),
            _z_scores(standard.probe, power.probe),
            tuple(
                rng.normal(0, NOISE, (*law.probe.shape, num_points)) for law in (standard, power)
            ),
        ),
        strict=True,
    ):
        gain = gain + weight * (of_power.mean(axis=1) - of_standard.mean(axis=1))
        covariance = covariance + weight * _covariance(standard.log_prob, of_standard)
    variance = np.stack([law.log_prob.var(axis=1, ddof=1) for law in laws], axis=1)
    rise = np.stack([(law.log_prob - standard.log_prob).mean(axis=1) for law in laws], axis=1)
    num_problems = len(gain)
    draws = rng.integers(num_problems, size=(num_resamples, num_problems))
    draws = np.concatenate([np.arange(num_problems)[None], draws])  # the first is the sample itself

    def over_problems(cells: np.ndarray) -> np.ndarray:
        """[draw, column] means of cells [problem, column]."""
        counts = np.stack([np.bincount(draw, minlength=num_problems) for draw in draws])
        return counts @ cells / num_problems

    gains, covariances = over_problems(gain), over_problems(covariance)
    fitted, intercepts = _lines(covariances, gains)
    variances = over_problems(variance)
    integrals = integral(variances, nodes)
    predicted = integrals[:, -1] / variances[:, 0]
    return Probed(
        lambdas=lambdas,
        gain=gains[0],
        covariance=covariances[0],
        slope=_interval(fitted),
        intercept=float(intercepts[0]),
        predicted=_interval(predicted),
        difference=_interval(fitted - predicted),
        alphas=nodes,
        rise=[_interval(column) for column in over_problems(rise).T],
        rise_predicted=[_interval(column) for column in integrals.T],
    )


def integral(values: np.ndarray, alphas: np.ndarray) -> np.ndarray:
    """[..., node]: the integral of values [..., node] from 1 to each of `alphas`.

    By Simpson's rule in log alpha: the parabola through each two steps' values, the first step of
    the two by its part of the parabola. Variances fall about exponentially in alpha, fastest near
    1, where the nodes are dense.
    """
    step = np.log(alphas[-1] / alphas[0]) / (len(alphas) - 1)
    heights = values * alphas
    first, middle, last = heights[..., :-2:2], heights[..., 1:-1:2], heights[..., 2::2]
    found = np.zeros(heights.shape)
    found[..., 2::2] = np.cumsum(first + 4 * middle + last, axis=-1) * step / 3
    found[..., 1::2] = found[..., :-2:2] + (5 * first + 8 * middle - last) * step / 12
    return found


def _z_scores(standard: np.ndarray, power: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both [problem, sample, 1], centred and scaled over the pooled sample."""
    pooled = np.concatenate([standard.ravel(), power.ravel()])
    mean, std = pooled.mean(), pooled.std()
    return tuple(((values - mean) / std)[..., None] for values in (standard, power))


def _covariance(log_prob: np.ndarray, reward: np.ndarray) -> np.ndarray:
    """[problem, point] of log_prob [problem, sample] and reward [problem, sample, point]."""
    centred = log_prob - log_prob.mean(axis=1, keepdims=True)
    return np.einsum("ps,psk->pk", centred, reward) / (log_prob.shape[1] - 1)


def _lines(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope and intercept of the least-squares line through each row's points."""
    dx = x - x.mean(axis=1, keepdims=True)
    slope = (dx * y).sum(axis=1) / (dx * dx).sum(axis=1)
    return slope, y.mean(axis=1) - slope * x.mean(axis=1)


def _interval(draws: np.ndarray) -> Interval:
    """Of the first draw, by the others."""
    low, high = np.percentile(draws[1:], _PERCENTILES)
    return Interval(float(draws[0]), float(low), float(high))
