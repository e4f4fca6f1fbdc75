"""Speed and cost of the sampler, as ratios measured side by side in one run.

    python -m benchmarks.sampler [--only=a,b,c,d,e,f]

(a) chains per second against Hugging Face `generate`; (b) plain decoding of a 0.5B shape against
the same; (c) slot occupancy, and how long the device waits for Python; (d) what early rejection
saves, by twin runs; (e) tokens per second against the number of slots and the machine's floor; (f)
time to the first completion, and compilations. (a) and (b) need torch. About ten minutes on two
cores.
"""

import dataclasses
import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import shapes
from powerjax import models, sample
from powerjax.tasks import arithmetic

_ONLY = flags.DEFINE_list("only", list("abcdef"), "Parts to run.")
_CHAINS = flags.DEFINE_integer("chains", 1024, "Chains of the embedded model in (a), (c) and (d).")

POWER = dict(alpha=4.0, block_size=64, num_mcmc_steps=10, max_new_tokens=64, progress=False)


def main(_):
    print(
        f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, jax {jax.__version__}, load "
        f"{os.getloadavg()[0]:.1f} before the start"
    )
    print(f"{'what':58s} {'measured':>14s}  against")
    for part in _ONLY.value:
        PARTS[part]()


def row(what: str, measured: str, against: str = "") -> None:
    print(f"{what:58s} {measured:>14s}  {against}", flush=True)


def tiny(count: int | None = None):
    lm = models.load("tiny", dtype="float32")
    problems = arithmetic.problems("test", num=count or _CHAINS.value, seed=0)
    return lm, [lm.encode(p.prompt) for p in problems]


def timed(run) -> tuple[float, sample.Completions]:
    """Seconds of a second run: the first one compiles."""
    run()
    began = time.perf_counter()
    out = run()
    return time.perf_counter() - began, out


def chains_against_generate() -> None:
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
    row("(a) power chains/s, tiny, alpha 4, block 64, 10 steps", f"{ours:.1f}")
    row(
        "    generate per proposal, one prompt at a time",
        f"{one:.2f}",
        f"{ours / one:.0f}x (wanted: 50x)",
    )
    row(
        "    generate per proposal, 64 prompts in lock-step",
        f"{lock_step:.2f}",
        f"{ours / lock_step:.1f}x (wanted: 3x)",
    )


def decoding_against_generate() -> None:
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
    lm = out = None  # two gigabytes
    model = hf_baseline.random_model(shapes.QWEN_HALF_B, "float32")
    for batch, (seconds, prompts) in ours.items():
        theirs = hf_baseline.decode_s(model, prompts, new_tokens)
        rate = batch * new_tokens / seconds
        least = floor.step_s(shapes.QWEN_HALF_B, batch, length + new_tokens // 2)
        row(
            f"(b) tokens/s, 0.5B shape, float32, batch {batch}",
            f"{rate:.1f}",
            f"{theirs / seconds:.2f}x generate (wanted: {1 if batch == 1 else 1.2}x); "
            f"{new_tokens * least / seconds:.0%} of the floor",
        )


def occupancy() -> None:
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
        row(
            f"(c) slot occupancy while prompts wait, {name}, {stats.num_slots} slots",
            f"{stats.slot_occupancy:.1%}",
            f"wanted: {wanted}; {stats.slot_occupancy * (1 - host - prefill):.1%} with the time "
            f"between calls counted as idle; {whole:.1%} over the whole run, its end included",
        )
        row(
            f"(c) wall time in which the device waits for Python, {name}, {stats.num_slots} slots",
            f"{host:.1%}",
            f"wanted: below 5 %; prefills take another {prefill:.1%}",
        )


def early_rejection() -> None:
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
        row(
            f"(d) forward tokens with early rejection over without, {name}",
            f"{ratio:.3f}",
            f"acceptance {on.stats.acceptance_rate:.2f}, the same completions",
        )


def slots() -> None:
    lm, prompts = tiny()
    prompts, floor = prompts[:64] * 8, Floor()
    for num_slots in (1, 4, 16, 64, 128, 256):
        some = prompts[: min(len(prompts), 8 * num_slots)]
        options = {**POWER, "num_slots": num_slots, "ids": list(range(len(some)))}
        seconds, out = timed(lambda some=some, o=options: sample.power(lm, some, **o))
        rate = out.stats.num_forward_tokens / seconds
        least = floor.step_s(lm.config, num_slots, 60)
        row(
            f"(e) tokens/s, tiny, {num_slots} slots",
            f"{rate:,.0f}",
            f"{rate * least / num_slots:.0%} of the floor ({floor})",
        )


def first_completion() -> None:
    """A fresh process, from its start to the first chain's end, as the quickstart's user waits."""
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
    row(
        "(f) seconds from the command to the first completion",
        f"{float(printed[0]):.1f}",
        f"{float(printed[1]):.1f} to the 128th; programs compiled: slots {printed[2]}, prefill "
        f"{printed[3]} (one a shape), with the small ones {printed[4]}",
    )


class Floor:
    """What this machine can do at most, measured here and now: memory bandwidth (the better of an
    in-place scaling and a matrix-vector product) and matmul rate (the best of several shapes)."""

    def __init__(self):
        rng = np.random.default_rng(0)
        big = jnp.asarray(rng.random((8192, 32_768), np.float32))  # 1 GiB
        vector = jnp.ones(8192)
        product = jax.jit(lambda v, x: v @ x)
        read = big.nbytes / _best(lambda: product(vector, big))
        scale = jax.jit(lambda x: x * 1.0001, donate_argnums=0)
        times = []
        for _ in range(5):
            began = time.perf_counter()
            big = jax.block_until_ready(scale(big))
            times.append(time.perf_counter() - began)
        self.bytes_per_s = max(read, 2 * big.nbytes / min(times))
        self.flops_per_s = max(
            2 * m * k * n / _best(jax.jit(jnp.matmul).lower(a, b).compile(), a, b)
            for m, k, n in ((64, 896, 4864), (256, 896, 4864), (2048, 2048, 2048))
            for a, b in [(jnp.ones((m, k)), jnp.ones((k, n)))]
        )

    def step_s(self, config: models.ModelConfig, rows: int, length: int) -> float:
        """Least seconds of a decode step: bytes of weights and cache, or operations, the larger."""
        c = config
        per_layer = c.hidden_size * c.head_dim * 2 * (c.num_heads + c.num_kv_heads)
        weights = c.num_layers * (per_layer + 3 * c.hidden_size * c.intermediate_size)
        weights += c.vocab_size * c.hidden_size
        cache = rows * length * 2 * c.num_layers * c.num_kv_heads * c.head_dim
        attention = rows * length * 2 * c.num_layers * c.num_heads * c.head_dim
        return max(
            4 * (weights + cache) / self.bytes_per_s,
            2 * (rows * weights + attention) / self.flops_per_s,
        )

    def __str__(self):
        return f"{self.bytes_per_s / 1e9:.0f} GB/s, {self.flops_per_s / 1e9:.0f} GFLOP/s"


def _best(run, *args, repeats: int = 15) -> float:
    jax.block_until_ready(run(*args))
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(run(*args))
        times.append(time.perf_counter() - began)
    return min(times)


FLATTEN = 0.125  # of the embedded model's logits, for an acceptance near one half
PARTS = dict(
    a=chains_against_generate,
    b=decoding_against_generate,
    c=occupancy,
    d=early_rejection,
    e=slots,
    f=first_completion,
)


if __name__ == "__main__":
    app.run(main)
