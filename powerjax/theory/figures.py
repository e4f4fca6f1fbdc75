"""The paper's synthetic figures (i) to (vi), and Proposition 3's, each with its numbers.

Each function takes the exponents and returns a figure and the tables behind it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from powerjax.theory import checks, laws, sis, zipf
from powerjax.theory.drawing import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PINK,
    RED,
    SKY,
    YELLOW,
    Drawing,
    name_axes,
    panels,
)
from powerjax.theory.propositions import prop1_log_odds

PROPOSALS = {
    "oracle": (BLACK, "o", "-"),
    "base": (BLUE, "s", "--"),
    "temperature": (ORANGE, "^", "-."),
    "uniform": (PINK, "D", ":"),
}
ALPHA_COLOURS = (SKY, BLUE, GREEN, YELLOW, ORANGE, RED, PINK, BLACK)
HEADLINE_ALPHA = 4.0


def setting(alphas: Sequence[float]) -> Drawing:
    """Figure (i): the synthetic model in three panels."""
    token = np.arange(zipf.NUM_TOKENS)
    p, s, suffix = np.exp(zipf.next_log_law()), zipf.suffix_exponents(), zipf.suffix_log_laws()
    figure, axes = panels("Figure (i). The synthetic model: Zipf next tokens, Zipf suffixes", 3)
    axes[0].loglog(token + 1, p, "o", color=BLUE, markersize=2.5)
    name_axes(axes[0], "a", "Next-token law", "rank $i+1$", "$p_i$ (probability)")
    axes[1].plot(token, s, "-o", color=GREEN, markersize=2.5)
    name_axes(axes[1], "b", "Suffix exponents", "next token $i$", "$s_i$ (exponent)")
    shown = {int(s.argmin()): SKY, int(np.abs(s - 1).argmin()): GREEN, int(s.argmax()): RED}
    z = np.arange(1, zipf.SUPPORT + 1)
    for (i, colour), dash in zip(shown.items(), ("-", "--", ":"), strict=True):
        label = rf"$s_{{{i}}}={s[i]:.2f}$"
        axes[2].loglog(z, np.exp(suffix[i]), dash, color=colour, label=label)
    axes[2].set_ylim(bottom=1e-5)
    axes[2].legend(loc="lower left")
    name_axes(axes[2], "c", "Suffix laws", "suffix $z$", "$q_i(z)$ (probability)")
    table = {"token": token, "p": p, "suffix_exponent": s}
    table |= {f"renyi_entropy_nats_alpha_{a:g}": laws.renyi_entropy(suffix, a) for a in alphas}
    law_table = {"z": z} | {f"q_{i}": np.exp(suffix[i]) for i in shown}
    return Drawing(figure, {"": table, "suffix_laws": law_table})


def log_odds(alphas: Sequence[float]) -> Drawing:
    """Figure (ii): Renyi-predicted against directly computed correction of the log odds."""
    pairs = {a: prop1_log_odds(zipf.model(), a, depth=0) for a in alphas}
    headline = prop1_log_odds(zipf.model(), HEADLINE_ALPHA, depth=0)
    worst = max(p.deviation for p in pairs.values())
    figure, axes = panels("Figure (ii). Proposition 1 on every pair of next tokens", 2, height=3)
    # Sharper exponents correct more and would cover the milder ones: they go to the back.
    for k, alpha in reversed(list(enumerate(alphas))):
        colour = ALPHA_COLOURS[k % len(ALPHA_COLOURS)]
        axes[0].plot(
            pairs[alpha].right,
            pairs[alpha].left,
            ".",
            color=colour,
            markersize=2.5 + 6 * k / len(alphas),
            markeredgewidth=0,
            label=rf"$\alpha={alpha:g}$",
        )
    ends = axes[0].get_xlim()
    axes[0].plot(ends, ends, color=BLACK, linewidth=0.6, zorder=0, label="equal")
    axes[0].legend(loc="upper left", ncols=1 if len(alphas) < 8 else 2, columnspacing=1)
    axes[0].text(
        0.97, 0.05, f"largest deviation {worst:.0e}", transform=axes[0].transAxes, ha="right"
    )
    name_axes(
        axes[0],
        "a",
        f"{len(headline.left):,} pairs for each exponent",
        r"predicted, $(1-\alpha)(H_\alpha(q_i)-H_\alpha(q_j))$ (nats)",
        "direct, power $-$ temperature (nats)",
    )
    axes[1].hist(headline.left, bins=48, color=ORANGE, edgecolor="white", linewidth=0.3)
    axes[1].axvline(0, color=BLACK, linewidth=0.8)
    correction = "log-odds correction (nats)"
    name_axes(axes[1], "b", rf"The corrections at $\alpha={HEADLINE_ALPHA:g}$", correction, "pairs")
    columns = {
        "alpha": np.concatenate([np.full(len(p.i), a) for a, p in pairs.items()]),
        "i": np.concatenate([p.i for p in pairs.values()]),
        "j": np.concatenate([p.j for p in pairs.values()]),
        "predicted_nats": np.concatenate([p.right for p in pairs.values()]),
        "direct_nats": np.concatenate([p.left for p in pairs.values()]),
    }
    return Drawing(figure, {"": columns})


def reversals(alphas: Sequence[float], shown: int = 8) -> Drawing:
    """Figure (iii): pairs whose order under temperature power turns round, and controls.

    Reversed: the largest min(|log odds|) of the two laws, no token in two pairs. Controls: pairs of
    nearly equal suffix entropy (a correction below 0.1 nats) whose temperature log odds are nearest
    to those of the reversed pairs; power has no ground to turn them.
    """
    del alphas
    pairs = prop1_log_odds(zipf.model(), HEADLINE_ALPHA, depth=0)
    tempered = zipf.proposals(HEADLINE_ALPHA)["temperature"]
    before = tempered[pairs.i] - tempered[pairs.j]
    after = before + pairs.left
    is_reversed = before * after < 0
    strength = np.where(is_reversed, np.minimum(np.abs(before), np.abs(after)), -np.inf)
    chosen = _without_repeats(np.argsort(-strength), pairs.i, pairs.j, shown)
    close = np.abs(pairs.left) < 0.1
    controls: list[int] = []
    for k in chosen:
        gap = np.where(close, np.abs(before - before[k]), np.inf)
        gap[controls] = np.inf
        controls.append(int(gap.argmin()))
    title = (
        f"Figure (iii). Power reverses temperature's preference in {is_reversed.sum()} of "
        rf"{len(before):,} pairs, $\alpha={HEADLINE_ALPHA:g}$"
    )
    figure, axes = panels(title, 2, height=3, sharex=True)
    for axis, rows in zip(axes, (chosen, controls), strict=True):
        for y, k in enumerate(rows):
            axis.plot([before[k], after[k]], [y, y], color="0.75", linewidth=1.5, zorder=0)
        axis.plot(
            before[rows], range(len(rows)), "^", color=ORANGE, markersize=6, label="temperature"
        )
        axis.plot(after[rows], range(len(rows)), "D", color=GREEN, label="power")
        axis.axvline(0, color=BLACK, linewidth=0.8)
        axis.set_yticks(range(len(rows)), [f"{pairs.i[k]}, {pairs.j[k]}" for k in rows])
        axis.invert_yaxis()
    odds = "log odds of $i$ against $j$ (nats)"
    name_axes(axes[0], "a", "Reversed: suffix entropies differ", odds, "pair $i, j$ (tokens)")
    name_axes(axes[1], "b", "Controls: suffix entropies agree", odds, "pair $i, j$ (tokens)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    role = np.full(len(before), "", dtype=object)
    role[chosen], role[controls] = "reversed", "control"
    table = {
        "i": pairs.i,
        "j": pairs.j,
        "temperature_log_odds_nats": before,
        "power_log_odds_nats": after,
        "is_reversed": is_reversed.astype(int),
        "shown_as": role,
    }
    return Drawing(figure, {"": table})


def _without_repeats(order: np.ndarray, i: np.ndarray, j: np.ndarray, count: int) -> list[int]:
    """The first `count` of `order` in which no token appears twice."""
    used: set[int] = set()
    kept: list[int] = []
    for k in order:
        if len(kept) < count and not {int(i[k]), int(j[k])} & used:
            kept.append(int(k))
            used |= {int(i[k]), int(j[k])}
    return kept


def proposals(alphas: Sequence[float]) -> Drawing:
    """Figure (iv): the four proposals for the first token, and their incremental weights."""
    del alphas
    policies = zipf.proposals(HEADLINE_ALPHA)
    token = np.arange(zipf.NUM_TOKENS)
    figure, axes = panels(
        rf"Figure (iv). Proposals and their weights at $\alpha={HEADLINE_ALPHA:g}$", 2, height=3
    )
    columns: dict[str, Sequence] = {"token": token}
    for name, log_q in policies.items():
        colour, mark, dash = PROPOSALS[name]
        log_w = policies["oracle"] - log_q
        style = dict(color=colour, linestyle=dash, marker=mark, markevery=4, label=name)
        axes[0].semilogy(token, np.exp(log_q), **style)
        axes[1].plot(token, log_w, **style)
        columns |= {f"q_{name}": np.exp(log_q), f"log_w_{name}_nats": log_w}
    name_axes(axes[0], "a", "Proposals", "next token $i$", "$q(i)$ (probability)")
    name_axes(
        axes[1], "b", "Incremental weights (Eq. 9)", "next token $i$", r"$\log W_1(i)$ (nats)"
    )
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return Drawing(figure, {"": columns})


def spread(alphas: Sequence[float]) -> Drawing:
    """Figure (v): exact CV^2 of W and ESS/N against alpha."""
    ends = min(1.1, *alphas), max(8.0, *alphas)
    grid = np.unique([*np.geomspace(*ends, 80), *alphas])
    rows = {name: [] for name in PROPOSALS}
    for alpha in grid:
        policies = zipf.proposals(alpha)
        for name, log_q in policies.items():
            rows[name].append(float(sis.squared_cv(policies["oracle"], log_q)))
    figure, axes = panels("Figure (v). Exact spread of the weights against the exponent", 2, 3)
    marked = np.isin(grid, alphas)
    columns: dict[str, Sequence] = {"alpha": grid}
    for name, values in rows.items():
        colour, mark, dash = PROPOSALS[name]
        cv2 = np.maximum(values, 0)
        ess = 1 / (1 + cv2)
        style = dict(color=colour, linestyle=dash, marker=mark, markevery=list(marked.nonzero()[0]))
        if name != "oracle":
            axes[0].semilogy(grid, cv2, label=name, **style)
        axes[1].plot(grid, ess, label=name, **style)
        columns |= {f"cv2_{name}": cv2, f"ess_over_n_{name}": ess}
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
    name_axes(axes[0], "a", "Var$[W]$, the squared CV (oracle: 0)", r"exponent $\alpha$", "CV$^2$")
    name_axes(
        axes[1], "b", "Effective sample size", r"exponent $\alpha$", "ESS/$N$ = 1/(1 + CV$^2$)"
    )
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return Drawing(figure, {"": columns})


def convergence(alphas: Sequence[float], replicates: int = 200) -> Drawing:
    """Figure (vi): Monte-Carlo ESS/N against N, averaged over replicates, and its error."""
    del alphas
    policies = zipf.proposals(HEADLINE_ALPHA)
    log_target = policies["oracle"]
    sizes = np.unique(np.round(np.geomspace(10, 1e6, 16)).astype(int))
    rng = np.random.default_rng(0)
    title = (
        rf"Figure (vi). Monte-Carlo ESS over {replicates} replicates, $\alpha={HEADLINE_ALPHA:g}$"
    )
    figure, axes = panels(title, 2, height=3)
    columns: dict[str, Sequence] = {"num_particles": sizes}
    for name, log_q in policies.items():
        colour, mark, dash = PROPOSALS[name]
        exact = float(sis.ess_fraction(log_target, log_q))
        seen = np.stack([sis.monte_carlo_ess(rng, log_target, log_q, n, replicates) for n in sizes])
        mean, low, high = seen.mean(1), *np.quantile(seen, [0.1, 0.9], axis=1)
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
    axes[0].set_ylim(0, 1.05)
    axes[1].text(
        0.03,
        0.05,
        "lines: delta method, $\\propto N^{-1/2}$\noracle: no error",
        transform=axes[1].transAxes,
    )
    particles = "particles $N$"
    name_axes(axes[0], "a", "Mean, 80 % band; exact as lines", particles, "ESS/$N$")
    name_axes(axes[1], "b", "Error of one replicate", particles, "RMS error of ESS/$N$")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return Drawing(figure, {"": columns})


def distillation_bound(alphas: Sequence[float]) -> Drawing:
    """Proposition 3 and Lemma 1: what n samples teach, against the bounds."""
    cells = checks.prop3_cells(alphas)
    least = 1e-6
    drawn = sorted({c.alpha for c in cells} & set(checks.PROP3_LIMIT))
    figure, axes = panels("Proposition 3. Power self-distillation against its bounds", 2, height=3)
    # Bounds that differ only in their second term coincide: every other line is dashed over it.
    marks, dashes = ("o", "s", "D", "^", "v"), ("-", "-", (2, (4, 4)), "-", (2, (4, 4)))
    handles = []
    looks = zip(drawn, (SKY, BLUE, GREEN, ORANGE, RED), marks, dashes, strict=True)
    for alpha, colour, mark, dash in looks:
        rows = [c for c in cells if c.alpha == alpha]
        n = [c.n for c in rows]
        label = rf"$\alpha={alpha:g}$"
        axes[0].semilogx(n, [c.fits.unsharpened.mean() for c in rows], mark, color=colour)
        axes[0].semilogx(n, [c.fits.bound for c in rows], color=colour, linestyle=dash)
        handles += axes[0].plot([], [], color=colour, linestyle=dash, marker=mark, label=label)
        worst = [np.quantile(c.fits.hellinger, 1 - checks.PROP3_RHO) for c in rows]
        axes[1].loglog(n, np.maximum(worst, least), mark, color=colour, clip_on=False)
    axes[1].loglog(n, [c.fits.hellinger_bound for c in rows], color=BLACK)
    axes[0].set_ylim(-0.02, 1.05)
    axes[1].set_ylim(bottom=least)
    axes[1].text(0.03, 0.03, "marks on the axis: 0", transform=axes[1].transAxes)
    samples = "completions of $\\pi_\\alpha$, $n$"
    name_axes(
        axes[0],
        "a",
        "Lines: Eq. 17; marks: mean of data sets",
        samples,
        "unsharpened prompts (share)",
    )
    name_axes(axes[1], "b", "Line: Lemma 1; marks: 95 % quantile", samples, "$E_x[H^2]$")
    figure.legend(handles=handles, loc="outside lower center", ncols=5, handlelength=3)
    table = {
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
    return Drawing(figure, {"": table})


ALL = {
    "fig1": setting,
    "fig2": log_odds,
    "fig3": reversals,
    "fig4": proposals,
    "fig5": spread,
    "fig6": convergence,
    "prop3": distillation_bound,
}
