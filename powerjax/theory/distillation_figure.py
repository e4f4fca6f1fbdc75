"""Proposition 3's figure: power self-distillation of a finite policy class against its bounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from powerjax.theory import checks, drawing


@drawing.styled
def distillation_bound(alphas: Sequence[float]) -> drawing.Drawing:
    """Draws Proposition 3 (Eq. 17) and Lemma 1: what n samples teach, against the bounds."""
    # --- the experiments, and their looks ---
    cells = checks.prop3_cells(alphas)
    least = 1e-6
    drawn = sorted({c.alpha for c in cells} & set(checks.PROP3_LIMIT))
    figure, axes = drawing.panels(
        "Proposition 3. Power self-distillation against its bounds", 2, height=3
    )
    # Bounds that differ only in their second term coincide: every other line is dashed over it.
    marks, dashes = ("o", "s", "D", "^", "v"), ("-", "-", (2, (4, 4)), "-", (2, (4, 4)))
    handles = []
    looks = zip(
        drawn,
        (drawing.SKY, drawing.BLUE, drawing.GREEN, drawing.ORANGE, drawing.RED),
        marks,
        dashes,
        strict=True,
    )
    # --- the two panels ---
    for alpha, colour, mark, dash in looks:
        of_alpha = [c for c in cells if c.alpha == alpha]
        n = [c.n for c in of_alpha]
        label = rf"$\alpha={alpha:g}$"
        axes[0].semilogx(n, [c.fits.unsharpened.mean() for c in of_alpha], mark, color=colour)
        axes[0].semilogx(n, [c.fits.bound for c in of_alpha], color=colour, linestyle=dash)
        handles += axes[0].plot([], [], color=colour, linestyle=dash, marker=mark, label=label)
        worst = [np.quantile(c.fits.hellinger, 1 - checks.PROP3_RHO) for c in of_alpha]
        axes[1].loglog(n, np.maximum(worst, least), mark, color=colour, clip_on=False)
    axes[1].loglog(n, [c.fits.hellinger_bound for c in of_alpha], color=drawing.BLACK)
    axes[0].set_ylim(-0.02, 1.05)
    axes[1].set_ylim(bottom=least)
    axes[1].text(0.03, 0.03, "marks on the axis: 0", transform=axes[1].transAxes)
    samples = "completions of $\\pi_\\alpha$, $n$"
    drawing.name_axes(
        axes[0],
        "a",
        "Lines: Eq. 17; marks: mean of data sets",
        samples,
        "unsharpened prompts (share)",
    )
    drawing.name_axes(axes[1], "b", "Line: Lemma 1; marks: 95 % quantile", samples, "$E_x[H^2]$")
    figure.legend(handles=handles, loc="outside lower center", ncols=5, handlelength=3)
    return drawing.Drawing(figure, {"": _table(cells)})


def _table(cells: Sequence[checks.Prop3Cell]) -> drawing.Table:
    """Returns the columns of the CSV, one line per cell of the experiment."""
    return {
        "alpha": [c.alpha for c in cells],
        "n": [c.n for c in cells],
        "delta": [checks.PROP3_DELTA] * len(cells),
        "rho": [checks.PROP3_RHO] * len(cells),
        "unsharpened_mean": [c.fits.unsharpened.mean() for c in cells],
        "bound": [c.fits.bound for c in cells],
        "statistical_term": [c.fits.statistical_term for c in cells],
        "sharpening_term": [c.fits.sharpening_term for c in cells],
        "failure_rate": [c.fits.failure_rate for c in cells],
        "hellinger_mean": [c.fits.hellinger.mean() for c in cells],
        "hellinger_bound": [c.fits.hellinger_bound for c in cells],
        "hellinger_failure_rate": [c.fits.hellinger_failure_rate for c in cells],
    }
