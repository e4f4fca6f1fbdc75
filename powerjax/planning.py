"""What a run will take, before it starts: memory, tokens, hours, from a probe of a few seconds.

The probe runs the engine in the run's own shapes, so what it compiles is not compiled again. How
long completions will be is guessed from it too: by maximum likelihood under a constant chance of
ending at each token, which is tokens drawn over completions ended, and holds for completions that
the probe cuts off.
"""

from __future__ import annotations

import dataclasses
import gc
import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from powerjax import distill
from powerjax import mesh as mesh_lib
from powerjax.distill import data
from powerjax.distill import step as step_lib
from powerjax.models import LM
from powerjax.models.lora import LoraConfig
from powerjax.sample import draws, engine, mh, placement, workers
from powerjax.sample.memory import free_bytes

_PROBE_S = 5.0  # aim: a probe of the sampler, its compilation left out
_PROBE_STEPS = 48  # at least, so that short completions are seen to end
_LONGEST_S = 60.0


@dataclasses.dataclass(frozen=True)
class Stage:
    """Chains that a run has still to draw.

    horizon: every stage of a chain runs (stop="horizon").
    endless: completions run to their longest, as those of random weights do.
    """

    name: str
    num_chains: int
    max_new_tokens: int
    block_size: int
    num_mcmc_steps: int = 0
    horizon: bool = False
    endless: bool = False

    def forward_tokens(self, length: float) -> float:
        """Tokens fed to the model in all, for completions of `length` tokens.

        A move draws its cut uniformly, so it proposes half of what is there (Algorithm 2).
        """
        length = min(length, self.max_new_tokens)
        reached = self.max_new_tokens if self.horizon else length
        ends = np.arange(1, math.ceil(reached / self.block_size) + 1) * self.block_size
        proposed = (np.minimum(ends, length) + 1) / 2
        return self.num_chains * (length + self.num_mcmc_steps * float(proposed.sum()))


class Probe(NamedTuple):
    """What a few seconds of sampling showed.

    mean_length: tokens of a completion if nothing cut it off; inf where none of them ended.
    """

    tokens_per_s: float
    num_tokens: int
    seconds: float
    num_slots: int
    mean_length: float

    def length_within(self, most: int) -> float:
        """The mean length of completions that are cut off at `most` tokens."""
        if math.isinf(self.mean_length):
            return float(most)
        return self.mean_length * -math.expm1(-most / self.mean_length)


class Memory(NamedTuple):
    """Bytes on one device.

    slot: two caches of `positions`, a share of the queue of prompts, and logits; a device's part
      where heads are split.
    free: beside what is loaded; None where it is not known.
    rows: of the mesh, among which slots are shared out.
    """

    weights: int
    slot: int
    positions: int
    free: int | None
    rows: int = 1


def memory(lm: LM, longest_prompt: int, max_new_tokens: int) -> Memory:
    """Of a run whose weights are loaded already."""
    leaves = jax.tree.leaves(lm.params)
    weights = sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)
    device = placement.devices(lm)[0]
    lengths = longest_prompt, max_new_tokens
    slot = engine.bytes_per_slot(lm.config, lm.dtype, *lengths, device.platform, lm.mesh)
    free = free_bytes(device)
    return Memory(weights, slot, sum(lengths), free, placement.num_rows(lm))


