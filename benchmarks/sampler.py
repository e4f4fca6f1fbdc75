"""Speed and cost of the sampler, as ratios measured side by side in one run.

    python -m benchmarks.sampler [--only=a,b,c,d,e,f,g]

(a) chains per second against Hugging Face `generate`. Needs torch.
(b) plain decoding of a 0.5B shape against the same. Needs torch.
(c) slot occupancy, and how long the device waits for Python.
(d) what early rejection saves, from runs with and without it.
(e) tokens per second against the number of slots and against what the machine can do at most.
(f) time to the first completion, and the number of compilations.
(g) time per sample with a student's proposals against the base's own, at equal distance from the
    target, and the latency of one sample (`benchmarks.proposal`). Needs --student.

It takes about ten minutes on two cores.
"""

import dataclasses
import subprocess
import sys
import time

import numpy as np
from absl import app, flags

from benchmarks import proposal, shapes
from benchmarks.floor import Floor
from benchmarks.lines import Lines
from powerjax import models, sample
from powerjax.tasks import arithmetic

_ONLY = flags.DEFINE_list("only", list("abcdef"), "Parts to run.")
_CHAINS = flags.DEFINE_integer("chains", 1024, "Chains of the embedded model in (a), (c) and (d).")

_STUDENT = flags.DEFINE_string(
    "student", "runs/quickstart/student/adapter", "The student of the embedded model in (g)."
)

_LINES = Lines(58, 14)
POWER = dict(alpha=4.0, block_size=64, num_mcmc_steps=10, max_new_tokens=64, progress=False)


def main(_):
    _LINES.begin()
    for part in _ONLY.value:
        PARTS[part]()


def tiny():
    """Returns the embedded model, and --chains prompts as token ids."""
    lm = models.load("tiny", dtype="float32")
    problems = arithmetic.problems("test", num=_CHAINS.value, seed=0)
    return lm, [lm.encode(p.prompt) for p in problems]


def timed(run) -> tuple[float, sample.Completions]:
    """Returns the seconds and the result of a second run, since a first one compiles."""
    run()
    began = time.perf_counter()
    out = run()
    return time.perf_counter() - began, out


def chains_against_generate() -> None:
    """Part (a)."""
    import transformers

    from benchmarks import hf_baseline
    from powerjax.models.checkpoint import find_folder

    lm, prompts = tiny()
    folder = find_folder("tiny")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    hf = hf_baseline.HuggingFace(model, lm.stop_ids[0])
    options = dict(alpha=4.0, num_mcmc_steps=10, max_new_tokens=64)
    seconds, _ = timed(lambda: sample.power(lm, prompts, **POWER))
    ours = len(prompts) / seconds
    one = hf_baseline.chains_per_s(hf, prompts[:12], 1, **options)
    lock_step = hf_baseline.chains_per_s(hf, prompts[:128], 64, **options)
    _LINES.add("(a) power chains/s, tiny, alpha 4, block 64, 10 steps", f"{ours:.1f}")
    what = "    generate per proposal,"
    _LINES.add(f"{what} one prompt at a time", f"{one:.2f}", f"{ours / one:.0f}x (wanted: 50x)")
    ratio = f"{ours / lock_step:.1f}x (wanted: 3x)"
    _LINES.add(f"{what} 64 prompts in lock-step", f"{lock_step:.2f}", ratio)


