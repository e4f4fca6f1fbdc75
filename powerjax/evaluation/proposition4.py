"""Proposition 4 on samples: what power sampling adds to a reward, and what the covariance predicts.

The reward is synthetic: r_lambda = lambda z_self + sqrt(1 - lambda^2) z_h + eps, where z_self is
the z-score of self-reward, z_h that of a hash of the text, and eps is noise. By Prop. 4 (Eq. 18)
the mean reward of a prompt rises, from standard to power sampling, by the integral over alpha of
Cov_alpha(r_lambda, r_self), where r_self is the *sum* log-likelihood. Of the three parts only
z_self covaries with r_self in the mean, by Var_alpha(r_self) / sd. So gain against covariance, as
lambda varies, is a line of slope

    integral from 1 to alpha of E_x Var_a(r_self | x) da / E_x Var_1(r_self | x).

That the points lie on a line says little, because gain and covariance are both nearly linear in
lambda. The slope is what tests the proposition. Variances and covariances are within a prompt:
self-reward varies between prompts too, but no sampler changes that.

The shapes of arrays name their axes: problem, sample (one completion of a problem), point (one
lambda) and node (one exponent alpha).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from numbers import Real
from typing import NamedTuple

import numpy as np

from powerjax.records import Record, fields

NOISE = 0.5  # standard deviation of eps
_PERCENTILES = (2.5, 97.5)
_NEEDED = ("problem_id", "seed", "sample_index", "log_prob")


class Interval(NamedTuple):
    """A number and its 95 % interval, a bootstrap over problems; `in` asks about the interval."""

    value: float
    low: float
    high: float

    def __contains__(self, value: object) -> bool:
        return isinstance(value, Real) and self.low <= float(value) <= self.high


class Samples(NamedTuple):
    """Completions at one exponent. Both arrays are [problem, sample]."""

    log_prob: np.ndarray  # the sum log-likelihood of each under the model (nats)
    probe: np.ndarray  # the hash of each text, see `probe`


@dataclasses.dataclass(frozen=True)
class Probed:
    """The outcome of the experiment with synthetic rewards.

    Attributes:
      lambdas: [point].
      gain: mean r_lambda of power sampling minus that of standard sampling, [point].
      covariance: covariance of r_lambda and r_self within a problem, standard sampling, [point].
      slope, intercept: the line fitted to gain against covariance.
      predicted: the slope by Prop. 4.
      difference: fitted slope minus predicted, from the same bootstrap draws.
      alphas: the exponents, [node].
      rise: mean sum log-likelihood at each exponent minus that at 1, [node].
      rise_predicted: the same by Prop. 4, the integral of the variance, [node].
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
        """Returns whether the predicted slope lies in the fitted slope's 95 % interval."""
        return self.predicted.value in self.slope


def probe(text: str) -> float:
    """Returns the leading 64 bits of SHA-256 of a text, as a fraction in [0, 1)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def alphas(most: float, num: int) -> np.ndarray:
    """Returns `num` exponents from 1 to `most`, [node], equally spaced in their logarithm.

    Raises ValueError unless `num` is odd and at least 3.
    """
    if num < 3 or num % 2 == 0:
        raise ValueError(f"{num} exponents: Simpson's rule needs an odd number, 3 or more")
    return most ** np.linspace(0, 1, num)


def samples(records: Sequence[Record]) -> Samples:
    """Returns the completions of one sampler's records, problems in the order of their ids.

    Raises ValueError if a problem has fewer completions than another, or fewer than two, and for a
    record without a field that is needed.
    """
    by_problem: dict[str, list[Record]] = {}
    for record in records:
        fields.check(record, f"the record {record.get('id')!r}", needs=_NEEDED)

    def place(record: Record) -> tuple[str, int, int]:
        return str(record["problem_id"]), record["seed"], record["sample_index"]

    for record in sorted(records, key=place):
        by_problem.setdefault(record["problem_id"], []).append(record)
    counts = {len(completions) for completions in by_problem.values()}
    if len(counts) != 1 or min(counts) < 2:
        raise ValueError(
            "a variance within problems needs the same number of completions of each, 2 or more;"
            f" these have {', '.join(map(str, sorted(counts)))}"
        )
    groups = list(by_problem.values())
    return Samples(
        np.array([[r["log_prob"] for r in group] for group in groups]),
        np.array([[probe(_text(r)) for r in group] for group in groups]),
    )


def _text(record: Record) -> str:
    """Returns the completion's text, or its token ids as JSON where the text is secret."""
    text = record.get("completion")
    return json.dumps(record["tokens"]) if text is None else text


