"""Part (g) of benchmarks.sampler: the base's own proposals against a student's.

Time per sample is compared at equal distance from pi^alpha. The distance is a lower bound of the
total variation over final answers, averaged over the problems: of a problem's answers an event is
chosen where half of a sampler's completions has less mass than half of the weighted draws of
`sample.importance`, and the masses of that event are compared on the other halves. So a sampler
that is exact has a distance of 0 but for noise, of either sign.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from benchmarks import shapes
from benchmarks.lines import Lines
from powerjax import models, sample
from powerjax.models import lora
from powerjax.tasks import arithmetic, registry

_SAMPLES = 16  # per problem and sampler
_NEW_TOKENS = 48


def against_base(lines: Lines, adapter: str, num_problems: int = 100) -> None:
    """Adds the lines of part (g).

    adapter: a student of the embedded model, such as the quickstart's.
    """
    if not Path(adapter).is_dir():
        raise FileNotFoundError(
            f"--student={adapter}: there is no such folder; python -m experiments.quickstart makes"
            " runs/quickstart/student/adapter"
        )
    base = models.load("tiny", dtype="float32")
    student = models.load("tiny", dtype="float32", adapter=adapter)
    student = dataclasses.replace(base, adapter=student.adapter)  # one copy of the weights
    _time_at_equal_distance(lines, base, student, num_problems)
    prompt = base.encode(arithmetic.problems("test", num=1, seed=5)[0].prompt)
    _latency(lines, "tiny", base, student, prompt, max_new_tokens=64)
    lm = shapes.random_lm(shapes.QWEN_HALF_B, "float32", "0.5B shape")
    settings = lora.LoraConfig()
    adapted = lora.Adapter(settings, lora.init(lm.config, settings, seed=1), "random")
    _latency(
        lines,
        "0.5B shape",
        lm,
        dataclasses.replace(lm, adapter=adapted),
        list(range(100, 132)),
        max_new_tokens=_NEW_TOKENS,
    )


def _time_at_equal_distance(lines: Lines, base, student, num_problems: int) -> None:
    """Seconds per sample of both proposals, alternating, each with its distance."""
    task = registry.get("arithmetic")
    problems = arithmetic.problems("test", num=num_problems, seed=5)
    prompts = [problem.prompt for problem in problems]
    job = dict(alpha=4.0, max_new_tokens=64, progress=False)
    weighted = sample.importance(base, prompts, student, num_samples=128, seed=9, **job)
    answers = lambda items: [_answer(task, problems, item) for item in items]  # noqa: E731
    target = [(answers(result.completions), result.weights) for result in weighted]
    runs: dict[str, Callable[[], sample.Completions]] = {
        f"base, {steps} moves": lambda steps=steps: sample.power(
            base, prompts, block_size=64, num_mcmc_steps=steps, num_samples=_SAMPLES, **job
        )
        for steps in (10, 30)
    }
    runs["student, 1 move"] = lambda: sample.power(
        base, prompts, proposal=student, num_samples=_SAMPLES, **job
    )
    seconds = {name: [] for name in runs}
    for repeat in range(3):
        for name, run in runs.items():
            began = time.perf_counter()
            out = run()
            if repeat:  # the first one compiles
                seconds[name].append((time.perf_counter() - began) / len(out))
            else:
                groups = [answers(out[i : i + _SAMPLES]) for i in range(0, len(out), _SAMPLES)]
                distance, error = _distance(groups, target)
                tokens = out.stats.num_forward_tokens + out.stats.num_proposal_forward_tokens
                lines.add(
                    f"(g) total variation over answers, at least, tiny, {name}",
                    f"{100 * distance:.1f} %",
                    f"standard error {100 * error:.1f}; {tokens / len(out):.0f} forward tokens per"
                    " sample, of both models",
                )
    of = {name: float(np.median(times)) for name, times in seconds.items()}
    for name in list(runs)[:2]:
        lines.add(
            f"(g) time per sample, tiny, {name}, over student, 1 move",
            f"{of[name] / of['student, 1 move']:.1f}x",
            f"{1e3 * of[name]:.2f} ms and {1e3 * of['student, 1 move']:.2f} ms"
            + ("; wanted: 4x" if "30" in name else ""),
        )


def _answer(task, problems, item: sample.Completion) -> str:
    """The final answer of a completion; of one without an answer, its text."""
    _, extracted = task.grade(problems[item.prompt_index], item.text)
    return item.text if extracted is None else extracted


def _distance(
    groups: Sequence[Sequence[str]], target: Sequence[tuple[Sequence[str], np.ndarray]]
) -> tuple[float, float]:
    """The mean over problems of the mass that a sampler lacks on an event, and its standard error.

    groups: the sampler's answers to each problem. target: weighted answers to each problem.
    """
    gaps = []
    for drawn, (answers, weights) in zip(groups, target, strict=True):
        one, two = ([drawn[i::2], (answers[i::2], weights[i::2])] for i in (0, 1))
        names = sorted({*drawn, *answers})
        event = [n for n in names if _mass(*one[1], n) > np.mean([a == n for a in one[0]])]
        gaps.append(
            sum(_mass(*two[1], name) for name in event)
            - np.mean([answer in event for answer in two[0]])
        )
    return float(np.mean(gaps)), float(np.std(gaps, ddof=1) / np.sqrt(len(gaps)))


def _mass(answers: Sequence[str], weights: np.ndarray, name: str) -> float:
    chosen = np.array([answer == name for answer in answers])
    return float(weights[chosen].sum() / weights.sum())


def _latency(lines: Lines, of: str, base, student, prompt: list[int], **job) -> None:
    """One sample of one prompt, over one plain completion of the base."""
    job |= {"progress": False}
    ratios = []
    for seed in range(6):
        began = time.perf_counter()
        plain = sample.standard(base, [prompt], seed=seed, num_slots=1, **job)
        middle = time.perf_counter()
        out = sample.power(base, [prompt], proposal=student, seed=seed, **job)
        ended = time.perf_counter()
        jax.block_until_ready(base.params)
        if seed:  # the first pair compiles
            tokens = plain[0].num_tokens, out.stats.num_proposal_forward_tokens / 2
            ratios.append((ended - middle) / (middle - began) * tokens[0] / tokens[1])
    lines.add(
        f"(g) latency of one sample, {of}, student, 1 move, over one completion",
        f"{np.median(ratios):.2f}x",
        f"{min(ratios):.2f} to {max(ratios):.2f}, for completions of equal length; wanted: 2x",
    )