def decoding_against_generate() -> None:
    """Part (b)."""
    from benchmarks import hf_baseline

    new_tokens, length = 48, 32
    rng = np.random.default_rng(0)
    floor, ours = Floor(), {}
    lm = shapes.random_lm(shapes.QWEN_HALF_B, "float32", "0.5B shape")
    for batch in (1, 32):
        prompts = rng.integers(0, 150_000, (batch, length)).tolist()
        seconds, out = timed(
            lambda p=prompts, b=batch: sample.standard(
                lm, p, max_new_tokens=new_tokens, num_slots=b, progress=False
            )
        )
        assert out.stats.model_steps == new_tokens
        ours[batch] = seconds, prompts
    lm = out = None  # frees two gigabytes
    model = hf_baseline.random_model(shapes.QWEN_HALF_B, "float32")
    for batch, (seconds, prompts) in ours.items():
        theirs = hf_baseline.decode_s(model, prompts, new_tokens)
        rate = batch * new_tokens / seconds
        least = floor.step_s(shapes.QWEN_HALF_B, batch, length + new_tokens // 2)
        _LINES.add(
            f"(b) tokens/s, 0.5B shape, float32, batch {batch}",
            f"{rate:.1f}",
            f"{theirs / seconds:.2f}x generate (wanted: {1 if batch == 1 else 1.2}x); "
            f"{new_tokens * least / seconds:.0%} of the floor",
        )


def occupancy() -> None:
    """Part (c)."""
    lm, prompts = tiny()
    options = dict(max_new_tokens=64, progress=False)
    for name, run, wanted in (
        ("power", lambda: sample.power(lm, prompts, **POWER), "95 %"),
        ("standard", lambda: sample.standard(lm, prompts, **options), "90 %"),
    ):
        _, out = timed(run)
        stats = out.stats
        whole = stats.num_forward_tokens / (stats.model_steps * stats.slots_an_engine)
        host, prefill = stats.host_s / stats.wall_s, stats.prefill_s / stats.wall_s
        idle = f"{stats.slot_occupancy * (1 - host - prefill):.1%}"
        end = f"{whole:.1%} over the whole run, its end included"
        note = f"wanted: {wanted}; {idle} with the time between calls counted as idle; {end}"
        of = f"{name}, {stats.num_slots} slots"
        _LINES.add(
            f"(c) slot occupancy while prompts wait, {of}", f"{stats.slot_occupancy:.1%}", note
        )
        note = f"wanted: below 5 %; prefills take another {prefill:.1%}"
        _LINES.add(f"(c) wall time in which the device waits for Python, {of}", f"{host:.1%}", note)


def early_rejection() -> None:
    """Part (d)."""
    lm, prompts = tiny()
    prompts = prompts[:256]
    random = models.load("tiny", dtype="float32", random_weights=True)
    flat = dict(lm.params)
    flat["norm"] = {"scale": FLATTEN * lm.params["norm"]["scale"]}
    half = dataclasses.replace(lm, params=flat)
    for name, model in (("tiny", lm), ("RandW", random), (f"tiny, logits x {FLATTEN}", half)):
        on, off = (sample.power(model, prompts, early_rejection=e, **POWER) for e in (True, False))
        assert [c.tokens for c in on] == [c.tokens for c in off]
        ratio = on.stats.num_forward_tokens / off.stats.num_forward_tokens
        _LINES.add(
            f"(d) forward tokens with early rejection over without, {name}",
            f"{ratio:.3f}",
            f"acceptance {on.stats.acceptance_rate:.2f}, the same completions",
        )


def slots() -> None:
    """Part (e)."""
    lm, prompts = tiny()
    prompts, floor = prompts[:64] * 8, Floor()
    for num_slots in (1, 4, 16, 64, 128, 256):
        some = prompts[: min(len(prompts), 8 * num_slots)]
        options = {**POWER, "num_slots": num_slots, "ids": list(range(len(some)))}
        seconds, out = timed(lambda some=some, o=options: sample.power(lm, some, **o))
        rate = out.stats.num_forward_tokens / seconds
        least = floor.step_s(lm.config, num_slots, 60)
        _LINES.add(
            f"(e) tokens/s, tiny, {num_slots} slots",
            f"{rate:,.0f}",
            f"{rate * least / num_slots:.0%} of the floor ({floor})",
        )


def first_completion() -> None:
    """Part (f): what a user of the quickstart waits for, from the start of a fresh process."""
    script = """
import sys, time
began = float(sys.argv[1])
import jax
compiled = [0]
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *a, **k: compiled.__setitem__(0, compiled[0] + ("backend_compile" in event)))
from powerjax import models, sample
from powerjax.tasks import arithmetic
lm = models.load("tiny", dtype="float32")
prompts = [p.prompt for p in arithmetic.problems("test", num=128, seed=0)]
first = []
sample.power(lm, prompts, block_size=64, max_new_tokens=64, progress=False,
             on_finish=lambda c: first.append(time.time()))
from powerjax.sample import feed, slots
print(first[0] - began, time.time() - began, slots.run._cache_size(), feed._prefill._cache_size(),
      compiled[0])
"""
    printed = subprocess.run(
        [sys.executable, "-c", script, str(time.time())], check=True, capture_output=True, text=True
    ).stdout.split()
    _LINES.add(
        "(f) seconds from the command to the first completion",
        f"{float(printed[0]):.1f}",
        f"{float(printed[1]):.1f} to the 128th; programs compiled: slots {printed[2]}, prefill "
        f"{printed[3]} (one a shape), with the small ones {printed[4]}",
    )


FLATTEN = 0.125  # scales the embedded model's logits for an acceptance rate near one half
PARTS = dict(
    a=chains_against_generate,
    b=decoding_against_generate,
    c=occupancy,
    d=early_rejection,
    e=slots,
    f=first_completion,
    g=lambda: proposal.against_base(_LINES, _STUDENT.value),
)


if __name__ == "__main__":
    app.run(main)
