"""The traces of a run as ArviZ holds them: chains are samples of a prompt, draws are moves."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from powerjax.sample import diagnostics
from powerjax.sample.traces import KINDS, Trace


def to_arviz(
    of_prompts: Mapping[str | int, Sequence[Trace | None]],
    settings: Mapping[str, Any],
    stage: int | None,
) -> Any:
    """Returns what `Completions.to_arviz` does.

    Args:
      of_prompts: the prompt's name -> the traces of its chains; None where a chain has none.
      settings: `Completions.settings`.
      stage: the stage whose moves are wanted; None: the last that all chains reached.
    """
    arviz_base = _imported()
    traces = [[t for t in row if t is not None and len(t.log_p)] for row in of_prompts.values()]
    if not traces:
        raise ValueError("to_arviz needs completions, and there are none")
    counts = {name: len(row) for name, row in of_prompts.items()}
    if sum(map(len, traces)) < sum(counts.values()):
        raise ValueError("to_arviz needs the moves of the chains: sample with trace=True")
    if len(set(counts.values())) > 1:
        few, many = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
        raise ValueError(
            f"to_arviz needs as many chains of each prompt, and there are {counts[few]} of {few!r}"
            f" and {counts[many]} of {many!r}"
        )

    num_moves = [len(trace.log_p) for row in traces for trace in row]
    moves = _moves_of(num_moves, settings["num_mcmc_steps"], stage)

    def field(name: str) -> np.ndarray:
        """Returns one field of the traces, [chain, draw, prompt]."""
        values = [[np.asarray(getattr(t, name))[moves] for t in row] for row in traces]
        return np.moveaxis(np.array(values), 0, -1)

    words = np.array([KINDS[kind] for kind in sorted(KINDS)])
    names = ("log_p", "length", "accepted", "kind")
    return arviz_base.from_dict(
        {
            "posterior": {"log_p": field("log_p"), "length": field("length")},
            "sample_stats": {"accepted": field("accepted"), "kind": words[field("kind")]},
        },
        coords={"prompt": list(of_prompts)},
        dims={name: ["prompt"] for name in names},
        attrs={"/": {"model": settings["model"], "sampler": settings["sampler"]}},
    )


def _moves_of(num_moves: Sequence[int], moves_per_stage: int, stage: int | None) -> slice:
    """Returns the moves of one stage as a slice of a chain's moves.

    num_moves: how many moves each chain made.
    """
    common = diagnostics.common_stage(num_moves, moves_per_stage)
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
