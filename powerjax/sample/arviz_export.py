"""The traces of a run as ArviZ holds them: chains are samples of a prompt, draws are moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from powerjax.sample import chain, diagnostics

if TYPE_CHECKING:
    from powerjax.sample.completions import Completion

# The words that records and ArviZ's groups have for the kinds of a move.
KINDS = {chain.RESTART: "restart", chain.SUFFIX: "suffix", chain.BASE: "base"}


def to_arviz(items: Sequence[Completion], settings: dict[str, Any], stage: int | None) -> Any:
    """Returns what `Completions.to_arviz` does.

    Args:
      items: the completions.
      settings: `Completions.settings`.
      stage: the stage whose moves are wanted; None: the last that all chains reached.
    """
    arviz_base = _imported()
    by_prompt: dict[str | int, list[Completion]] = {}
    for item in items:
        if item.trace is None or not len(item.trace.log_p):
            raise ValueError("to_arviz needs the moves of the chains: sample with trace=True")
        by_prompt.setdefault(item.id, []).append(item)
    counts = {name: len(samples) for name, samples in by_prompt.items()}
    if not counts:
        raise ValueError("to_arviz needs completions, and there are none")
    if len(set(counts.values())) > 1:
        a, b = (
            next(n for n in counts if counts[n] == pick(counts.values())) for pick in (min, max)
        )
        raise ValueError(
            f"to_arviz needs as many chains of each prompt, and there are {counts[a]} of {a!r} and"
            f" {counts[b]} of {b!r}"
        )

    moves = _moves_of(items, settings["num_mcmc_steps"], stage)
    traces = [[item.trace for item in samples] for samples in by_prompt.values()]

    def field(name: str) -> np.ndarray:
        values = [[np.asarray(getattr(t, name))[moves] for t in row] for row in traces]
        return np.moveaxis(
            np.array(values), 0, -1
        )  # [prompt, chain, draw] to [chain, draw, prompt]

    words = np.array([KINDS[kind] for kind in sorted(KINDS)])
    names = ("log_p", "length", "accepted", "kind")
    return arviz_base.from_dict(
        {
            "posterior": {"log_p": field("log_p"), "length": field("length")},
            "sample_stats": {"accepted": field("accepted"), "kind": words[field("kind")]},
        },
        coords={"prompt": list(by_prompt)},
        dims={name: ["prompt"] for name in names},
        attrs={"/": {"model": settings["model"], "sampler": settings["sampler"]}},
    )


def _moves_of(items: Sequence[Completion], moves_per_stage: int, stage: int | None) -> slice:
    """Returns the moves of one stage as a slice of a chain's moves."""
    common = diagnostics.common_stage(
        [len(item.trace.log_p) for item in items if item.trace is not None], moves_per_stage
    )
    if stage is None:
        return common
    last = common.start // moves_per_stage
    if not 0 <= stage <= last:
        raise ValueError(
            f"stage must be from 0 to {last}, the last stage that all chains reached, not {stage}"
        )
    return slice(stage * moves_per_stage, (stage + 1) * moves_per_stage)


def _imported() -> Any:
    """Returns the module arviz_base. Raises ImportError in one line where it is missing."""
    try:
        import arviz_base  # takes a second or two, and is an extra
    except ImportError:
        raise ImportError(
            "to_arviz needs the package arviz-base: pip install 'powerjax[arviz]'"
        ) from None
    return arviz_base
