"""How near a student is to pi^alpha, and whether chains mixed: cells, lines and sentences."""

from collections.abc import Sequence

from powerjax.evaluation import Result
from powerjax.sample import diagnostics

MIXING_HEAD = ["R-hat", "bulk ESS"]
NEARNESS_HEAD = ["ESS/n", "k-hat > 0.7", "no k-hat", "KL"]
TITLE = "How near is the student"

_FEW = 25  # draws; with fewer the tail that k-hat fits has less than five
_LARGEST = 100  # a larger R-hat, as of chains that never moved, is not printed with its digits

TEXT = """<p>Each completion of the student has a weight w = p^alpha / q, p its probability under
the base and q under the student. ESS/n is the effective share of the draws: 1 where the student is
pi^alpha itself. KL is KL(q || pi^alpha) in nats. Both are means over problems. A k-hat above 0.7
says that q gives the region of pi^alpha too little mass: estimates by these weights are not to be
trusted there. It is blind to a mode that no completion ever visited, and then ESS/n looks too good
as well; sample.importance with defensive draws of the base guards against that.</p>"""


def mixing_cells(result: Result) -> list[str]:
    """Returns the cells under `MIXING_HEAD`: the largest R-hat, the least bulk ESS of a problem."""
    mixing = result.mixing
    if mixing is None or mixing.worst_rhat is None or mixing.least_bulk_ess is None:
        return ["-", "-"]
    worst = mixing.worst_rhat
    return [f"{worst:.3f}" if worst < _LARGEST else f"> {_LARGEST}", f"{mixing.least_bulk_ess:.0f}"]


def nearness_cells(result: Result) -> list[str]:
    """Returns the cells under `NEARNESS_HEAD`."""
    near = result.nearness
    if near is None:
        return ["-"] * len(NEARNESS_HEAD)
    known = len(near.k_hats)
    return [
        f"{near.ess_fraction:.3f}",
        f"{near.num_above} of {known}" if known else "-",
        f"{near.num_without} of {len(near.weights)}",
        f"{near.kl:.3f}",
    ]


def table(results: Sequence[Result]) -> list[list[str]]:
    """Returns the numbers of the rows that are weighed, the head first; [] where there are none."""
    rows = [
        [
            *(result.model, result.sampler, f"pi^{near.alpha:g}", str(len(near.weights))),
            *(str(near.fewest), *nearness_cells(result)),
        ]
        for result in results
        if (near := result.nearness) is not None
    ]
    head = ["model", "sampler", "target", "problems", "completions of each", *NEARNESS_HEAD]
    return [head, *rows] if rows else []


def notes(results: Sequence[Result]) -> list[str]:
    """Returns what a reader of these columns should know, a line for each row that has them."""
    lines = []
    for result in results:
        name = f"{result.model}, {result.sampler}"
        if (mixing := result.mixing) is not None:
            total = len(mixing.rhat)
            if not mixing.num_known:
                lines.append(
                    f"R-hat of {name}: not given, for no problem has {diagnostics.LEAST_CHAINS}"
                    f" chains of {diagnostics.LEAST_MOVES} moves in one stage."
                )
            else:
                lines.append(
                    f"R-hat of {name}: above {diagnostics.RHAT_THRESHOLD} on {mixing.num_above} of"
                    f" {mixing.num_known} problems"
                    + (
                        f", not given on {total - mixing.num_known}."
                        if total > mixing.num_known
                        else "."
                    )
                )
        if (near := result.nearness) is not None:
            lines.append(
                f"ESS/n, k-hat and KL of {name} are those of its weights against"
                f" pi^{near.alpha:g} of {result.records[0]['evaluated_model']}."
            )
            if near.fewest < _FEW:
                lines.append(
                    f"A problem of {name} has {near.fewest} completions: below {_FEW} there is no"
                    " k-hat, ESS/n is too high and KL too low."
                )
    return lines
