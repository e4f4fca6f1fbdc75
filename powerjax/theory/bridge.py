"""Three roads to pi_alpha on one enumerable model: sampling, self-reward RL, self-distillation.

`measure` draws and computes the curves of all of them (`roads`); `table` and `lessons` put their
numbers into words, `bridge_figure` draws them. Exact curves are of exact laws (transition matrices,
the exact law of importance resampling); the others are what `powerjax.sample.mh` or a training run
gave.
"""

from __future__ import annotations

import numpy as np

from powerjax.theory.chains import (  # earlier versions had them here
    empirical_laws as empirical_laws,
)
from powerjax.theory.chains import run_chains as run_chains
from powerjax.theory.chains import string_index as string_index
from powerjax.theory.exact import TabularModel
from powerjax.theory.roads import (
    TEACHER_STEPS,
    Curve,
    distillation_curves,
    rl_curves,
    sampling_curves,
)
from powerjax.theory.roads import mean_length as mean_length

ALPHA = 4.0
NUM_STEPS = 96
NUM_CHAINS = 40_000
TRAINING_STEPS = 1000


def example_model() -> TabularModel:
    """Returns a model of three letters and EOS, at most five tokens long, with 364 completions.

    The logits are N(0, 1.5^2). Seed 1 was chosen among the first few to show all roads on one
    scale: temperature sampling is far from pi_alpha, and the chain mixes within the moves drawn.
    On other seeds the distance of temperature sampling lies anywhere between 0.01 and 0.95, and a
    chain may need many more moves.
    """
    return TabularModel.random(np.random.default_rng(1), 4, 5, eos=True, scale=1.5)


def measure(
    alpha: float = ALPHA,
    model: TabularModel | None = None,
    num_steps: int = NUM_STEPS,
    num_chains: int = NUM_CHAINS,
    training_steps: int = TRAINING_STEPS,
    seed: int = 0,
) -> list[Curve]:
    """Returns the curves of all three roads to pi_alpha on one model.

    Args:
      model: any model with EOS; None means `example_model()`.
      num_steps: Metropolis-Hastings moves of each chain.
      num_chains: chains of `mh` whose frequencies are measured.
      training_steps: gradient steps of RL.
    """
    model = example_model() if model is None else model
    return [
        *sampling_curves(model, alpha, num_steps, num_chains, seed),
        *rl_curves(model, alpha, training_steps, seed),
        *distillation_curves(model, alpha, num_chains, seed),
    ]


def find(curves: list[Curve], method: str, is_exact: bool = True) -> Curve:
    """Returns the first curve whose method begins with `method`. Raises ValueError if none does."""
    for curve in curves:
        if curve.method.startswith(method) and curve.is_exact == is_exact:
            return curve
    raise ValueError(f"no curve named {method!r}")


def lessons(curves: list[Curve]) -> str:
    """Returns what the figure teaches: a sentence for each road, with the figure's own numbers."""
    exact, published = find(curves, "MH, exact"), find(curves, "MH, published")
    floor = float(find(curves, "token temperature").distance[0])
    below = exact.distance < floor / 10
    tenth = f"{exact.steps[np.argmax(below)]} steps" if below.any() else "more steps than drawn"
    budget = exact.tokens_per_completion[-1]
    base, tempered = (find(curves, f"SIS, {name}") for name in ("base", "temperature"))
    resampled = [np.interp(budget, c.tokens_per_completion, c.distance) for c in (base, tempered)]
    ascent = find(curves, "exact gradient")
    noisy = [c for c in curves if c.method.startswith("REINFORCE")][-1]
    fit, inherited = (find(curves, f"MLE on {teacher}") for teacher in ("exact", "MH"))
    return (
        f"Sampling: token temperature stays at {floor:.3f} however many are drawn, the exact "
        f"kernel started there needs {tenth} for a tenth of that and {exact.steps[-1]} steps "
        f"({budget:.0f} tokens per completion, for which SIS gives {resampled[0]:.1e} from the base"
        f" and {resampled[1]:.1e} from temperature) for {exact.distance[-1]:.1e}, and the "
        f"published rule ends at {published.distance[-1]:.2f}, further off than it began.\n"
        f"RL: ascent on Eq. 11 at beta = 1/(alpha - 1) arrives at the same law without one sample "
        f"of it ({ascent.distance[-1]:.1e} after {ascent.steps[-1]} exact steps), and REINFORCE "
        f"follows it down to {noisy.distance[-1]:.1e} for {noisy.completions_drawn[-1]:,.0f} "
        f"completions of its own, as its noise fades where every return is the same.\n"
        f"Distillation: the student's error falls as n^-1/2 ({fit.distance[-1]:.1e} at n = "
        f"{fit.steps[-1]:,}) and its completions then cost one draw each, but it inherits its "
        f"teacher's error: taught by {TEACHER_STEPS} MH steps it stops at "
        f"{inherited.distance[-1]:.3f}."
    )


def table(curves: list[Curve]) -> str:
    """Returns the last point of every curve, one line per curve. The CSV holds all points."""
    head = f"{'road':<13} {'method':<35} {'law':<9} {'steps':>9} {'cost':>24} {'TV':>8}"
    lines = [head, "-" * len(head)]
    for curve in curves:
        tokens, drawn = curve.tokens_per_completion[-1], curve.completions_drawn[-1]
        if np.isfinite(tokens):
            cost = f"{tokens:,.0f} tokens/completion"
        else:
            cost = f"{drawn:,.0f} completions" if np.isfinite(drawn) else "no samples"
        law = "exact" if curve.is_exact else "measured"
        lines.append(
            f"{curve.road:<13} {curve.method:<35} {law:<9} {curve.steps[-1]:>9,} {cost:>24} "
            f"{curve.distance[-1]:>8.1e}"
        )
    return "\n".join(lines)