def synthetic(
    by_alpha: dict[float, Samples],
    *,
    num_points: int = 41,
    seed: int = 0,
    num_resamples: int = 2000,
) -> Probed:
    """Runs the experiment on completions of the same problems at each exponent of `alphas`.

    Args:
      by_alpha: exponent -> its completions; the least exponent must be 1, standard sampling.
      num_points: values of lambda, equally spaced from -1 to 1.
      seed: fixes the noise and the bootstrap's draws.
    """
    nodes = np.array(sorted(by_alpha))
    by_node = [by_alpha[alpha] for alpha in nodes]
    standard, power = by_node[0], by_node[-1]
    rng = np.random.default_rng(seed)
    lambdas = np.linspace(-1, 1, num_points)
    # --- by problem: gain and covariance, variance and rise ---
    gain, covariance = _gain_and_covariance(standard, power, lambdas, rng)
    variance = np.stack([each.log_prob.var(axis=1, ddof=1) for each in by_node], axis=1)
    rise = np.stack([(each.log_prob - standard.log_prob).mean(axis=1) for each in by_node], axis=1)
    # --- over problems: the sample itself, then the bootstrap's draws ---
    num_problems = len(gain)
    draws = rng.integers(num_problems, size=(num_resamples, num_problems))
    draws = np.concatenate([np.arange(num_problems)[None], draws])
    counts = np.stack([np.bincount(draw, minlength=num_problems) for draw in draws])
    gains, covariances = counts @ gain / num_problems, counts @ covariance / num_problems
    variances, rises = counts @ variance / num_problems, counts @ rise / num_problems
    # --- the line, and what Prop. 4 says of it ---
    fitted, intercepts = _lines(covariances, gains)
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
        rise=[_interval(draws_of_node) for draws_of_node in rises.T],
        rise_predicted=[_interval(draws_of_node) for draws_of_node in integrals.T],
    )


def _gain_and_covariance(
    standard: Samples, power: Samples, lambdas: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the gain in mean r_lambda, and its covariance with r_self, [problem, point] each.

    The three parts of r_lambda are added one after the other; each is [problem, sample, point or 1]
    for standard and for power sampling.
    """
    shapes = [(*each.probe.shape, len(lambdas)) for each in (standard, power)]
    parts = (
        (lambdas, _z_scores(standard.log_prob, power.log_prob)),
        (np.sqrt(1 - lambdas**2), _z_scores(standard.probe, power.probe)),
        (np.ones(len(lambdas)), tuple(rng.normal(0, NOISE, shape) for shape in shapes)),
    )
    gain = covariance = np.zeros((len(standard.probe), len(lambdas)))
    for coefficient, (of_standard, of_power) in parts:
        gain = gain + coefficient * (of_power.mean(axis=1) - of_standard.mean(axis=1))
        covariance = covariance + coefficient * _covariance(standard.log_prob, of_standard)
    return gain, covariance


def integral(values: np.ndarray, alphas: np.ndarray) -> np.ndarray:
    """Returns the integral of values [..., node] from 1 to each of `alphas`, [..., node].

    Simpson's rule in log alpha: a parabola through the values at three neighbouring nodes gives the
    integral to the third, and its first half the integral to the second. Variances fall about
    exponentially in alpha, fastest near 1, where the nodes are dense.
    """
    step = np.log(alphas[-1] / alphas[0]) / (len(alphas) - 1)
    heights = values * alphas
    first, middle, last = heights[..., :-2:2], heights[..., 1:-1:2], heights[..., 2::2]
    integrals = np.zeros(heights.shape)
    integrals[..., 2::2] = np.cumsum(first + 4 * middle + last, axis=-1) * step / 3
    integrals[..., 1::2] = integrals[..., :-2:2] + (5 * first + 8 * middle - last) * step / 12
    return integrals


def _z_scores(standard: np.ndarray, power: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns both [problem, sample, 1], centred and scaled over the pooled sample."""
    pooled = np.concatenate([standard.ravel(), power.ravel()])
    mean, std = pooled.mean(), pooled.std()
    return ((standard - mean) / std)[..., None], ((power - mean) / std)[..., None]


def _covariance(log_prob: np.ndarray, reward: np.ndarray) -> np.ndarray:
    """Returns Cov(log_prob, reward) within each problem, [problem, point].

    log_prob is [problem, sample], reward [problem, sample, point].
    """
    centred = log_prob - log_prob.mean(axis=1, keepdims=True)
    return np.einsum("ps,psk->pk", centred, reward) / (log_prob.shape[1] - 1)


def _lines(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns slope and intercept, [draw], of the least-squares line of y on x, [draw, point]."""
    dx = x - x.mean(axis=1, keepdims=True)
    slope = (dx * y).sum(axis=1) / (dx * dx).sum(axis=1)
    return slope, y.mean(axis=1) - slope * x.mean(axis=1)


def _interval(draws: np.ndarray) -> Interval:
    """Returns the first entry of draws [draw], with the interval that the other entries span."""
    low, high = np.percentile(draws[1:], _PERCENTILES)
    return Interval(float(draws[0]), float(low), float(high))