def probe_sampling(
    lm: LM,
    prompts: Sequence[str],
    *,
    num_samples: int,
    max_new_tokens: int,
    num_slots: int | None = None,
    seconds: float = _PROBE_S,
) -> Probe:
    """Samples plainly for about `seconds`, in the shapes of a run of these prompts.

    One engine is timed for all that a run would start, be they rows of a mesh or threads.
    """
    tokens = [lm.encode(prompt) for prompt in prompts]
    longest = max(map(len, tokens))
    chains = [(p, s) for p in range(len(tokens)) for s in range(num_samples)]
    keys = draws.chain_keys(0, [f"probe-{p}" for p, _ in chains], [s for _, s in chains])
    requests = [engine.Request(p, s, key) for (p, s), key in zip(chains, keys, strict=True)]
    settings = mh.settings(
        1.0,
        None,
        block_size=max_new_tokens,
        num_mcmc_steps=0,
        max_new_tokens=max_new_tokens,
        stop_ids=lm.stop_ids,
        stop="eos",
        early_rejection=True,
        kernel="exact",
        top_k=None,
    )
    if num_slots is None:
        num_slots = engine.pick_num_slots(lm, longest, max_new_tokens, len(chains))
    one, *others = placement.rows(lm)
    count = 1 + len(others) if others else workers.count_workers(one, num_slots)

    def run(on_call) -> tuple[engine.Stats, int]:
        ended = []
        stats = engine.generate(
            one,
            tokens,
            requests,
            settings,
            num_slots=-(-num_slots // count),
            long_context=lm.config.long_context(longest + max_new_tokens),
            on_finish=lambda finished: ended.append(finished.ended),
            on_call=on_call,
        )
        return stats, sum(ended)

    run(lambda stats: False)  # compiles

    def go_on(stats: engine.Stats) -> bool:
        enough = stats.model_steps >= _PROBE_STEPS and stats.wall_s >= seconds
        return not enough and stats.wall_s < _LONGEST_S

    began = time.perf_counter()
    stats, num_ended = run(go_on)
    took = time.perf_counter() - began
    drawn = max(1, stats.num_forward_tokens)
    mean_length = drawn / num_ended if num_ended else math.inf
    return Probe(count * drawn / took, drawn, took, num_slots, mean_length)


def probe_training(
    lm: LM,
    length: int,
    *,
    max_length: int,
    batch_size: int,
    lora_config: LoraConfig | None = None,
    remat: bool = True,
) -> float:
    """Seconds of one training step on examples of `length` tokens, its compilation left out."""
    lora_config = lora_config or LoraConfig()
    length = max(4, min(length, max_length))
    drawn = np.random.default_rng(0).integers(lm.config.vocab_size, size=(batch_size, length))
    cut = length // 4
    examples = [data.Example(str(i), row[:cut], row[cut:]) for i, row in enumerate(drawn.tolist())]
    mesh = lm.mesh or mesh_lib.make_mesh(devices=jax.tree.leaves(lm.params)[0].devices())
    settings = distill.Settings(learning_rate=1e-5, num_steps=2, remat=remat)
    batch = data.make_batch(
        data.Corpus(examples, max_length),
        np.arange(batch_size),
        batch_size=batch_size,
        data_size=mesh.shape["data"],
        sharding=step_lib.batch_sharding(mesh),
    )
    state = step_lib.init_state(lm.config, lora_config, settings, mesh)
    take_step = step_lib.make_step(lm, lora_config, settings, mesh)
    for _ in range(2):  # the first compiles
        began = time.perf_counter()
        state, found = take_step(state, lm.params, batch)
        jax.block_until_ready(found)
        took = time.perf_counter() - began
    del state, batch
    gc.collect()
    return took


def describe(
    stages: Sequence[Stage],
    probe: Probe,
    found: Memory,
    *,
    steps: int = 0,
    step_s: float = 0.0,
) -> list[str]:
    """The plan's lines: memory, a line a stage, and the whole."""
    num_slots = -(-probe.num_slots // found.rows)
    size = _bytes(found.weights + num_slots * found.slot)
    lines = [
        f"memory on each device: weights {_bytes(found.weights)}, and {_bytes(found.slot)} for each"
        f" of {num_slots} slots (two caches of up to {found.positions:,} positions, logits, a share"
        f" of the queue of prompts):"
        f" at most {size}" + ("" if found.free is None else f"; {_bytes(found.free)} are free now"),
        f"probe: {probe.tokens_per_s:,.0f} tokens/s ({probe.num_tokens:,} tokens in"
        f" {probe.seconds:.1f} s); " + _lengths(probe),
        f"{'still to do':28}{'chains':>9}{'forward tokens':>18}{'at most':>18}{'time':>10}",
    ]
    total = most = whole = 0.0
    for stage in stages:
        most_tokens = stage.max_new_tokens
        length = most_tokens if stage.endless else probe.length_within(most_tokens)
        expected, longest = map(stage.forward_tokens, (length, most_tokens))
        took = expected / probe.tokens_per_s
        tokens = f"{expected:>18,.0f}{longest:>18,.0f}"
        lines.append(f"{stage.name:28}{stage.num_chains:>9,}{tokens}{duration(took):>10}")
        total, most, whole = total + expected, most + longest, whole + took
    if steps:
        took, each = steps * step_s, f"{step_s:.2g} s each"
        lines.append(f"{'student':28}{'':>9}{f'{steps:,} steps':>18}{each:>18}{duration(took):>10}")
        whole += took
    lines.append(f"{'in all':28}{'':>9}{total:>18,.0f}{most:>18,.0f}{duration(whole):>10}")
    return lines


def _lengths(probe: Probe) -> str:
    if math.isinf(probe.mean_length):
        return "no completion ended, so all are expected to be as long as they may"
    return f"completions are expected to have {probe.mean_length:,.0f} tokens"


def duration(seconds: float) -> str:
    """`53 s`, `12 min`, `3.4 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _bytes(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 2**10:.3g} KiB"
