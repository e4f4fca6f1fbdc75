"""Figures (i) to (iii): the synthetic model, and Proposition 1 on its pairs of next tokens.

Each function takes the exponents and returns a figure and the tables behind it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from powerjax.theory import drawing, laws, zipf
from powerjax.theory import propositions as props

ALPHA_COLOURS = (
    *(drawing.SKY, drawing.BLUE, drawing.GREEN, drawing.YELLOW),
    *(drawing.ORANGE, drawing.RED, drawing.PINK, drawing.BLACK),
)


@drawing.styled
def setting(alphas: Sequence[float]) -> drawing.Drawing:
    """Draws figure (i): next-token law, suffix exponents and suffix laws of the synthetic model.

    The CSV adds the suffixes' Renyi entropies of order alpha (Prop. 1).
    """
    token = np.arange(zipf.NUM_TOKENS)
    p, s, suffix = np.exp(zipf.next_log_law()), zipf.suffix_exponents(), zipf.suffix_log_laws()
    figure, axes = drawing.panels(
        "Figure (i). The synthetic model: Zipf next tokens, Zipf suffixes", 3
    )
    axes[0].loglog(token + 1, p, "o", color=drawing.BLUE, markersize=2.5)
    drawing.name_axes(axes[0], "a", "Next-token law", "rank $i+1$", "$p_i$ (probability)")
    axes[1].plot(token, s, "-o", color=drawing.GREEN, markersize=2.5)
    drawing.name_axes(axes[1], "b", "Suffix exponents", "next token $i$", "$s_i$ (exponent)")
    shown = {
        int(s.argmin()): drawing.SKY,
        int(np.abs(s - 1).argmin()): drawing.GREEN,
        int(s.argmax()): drawing.RED,
    }
    z = np.arange(1, zipf.SUPPORT + 1)
    for (i, colour), dash in zip(shown.items(), ("-", "--", ":"), strict=True):
        label = rf"$s_{{{i}}}={s[i]:.2f}$"
        axes[2].loglog(z, np.exp(suffix[i]), dash, color=colour, label=label)
    axes[2].set_ylim(bottom=1e-5)
    axes[2].legend(loc="lower left")
    drawing.name_axes(axes[2], "c", "Suffix laws", "suffix $z$", "$q_i(z)$ (probability)")
    table: drawing.Table = {"token": token, "p": p, "suffix_exponent": s}
    table |= {f"renyi_entropy_nats_alpha_{a:g}": laws.renyi_entropy(suffix, a) for a in alphas}
    law_table: drawing.Table = {"z": z} | {f"q_{i}": np.exp(suffix[i]) for i in shown}
    return drawing.Drawing(figure, {"": table, "suffix_laws": law_table})


@drawing.styled
def log_odds(alphas: Sequence[float]) -> drawing.Drawing:
    """Draws figure (ii): both sides of Prop. 1 (Eq. 7) for every pair of next tokens."""
    pairs = {a: props.prop1_log_odds(zipf.model(), a, depth=0) for a in alphas}
    headline = props.prop1_log_odds(zipf.model(), zipf.HEADLINE_ALPHA, depth=0)
    worst = max(p.deviation for p in pairs.values())
    figure, axes = drawing.panels(
        "Figure (ii). Proposition 1 on every pair of next tokens", 2, height=3
    )
    # The points of a larger alpha spread wider and would hide those of a smaller one, so they are
    # drawn first.
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
    axes[0].plot(ends, ends, color=drawing.BLACK, linewidth=0.6, zorder=0, label="equal")
    axes[0].legend(loc="upper left", ncols=1 if len(alphas) < 8 else 2, columnspacing=1)
    axes[0].text(
        0.97, 0.05, f"largest deviation {worst:.0e}", transform=axes[0].transAxes, ha="right"
    )
    drawing.name_axes(
        axes[0],
        "a",
        f"{len(headline.left):,} pairs for each exponent",
        r"predicted, $(1-\alpha)(H_\alpha(q_i)-H_\alpha(q_j))$ (nats)",
        "direct, power $-$ temperature (nats)",
    )
    axes[1].hist(headline.left, bins=48, color=drawing.ORANGE, edgecolor="white", linewidth=0.3)
    axes[1].axvline(0, color=drawing.BLACK, linewidth=0.8)
    correction = "log-odds correction (nats)"
    drawing.name_axes(
        axes[1], "b", rf"The corrections at $\alpha={zipf.HEADLINE_ALPHA:g}$", correction, "pairs"
    )
    columns: drawing.Table = {
        "alpha": np.concatenate([np.full(len(p.i), a) for a, p in pairs.items()]),
        "i": np.concatenate([p.i for p in pairs.values()]),
        "j": np.concatenate([p.j for p in pairs.values()]),
        "predicted_nats": np.concatenate([p.right for p in pairs.values()]),
        "direct_nats": np.concatenate([p.left for p in pairs.values()]),
    }
    return drawing.Drawing(figure, {"": columns})


@drawing.styled
def reversals(alphas: Sequence[float], shown: int = 8) -> drawing.Drawing:
    """Draws figure (iii): pairs of tokens whose order power reverses, and as many controls.

    A pair is reversed if temperature and power disagree about which token is likelier. Shown are
    those of largest min(|log odds|) of the two laws, with no token in two pairs. A
    control is a pair of nearly equal suffix entropies (a correction below 0.1 nats), which power
    has no ground to reverse; its log odds under temperature are the nearest to a shown pair's.

    The figure is at one exponent, HEADLINE_ALPHA; `alphas` is not used.
    """
    del alphas
    # --- which pairs ---
    pairs = props.prop1_log_odds(zipf.model(), zipf.HEADLINE_ALPHA, depth=0)
    tempered = zipf.proposals(zipf.HEADLINE_ALPHA)["temperature"]
    before = tempered[pairs.i] - tempered[pairs.j]
    after = before + pairs.left
    is_reversed = before * after < 0
    strength = np.where(is_reversed, np.minimum(np.abs(before), np.abs(after)), -np.inf)
    chosen = _without_repeats(np.argsort(-strength), pairs.i, pairs.j, shown)
    controls = _nearest_controls(before, np.abs(pairs.left) < 0.1, chosen)
    # --- the panels ---
    title = (
        f"Figure (iii). Power reverses temperature's preference in {is_reversed.sum()} of "
        rf"{len(before):,} pairs, $\alpha={zipf.HEADLINE_ALPHA:g}$"
    )
    figure, axes = drawing.panels(title, 2, height=3, sharex=True)
    for axis, places in zip(axes, (chosen, controls), strict=True):
        heights = range(len(places))
        for y, k in enumerate(places):
            axis.plot([before[k], after[k]], [y, y], color="0.75", linewidth=1.5, zorder=0)
        axis.plot(
            before[places], heights, "^", color=drawing.ORANGE, markersize=6, label="temperature"
        )
        axis.plot(after[places], heights, "D", color=drawing.GREEN, label="power")
        axis.axvline(0, color=drawing.BLACK, linewidth=0.8)
        axis.set_yticks(heights, [f"{pairs.i[k]}, {pairs.j[k]}" for k in places])
        axis.invert_yaxis()
    odds = "log odds of $i$ against $j$ (nats)"
    drawing.name_axes(
        axes[0], "a", "Reversed: suffix entropies differ", odds, "pair $i, j$ (tokens)"
    )
    drawing.name_axes(
        axes[1], "b", "Controls: suffix entropies agree", odds, "pair $i, j$ (tokens)"
    )
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    # --- the table ---
    role = np.full(len(before), "", dtype=object)
    role[chosen], role[controls] = "reversed", "control"
    table: drawing.Table = {
        "i": pairs.i,
        "j": pairs.j,
        "temperature_log_odds_nats": before,
        "power_log_odds_nats": after,
        "is_reversed": is_reversed.astype(int),
        "shown_as": role,
    }
    return drawing.Drawing(figure, {"": table})


def _without_repeats(order: np.ndarray, i: np.ndarray, j: np.ndarray, count: int) -> list[int]:
    """Returns the first `count` pairs of `order` in which no token appears twice.

    Args:
      order: places of pairs, the best first.
      i, j: the tokens of each pair, [pairs].
    """
    used: set[int] = set()
    chosen: list[int] = []
    for k in order:
        if len(chosen) < count and not {int(i[k]), int(j[k])} & used:
            chosen.append(int(k))
            used |= {int(i[k]), int(j[k])}
    return chosen


def _nearest_controls(before: np.ndarray, close: np.ndarray, chosen: list[int]) -> list[int]:
    """Returns for each chosen pair the pair of nearest log odds `before` among the `close` ones."""
    controls: list[int] = []
    for k in chosen:
        gap = np.where(close, np.abs(before - before[k]), np.inf)
        gap[controls] = np.inf
        controls.append(int(gap.argmin()))
    return controls
