"""What a few seconds of sampling or training show of a run: its speed, its lengths, its memory."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from powerjax import distill
from powerjax.distill import batches
from powerjax.distill import step as step_lib
from powerjax.models import LM
from powerjax.models.lora import LoraConfig
from powerjax.parallel import mesh as mesh_lib
from powerjax.sample import draws, engine, placement, shapes, spec, workers
from powerjax.sample import memory as memory_lib
from powerjax.sample.stats import Request, Stats

# After compilation, a probe of the sampler runs for at least this many seconds and model steps. The
# steps are enough for short completions to end. It stops after _LONGEST_S in any case.
_PROBE_S = 5.0
_PROBE_STEPS = 48
_LONGEST_S = 60.0


class Probe(NamedTuple):
    """What a few seconds of sampling showed.

    Attributes:
      tokens_per_s: tokens fed to the model per second, by all engines that a run would start.
      num_tokens: how many tokens the engine that was timed fed to the model.
      seconds: how long it took.
      num_slots: chains that advance at a time, over all engines.
      mean_length: tokens per completion if nothing cut it off; inf where no completion ended.
    """

    tokens_per_s: float
    num_tokens: int
    seconds: float
    num_slots: int
    mean_length: float

    def length_within(self, most: int) -> float:
        """Returns the mean length of completions that are cut off at `most` tokens.

        Lengths are taken to be exponential, that is, a completion is as likely to end at one token
        as at any other.
        """
        if math.isinf(self.mean_length):
            return float(most)
        return self.mean_length * -math.expm1(-most / self.mean_length)


class Memory(NamedTuple):
    """What a run takes of one device's memory.

    Attributes:
      weights: bytes of the weights.
      slot: bytes per slot: two caches, a share of the queue of prompts, and logits. Where heads are
        split over devices, this is one device's part.
      positions: how many tokens a cache of a slot holds.
      free: bytes that are free beside what is loaded; None where that is not known.
      rows: rows of the mesh, among which the slots of a run are shared out.
    """

    weights: int
    slot: int
    positions: int
    free: int | None
    rows: int = 1


def memory(lm: LM, longest_prompt: int, max_new_tokens: int) -> Memory:
    """Returns the memory of a run whose weights are loaded already.

    longest_prompt, max_new_tokens: the most tokens of a prompt and of a completion.
    """
    leaves = jax.tree.leaves(lm.params)
    weights = sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)
    device = placement.devices(lm)[0]
    lengths = longest_prompt, max_new_tokens
    slot = shapes.bytes_per_slot(lm.config, lm.dtype, *lengths, device.platform, lm.mesh)
    free = memory_lib.free_bytes(device)
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
    """Samples without MH moves for about `seconds`, in the shapes of a run of these prompts.

    A run may start several engines, one per row of a mesh or per thread. Only one is timed, and its
    speed is multiplied by their number.

    Args:
      prompts: the texts of the run's prompts.
      num_samples: chains per prompt.
      max_new_tokens: the longest completion.
      num_slots: chains that advance at a time, over all engines; None: as many as a run would pick.
      seconds: how long to sample, compilation left out.
    """
    tokens = [lm.encode(prompt) for prompt in prompts]
    longest = max(map(len, tokens))
    chains = [(p, s) for p in range(len(tokens)) for s in range(num_samples)]
    keys = draws.chain_keys(0, [f"probe-{p}" for p, _ in chains], [s for _, s in chains])
    requests = [Request(p, s, key) for (p, s), key in zip(chains, keys, strict=True)]
    settings = spec.Standard(max_new_tokens=max_new_tokens).kernel_settings(lm.stop_ids)
    if num_slots is None:
        num_slots = memory_lib.pick_num_slots(lm, longest, max_new_tokens, len(chains))
    row, *others = placement.rows(lm)
    num_engines = 1 + len(others) if others else workers.count_workers(row, num_slots)

    def run(on_call) -> tuple[Stats, int]:
        ended = []
        stats = engine.generate(
            row,
            tokens,
            requests,
            settings,
            num_slots=-(-num_slots // num_engines),
            long_context=lm.config.long_context(longest + max_new_tokens),
            on_finish=lambda finished: ended.append(finished.ended),
            on_call=on_call,
        )
        return stats, sum(ended)

    run(lambda stats: False)  # compiles; ends after the first call of the slots

    def go_on(stats: Stats) -> bool:
        enough = stats.model_steps >= _PROBE_STEPS and stats.wall_s >= seconds
        return not enough and stats.wall_s < _LONGEST_S

    began = time.perf_counter()
    stats, num_ended = run(go_on)
    elapsed = time.perf_counter() - began
    num_tokens = max(1, stats.num_forward_tokens)
    # The maximum-likelihood estimate, if a completion is as likely to end at one token as at any.
    mean_length = num_tokens / num_ended if num_ended else math.inf
    speed = num_engines * num_tokens / elapsed
    return Probe(speed, num_tokens, elapsed, num_slots, mean_length)


def probe_training(
    lm: LM,
    length: int,
    *,
    max_length: int,
    batch_size: int,
    lora_config: LoraConfig | None = None,
    remat: bool = True,
) -> float:
    """Returns the seconds that one training step takes, without its compilation.

    Args:
      lm: the base model.
      length: tokens per example, of prompt and completion.
      max_length: the most tokens that an example of the run may have.
      batch_size: examples per step.
      lora_config: the adapter's shape; None for the defaults.
      remat: whether activations are computed again in the backward pass.
    """
    lora_config = lora_config or LoraConfig()
    length = max(4, min(length, max_length))
    drawn = np.random.default_rng(0).integers(lm.config.vocab_size, size=(batch_size, length))
    cut = length // 4
    examples = [
        distill.Example(str(i), row[:cut], row[cut:]) for i, row in enumerate(drawn.tolist())
    ]
    mesh = lm.mesh or mesh_lib.make_mesh(devices=jax.tree.leaves(lm.params)[0].devices())
    settings = distill.Settings(learning_rate=1e-5, num_steps=2, remat=remat)
    batch = batches.make_batch(
        distill.Corpus(examples, max_length),
        np.arange(batch_size),
        batch_size=batch_size,
        data_size=mesh.shape["data"],
        sharding=step_lib.batch_sharding(mesh),
    )
    state = step_lib.init_state(lm.config, lora_config, settings, mesh)
    take_step = step_lib.make_step(lm, lora_config, settings, mesh)
    for _ in range(2):  # the first step compiles
        began = time.perf_counter()
        state, metrics = take_step(state, lm.params, batch)
        jax.block_until_ready(metrics)
        elapsed = time.perf_counter() - began
    del state, batch
    gc.collect()
    return elapsed
