"""Figures (iv) to (vi): proposals for the first token, and the spread of their weights (Prop. 2).

Each function takes the exponents and returns a figure and the tables behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from powerjax.theory import drawing, sis, zipf

PROPOSALS = {
    "oracle": (drawing.BLACK, "o", "-"),
    "base": (drawing.BLUE, "s", "--"),
    "temperature": (drawing.ORANGE, "^", "-."),
    "uniform": (drawing.PINK, "D", ":"),
}
"""Name of a proposal -> colour, mark, dash."""


@drawing.styled
def proposals(alphas: Sequence[float]) -> drawing.Drawing:
    """Draws figure (iv): the four proposals for the first token, and their weights W_1 (Eq. 9).

    The figure is at one exponent, HEADLINE_ALPHA; `alphas` is not used.
    """
    del alphas
    policies = zipf.proposals(zipf.HEADLINE_ALPHA)
    token = np.arange(zipf.NUM_TOKENS)
    figure, axes = drawing.panels(
        rf"Figure (iv). Proposals and their weights at $\alpha={zipf.HEADLINE_ALPHA:g}$",
        2,
        height=3,
    )
    columns: drawing.Table = {"token": token}
    for name, log_q in policies.items():
        colour, mark, dash = PROPOSALS[name]
        log_w = policies["oracle"] - log_q
        style: dict[str, Any] = dict(
            color=colour, linestyle=dash, marker=mark, markevery=4, label=name
        )
        axes[0].semilogy(token, np.exp(log_q), **style)
        axes[1].plot(token, log_w, **style)
        columns |= {f"q_{name}": np.exp(log_q), f"log_w_{name}_nats": log_w}
    drawing.name_axes(axes[0], "a", "Proposals", "next token $i$", "$q(i)$ (probability)")
    drawing.name_axes(
        axes[1], "b", "Incremental weights (Eq. 9)", "next token $i$", r"$\log W_1(i)$ (nats)"
    )
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return drawing.Drawing(figure, {"": columns})


@drawing.styled
def spread(alphas: Sequence[float]) -> drawing.Drawing:
    """Draws figure (v): exact CV^2 of W (Prop. 2) and ESS/N against alpha.

    The curves run over a grid of exponents; the marks are at `alphas`.
    """
    # --- the numbers ---
    ends = min(1.1, *alphas), max(8.0, *alphas)
    grid = np.unique([*np.geomspace(*ends, 80), *alphas])
    squared_cvs: dict[str, list[float]] = {name: [] for name in PROPOSALS}
    for alpha in grid:
        policies = zipf.proposals(alpha)
        for name, log_q in policies.items():
            squared_cvs[name].append(float(sis.squared_cv(policies["oracle"], log_q)))
    # --- the curves ---
    figure, axes = drawing.panels(
        "Figure (v). Exact spread of the weights against the exponent", 2, 3
    )
    marked = np.isin(grid, alphas)
    columns: drawing.Table = {"alpha": grid}
    for name, values in squared_cvs.items():
        colour, mark, dash = PROPOSALS[name]
        cv2 = np.maximum(values, 0)
        ess = 1 / (1 + cv2)
        style: dict[str, Any] = dict(
            color=colour, linestyle=dash, marker=mark, markevery=list(marked.nonzero()[0])
        )
        if name != "oracle":
            axes[0].semilogy(grid, cv2, label=name, **style)
        axes[1].plot(grid, ess, label=name, **style)
        columns |= {f"cv2_{name}": cv2, f"ess_over_n_{name}": ess}
    # --- the axes ---
    axes[0].set_ylim(bottom=max(axes[0].get_ylim()[0], 1e-3))
    labelled = [alphas[0]]
    for alpha in alphas[1:]:
        if np.log(alpha / labelled[-1]) > 0.06 * np.log(ends[1] / ends[0]):
            labelled.append(alpha)
    for axis in axes:
        axis.set_xscale("log")
        axis.set_xticks(labelled, [f"{a:g}" for a in labelled])
        axis.set_xticks([], minor=True)
    axes[1].set_ylim(0, 1.05)
    drawing.name_axes(
        axes[0], "a", "Var$[W]$, the squared CV (oracle: 0)", r"exponent $\alpha$", "CV$^2$"
    )
    drawing.name_axes(
        axes[1], "b", "Effective sample size", r"exponent $\alpha$", "ESS/$N$ = 1/(1 + CV$^2$)"
    )
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return drawing.Drawing(figure, {"": columns})


@drawing.styled
def convergence(alphas: Sequence[float], replicates: int = 200) -> drawing.Drawing:
    """Draws figure (vi): Monte-Carlo ESS/N against N, averaged over replicates, and its error.

    The figure is at one exponent, HEADLINE_ALPHA; `alphas` is not used.
    """
    del alphas
    policies = zipf.proposals(zipf.HEADLINE_ALPHA)
    log_target = policies["oracle"]
    sizes = np.unique(np.round(np.geomspace(10, 1e6, 16)).astype(int))
    rng = np.random.default_rng(0)
    alpha = f"$\\alpha={zipf.HEADLINE_ALPHA:g}$"
    title = f"Figure (vi). Monte-Carlo ESS over {replicates} replicates, {alpha}"
    figure, axes = drawing.panels(title, 2, height=3)
    columns: drawing.Table = {"num_particles": sizes}
    for name, log_q in policies.items():
        colour, mark, dash = PROPOSALS[name]
        exact = float(sis.ess_fraction(log_target, log_q))
        runs = [sis.monte_carlo_ess(rng, log_target, log_q, n, replicates) for n in sizes]
        seen = np.stack(runs)
        mean = seen.mean(1)
        low, high = np.quantile(seen, [0.1, 0.9], axis=1)
        error = np.sqrt(np.square(seen - exact).mean(axis=1))
        axes[0].axhline(exact, color=colour, linewidth=0.7)
        axes[0].semilogx(sizes, mean, mark, color=colour, label=name)
        axes[0].fill_between(sizes, low, high, color=colour, alpha=0.15, linewidth=0)
        columns |= {
            f"ess_over_n_{name}": mean,
            f"q10_{name}": low,
            f"q90_{name}": high,
            f"exact_{name}": np.full(len(sizes), exact),
        }
        if name != "oracle":
            axes[1].loglog(sizes, error, mark, color=colour)
            rate = sis.ess_error_scale(log_target, log_q) / np.sqrt(sizes)
            axes[1].loglog(sizes, rate, dash, color=colour)
            columns |= {f"rms_error_{name}": error, f"predicted_error_{name}": rate}
    # --- the axes ---
    axes[0].set_ylim(0, 1.05)
    axes[1].text(
        0.03,
        0.05,
        "lines: delta method, $\\propto N^{-1/2}$\noracle: no error",
        transform=axes[1].transAxes,
    )
    particles = "particles $N$"
    drawing.name_axes(axes[0], "a", "Mean, 80 % band; exact as lines", particles, "ESS/$N$")
    drawing.name_axes(axes[1], "b", "Error of one replicate", particles, "RMS error of ESS/$N$")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return drawing.Drawing(figure, {"": columns})
