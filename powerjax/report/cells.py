"""Numbers as text: a mean with its spread and interval, and the columns of a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from powerjax.evaluation import Estimate, Summary
from powerjax.sample import spec


def percent(accuracy: Estimate | None) -> str | None:
    """Returns `72.9 ± 1.7 % [68.1, 77.4]`: mean, standard deviation over passes, 95 % interval.

    Returns None for None, an accuracy that is not known.
    """
    if accuracy is None:
        return None
    return f"{spread(accuracy, 100, 1)} % {interval(accuracy, 100, 1)}"


def nats(reward: Estimate) -> str:
    """Returns `-0.190 ± 0.009 [-0.210, -0.170]`, the same of a self-reward."""
    return f"{spread(reward, 1, 3)} {interval(reward, 1, 3)}"


def law(sampler: str, settings: Mapping[str, Any]) -> str:
    """The law of the completions that a sampler makes with these keywords, as a phrase."""
    return spec.of(sampler, settings).describe_law()


def header(n: int) -> list[str]:
    """Returns the names of the columns of `cells`; n is the number of passes."""
    return [
        "accuracy %",
        "95 %",
        "self-reward",
        "95 %",
        f"Bo{n} acc.",
        "95 %",
        f"Bo{n} r",
        "accepted",
        "forward",
    ]


def cells(summary: Summary) -> list[str]:
    """Returns one row of a table, in the columns of `header`; a dash where nothing is known."""
    accuracy, best = summary.accuracy, summary.best_of_n_accuracy
    several = summary.num_passes > 1
    return [
        spread(accuracy, 100, 1),
        interval(accuracy, 100, 1),
        spread(summary.self_reward, 1, 3),
        interval(summary.self_reward, 1, 3),
        f"{100 * best.mean:.1f}" if several and best else "-",
        interval(best, 100, 1) if several and best else "-",
        f"{summary.best_of_n_self_reward.mean:.3f}" if several else "-",
        "-" if summary.acceptance_rate is None else f"{summary.acceptance_rate:.3f}",
        "-" if summary.forward_tokens is None else f"{summary.forward_tokens:.1f}",
    ]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table; the first row is its head."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def spread(estimate: Estimate | None, scale: float = 1, digits: int = 3) -> str:
    """Returns `72.9 ± 1.7`: mean and standard deviation over passes; a dash for None."""
    if estimate is None:
        return "-"
    std = "" if estimate.std is None else f" ± {scale * estimate.std:.{digits}f}"
    return f"{scale * estimate.mean:.{digits}f}{std}"


def interval(estimate: Estimate | None, scale: float = 1, digits: int = 3) -> str:
    """Returns `[68.1, 77.4]`, the 95 % interval; a dash for None."""
    if estimate is None:
        return "-"
    return f"[{scale * estimate.low:.{digits}f}, {scale * estimate.high:.{digits}f}]"


def speed(stats) -> str:
    """Returns `5,432 tokens/s (151,234 forward tokens in 27.8 s)`, from `sample.Stats`.

    Tokens of a proposal model count, too.
    """
    tokens = stats.num_forward_tokens + stats.num_proposal_forward_tokens
    per_s = tokens / stats.wall_s if stats.wall_s else 0.0
    return f"{per_s:,.0f} tokens/s ({tokens:,} forward tokens in {stats.wall_s:.1f} s)"
