"""The figures of the theory by name: the paper's synthetic figures (i) to (vi), and Prop. 3's.

Each function takes the exponents and returns a figure and the tables behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from powerjax.theory.distillation_figure import distillation_bound
from powerjax.theory.drawing import Drawing
from powerjax.theory.odds_figures import log_odds, reversals, setting
from powerjax.theory.weight_figures import convergence, proposals, spread

ALL: dict[str, Callable[[Sequence[float]], Drawing]] = {
    "fig1": setting,
    "fig2": log_odds,
    "fig3": reversals,
    "fig4": proposals,
    "fig5": spread,
    "fig6": convergence,
    "prop3": distillation_bound,
}
