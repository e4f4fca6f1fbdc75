"""What experiments.sample and experiments.distill print when they are done: a name and a text each.

`text` makes the lines of them; a text of None is left out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from powerjax.distill import Corpus, Trained
from powerjax.evaluation import Summary
from powerjax.report.cells import law, nats, percent, speed

Lines = dict[str, str | None]


def text(lines: Mapping[str, object]) -> str:
    """Returns one line per fact, the names aligned at their right end."""
    return "\n".join(f"{name:>22}  {value}" for name, value in lines.items() if value is not None)


def sampled(
    summary: Summary, stats: Any, sampler: str, settings: Mapping[str, Any], path: Path
) -> Lines:
    """Returns what the records show and what this start of the program cost.

    Args:
      summary: the numbers of all records of the run.
      stats: the sampler's `engine.Stats`; None where this start had nothing left to sample.
      sampler: the name of a function of `powerjax.sample`.
      settings: the keywords of `sampler`, a function of `powerjax.sample`.
      path: the record file.
    """
    n = summary.num_passes
    lines = {
        "records": str(path),
        "completions": f"{summary.num_problems} problems x {n}",
        "accuracy": percent(summary.accuracy),
        "self-reward": f"{nats(summary.self_reward)} nats per token",
    }
    if n > 1:
        lines[f"best of {n}: accuracy"] = percent(summary.best_of_n_accuracy)
        lines[f"best of {n}: self-reward"] = nats(summary.best_of_n_self_reward)
    if summary.acceptance_rate is not None:
        lines["acceptance"] = f"{summary.acceptance_rate:.3f}"
    lines["length"] = f"{summary.num_tokens:.1f} tokens, {summary.finished:.0%} ended in EOS"
    lines["forward tokens"] = f"{summary.forward_tokens:.1f} per completion"
    if (of_proposal := summary.proposal_forward_tokens) is not None:
        own = summary.forward_tokens - of_proposal
        lines["forward tokens"] += (
            f": {own:.1f} of the model, {of_proposal:.1f} of the proposal model"
        )
    if stats is not None:
        lines["speed"] = speed(stats)
    return lines | {"law": law(sampler, settings)}


def trained(corpus: Corpus, result: Trained, batch_size: int) -> Lines:
    """Returns what the student learnt from, its first and last loss, and the speed of training.

    batch_size: examples per optimizer step.
    """
    examples = f"{len(corpus):,}"
    if corpus.num_truncated:
        examples += f", {corpus.num_truncated:,} of them cut at {corpus.max_length:,} tokens"
    if corpus.num_dropped:
        examples += f"; {corpus.num_dropped:,} left out, because the prompt alone fills them"
    steps = f"{result.num_steps:,}, of {batch_size} examples"
    if result.num_done < result.num_steps:
        steps += f"; the last {result.num_done:,} by this command"
    lines: Lines = {"examples": examples, "steps": steps}
    if result.first_loss is not None:  # None: the run was done before, without its metrics.jsonl
        lines["loss"] = f"{result.first_loss:.4f} at first, {result.last_loss:.4f} at last"
    if result.num_done:
        tokens_per_s = result.num_tokens / result.seconds
        lines["speed"] = (
            f"{tokens_per_s:,.0f} tokens/s ({result.num_tokens:,} tokens in {result.seconds:.1f} s,"
            " compilation included)"
        )
    return lines
