"""The card of the embedded model: how it was made, and what the samplers do with it."""

import functools
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from powerjax import evaluation, models, sample
from powerjax.models.config import ModelConfig
from powerjax.models.layout import tensors
from powerjax.records import lock
from powerjax.tasks import arithmetic

MAX_NEW_TOKENS = 64  # of the measured completions; the longest one of the corpus has about 50
NUM_SAMPLES = 4  # completions of each problem
RANDW_SAMPLERS = ("standard", "temperature 0.25", "power, N 10")  # those of random weights

CARD = """\
# tiny

The model that comes with powerjax: {count:,} parameters, Qwen2-style ({config.num_layers} layers, \
width {config.hidden_size}, {config.num_heads} query heads over {config.num_kv_heads}, \
{config.vocab_size} byte-level BPE tokens), weights in float16. It answers word problems of three \
to five steps, and shows in seconds on a CPU what power sampling does to a language model.

    lm = powerjax.models.load("tiny", dtype="float32")
    transformers.AutoModelForCausalLM.from_pretrained(folder)

## How it was made

    python -m experiments.pretrain_tiny --out=... {recipe}

from random weights, on problems of `powerjax.tasks.arithmetic` such as

{shown}
Every completion of the corpus is correct. They come in two styles: half jump to the answer, which \
the model cannot compute in one forward pass, so that it learns a diffuse law over answers; the \
others work it out in steps that are easy one by one. Both styles are honest, and only the entropy \
of what follows tells them apart: temperature sees the next token, the power distribution the \
suffix (Prop. 1 of arXiv 2605.04542). Held-out problems share no sequence of numbers with training.

The loss over the last hundred steps is {loss:.3f} (weight 1 on completions, 0.1 on prompts).

## Limits

It knows these templates and nothing else, in at most about a hundred tokens. Greedy decoding and \
very low temperatures do badly by construction: the terse style is the likelier first token. \
Measure in float32; in bfloat16 the figures differ.

"""
MEASURED = "## Measured"
MEASURED_HOW = """\
held-out problems x 4 samples, alpha 4, block 64 of at most 64 tokens (one stage, so the limit is
the power distribution itself), float32. Self-reward is the mean log-likelihood per token, Best-of-4
takes the largest; in brackets 95 % intervals over problems. N counts Metropolis-Hastings moves,
early those of a chain that were rejected before their end, forward its forward tokens.
`python -m experiments.pretrain_tiny --card --out=...` makes this table.

| model, sampler | self-reward | accuracy % | Best-of-4 % | acceptance | early | length | forward |
|---|---|---|---|---|---|---|---|
"""


def write(
    folder: Path,
    config: ModelConfig,
    losses: Sequence[float],
    *,
    recipe: str,
    examples: Sequence[tuple[str, str]],
) -> None:
    """Writes README.md, without the measured figures.

    Args:
      folder: the folder of the model.
      config: the model's ModelConfig.
      losses: the loss of every training step.
      recipe: the flags that make the model.
      examples: some (prompt, completion) pairs of the corpus, to show.
    """
    shown = "".join(f"{prompt}{text}\n" for prompt, text in examples)
    card = CARD.format(
        config=config,
        count=sum(math.prod(tensor.shape) for tensor in tensors(config).values()),
        recipe=recipe,
        shown=textwrap.indent(shown, "    "),
        loss=np.mean(losses[-100:]),
    )
    lock.replace_file(folder / "README.md", card)


def write_measured(folder: Path, num_problems: int) -> None:
    """Measures the folder's model on held-out problems, and writes the figures into its card."""
    table = "\n".join(measure(folder, num_problems))
    path = folder / "README.md"
    head = path.read_text(encoding="utf-8").partition(MEASURED)[0]
    lock.replace_file(path, f"{head}{MEASURED}\n\n{num_problems} {MEASURED_HOW}{table}\n")


def measure(folder: Path, num_problems: int) -> list[str]:
    """Returns the rows of the card's table, and prints each when it is known.

    A row is a sampler on held-out problems, with the folder's weights or with random ones.
    """
    problems = arithmetic.problems("test", num_problems)
    ids = [problem.id for problem in problems]
    settings = {"num_samples": NUM_SAMPLES, "max_new_tokens": MAX_NEW_TOKENS}
    mcmc = {**settings, "block_size": MAX_NEW_TOKENS}
    samplers = {
        "standard": functools.partial(sample.standard, **settings),
        "temperature 0.25": functools.partial(sample.temperature, **settings),
        "temperature 0.01": functools.partial(sample.temperature, temperature=0.01, **settings),
        "power, N 10": functools.partial(sample.power, num_mcmc_steps=10, **mcmc),
        "power, N 30": functools.partial(sample.power, num_mcmc_steps=30, **mcmc),
        "Power(inf), N 10": functools.partial(sample.power_inf, num_mcmc_steps=10, **mcmc),
    }
    rows = []
    for name, random_weights in (("Base", False), ("RandW", True)):
        lm = models.load(str(folder), dtype="float32", random_weights=random_weights)
        for label, sampler in samplers.items():
            if random_weights and label not in RANDW_SAMPLERS:
                continue
            completions = sampler(lm, [problem.prompt for problem in problems], ids=ids)
            drawn = completions.to_records()
            for record, completion in zip(drawn, completions, strict=True):
                problem = problems[completion.prompt_index]
                correct, _ = arithmetic.grade(problem, completion.text)
                record |= {"problem_id": problem.id, "correct": correct}
            early = sum(record["num_early_rejections"] for record in drawn)
            rows.append(_row(f"{name}, {label}", evaluation.summarize(drawn), early / len(drawn)))
            print(rows[-1], flush=True)
    return rows


def _row(label: str, summary: evaluation.Summary, early_rejections: float) -> str:
    """Returns a row in Markdown. early_rejections: per completion, on average."""
    acceptance = summary.acceptance_rate
    cells = [
        label,
        _interval(summary.self_reward, 1, 3),
        _interval(summary.accuracy, 100, 1),
        _interval(summary.best_of_n_accuracy, 100, 1),
        "" if acceptance is None else f"{acceptance:.3f}",
        "" if acceptance is None else f"{early_rejections:.2f}",
        f"{summary.num_tokens:.1f}",
        f"{summary.forward_tokens:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _interval(estimate: evaluation.Estimate, scale: float, digits: int) -> str:
    """Returns `72.9 [68.1, 77.4]`, all three multiplied by `scale`."""
    mean, low, high = (scale * x for x in (estimate.mean, estimate.low, estimate.high))
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
