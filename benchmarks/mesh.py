"""Serving chains over the "data" axis of a mesh: one engine per device against one program.

    python -m benchmarks.mesh [--devices=2] [--chains=512] [--num_slots=32]

The same chains are run in three ways on fake devices, which are this machine's cores:

an engine per device: what powerjax does. Each device has a loop of its own, in a thread of its own.
one program, loops apart: `shard_map` over "data". Each device leaves its loop by itself, but the
  host delivers and refills only when the slowest has left it.
one program, one loop: the slots' leading axis is split over "data", and XLA's partitioner does the
  rest. There is one queue and one decision to go on, with the collectives that this takes.

Prompts are prefilled before the clock starts. The times are medians of interleaved passes.
"""

import collections
import dataclasses
import os
import statistics
import threading
import time
from collections.abc import Callable

import jax
import numpy as np
from absl import app, flags
from jax.sharding import NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from benchmarks import collectives
from powerjax import models
from powerjax.parallel import mesh as mesh_lib
from powerjax.sample import draws, mh
from powerjax.sample import slots as slots_lib
from powerjax.sample.feed import Feed
from powerjax.sample.placement import Home
from powerjax.sample.stats import Request
from powerjax.tasks import arithmetic

_DEVICES = flags.DEFINE_integer("devices", 2, "Fake devices; take no more than there are cores.", 1)
_CHAINS = flags.DEFINE_integer("chains", 512, "Chains per device.", 1)
_NUM_SLOTS = flags.DEFINE_integer("num_slots", 32, "Slots per device.", 1)
_STEPS = flags.DEFINE_integer("steps", 300, "Model steps, after which a call returns.", 1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Passes of each way.", 1)

_MAX_NEW_TOKENS = 64
_WINDOW = 128


def main(_):
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", _DEVICES.value)
    print(
        f"{jax.device_count()} devices on {os.cpu_count()} cores, jax {jax.__version__}, load "
        f"{os.getloadavg()[0]:.1f} before the start"
    )
    print(f"{'what':56s} {'chains/s':>9s}  against")
    for sampler, num_mcmc_steps in (("power", 10), ("standard", 0)):
        job = Job.make(num_mcmc_steps)
        ways = {name: way(job) for name, way in WAYS.items()}
        drawn = {name: prepare()() for name, prepare in ways.items()}  # compiles
        seconds = collections.defaultdict(list)
        for _ in range(_REPEATS.value):
            for name, prepare in ways.items():
                run = prepare()
                began = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - began)
        first = next(iter(WAYS))
        for name, times in seconds.items():
            rate = sum(map(len, job.shares)) / statistics.median(times)
            ratio = statistics.median(times) / statistics.median(seconds[first])
            same = sum(drawn[name][chain] == tokens for chain, tokens in drawn[first].items())
            print(
                f"{f'{sampler}, {name}':56s} {rate:9.1f}  {ratio:.2f}x its time "
                f"({min(times):.2f} to {max(times):.2f} s); {same} of {len(drawn[first])} "
                f"completions the same; collectives {COLLECTIVES.get(name, 'none') or 'none'}",
                flush=True,
            )


@dataclasses.dataclass(frozen=True)
class Job:
    """Chains of the embedded model. `shares` has each device's."""

    lm: models.LM
    prompts: list[list[int]]
    shares: list[list[Request]]
    settings: mh.Settings

    @classmethod
    def make(cls, num_mcmc_steps: int) -> "Job":
        lm = models.load("tiny", dtype="float32")
        count = _DEVICES.value * _CHAINS.value
        problems = arithmetic.problems("test", num=count, seed=0)
        keys = draws.chain_keys(0, range(count), [0] * count)
        requests = [Request(i, 0, key) for i, key in enumerate(keys)]
        settings = mh.settings(
            4.0 if num_mcmc_steps else 1.0,
            block_size=_MAX_NEW_TOKENS,
            num_mcmc_steps=num_mcmc_steps,
            max_new_tokens=_MAX_NEW_TOKENS,
            stop_ids=lm.stop_ids,
        )
        prompts = [lm.encode(problem.prompt) for problem in problems]
        shares = [requests[i :: _DEVICES.value] for i in range(_DEVICES.value)]
        return cls(lm, prompts, shares, settings)

    def slots(self, num_slots: int, home: Home) -> slots_lib.Slots:
        return slots_lib.init(
            self.lm.model(), num_slots, _WINDOW, _MAX_NEW_TOKENS, self.settings, home
        )

    def feed(self, lm: models.LM, share: list[Request], home: Home) -> Feed:
        """Returns the feed of a share of the chains, with all its prompts prefilled."""
        count = len(share)
        feed = Feed(lm.model(), lm.variables, self.prompts, share, count, count, home)
        feed.refill()
        return feed


Drawn = dict[int, list[int]]  # tokens by a chain's prompt_index
Prepare = Callable[[], Callable[[], Drawn]]  # prefills, and returns the function that is timed


def engines(job: Job) -> Prepare:
    """Prepares "an engine per device"."""
    places = [SingleDeviceSharding(device) for device in jax.devices()]
    copies = [
        dataclasses.replace(job.lm, params=jax.device_put(job.lm.params, place)) for place in places
    ]

    def part(lm, place, share):
        def call(slots, queue, max_steps):
            return _run(lm, job, slots, queue, max_steps)

        home = Home(place, place)
        return call, job.slots(_NUM_SLOTS.value, home), [job.feed(lm, share, home)], [share]

    def prepare():
        parts = [part(*of) for of in zip(copies, places, job.shares, strict=True)]

        def run() -> Drawn:
            drawn: Drawn = {}
            threads = [
                threading.Thread(target=lambda part=part: drawn.update(_drive(*part)))
                for part in parts
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return drawn

        return run

    return prepare


def loops_apart(job: Job) -> Prepare:
    """Prepares "one program, loops apart"."""
    mesh = mesh_lib.make_mesh()
    split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    lm = dataclasses.replace(job.lm, params=jax.device_put(job.lm.params, whole))

    def apart(variables, slots, queue, max_steps):
        queue = queue._replace(size=queue.size[0])
        slots, results, head = _run(
            dataclasses.replace(lm, params=variables["params"]), job, slots, queue, max_steps
        )
        return slots, results._replace(size=results.size[None]), head[None]

    program = jax.jit(
        jax.shard_map(
            apart,
            mesh=mesh,
            in_specs=(P(), P("data"), P("data"), P()),
            out_specs=P("data"),
            check_vma=False,
        ),
        donate_argnums=1,
    )

    def join(*parts):
        shape = (sum(x.shape[0] for x in parts), *parts[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, split, list(parts))

    def prepare():
        feeds = []
        for device, share in zip(jax.devices(), job.shares, strict=True):
            place = SingleDeviceSharding(device)
            alone = dataclasses.replace(lm, params=jax.device_put(job.lm.params, place))
            feeds.append(job.feed(alone, share, Home(place, place)))
        prefix = jax.tree.map(join, *[feed.queue().prefix for feed in feeds])
        slots = job.slots(_NUM_SLOTS.value * len(feeds), Home(split, split))
        _note("one program, loops apart", program, lm.variables, slots, _stack(feeds, prefix))

        def call(slots, queue, max_steps):
            return program(lm.variables, slots, queue._replace(prefix=prefix), max_steps)

        return lambda: _drive(call, slots, feeds, job.shares)

    return prepare


def one_loop(job: Job) -> Prepare:
    """Prepares "one program, one loop"."""
    mesh = mesh_lib.make_mesh()
    split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    lm = dataclasses.replace(job.lm, params=jax.device_put(job.lm.params, whole))
    share = [request for dealt in zip(*job.shares, strict=True) for request in dealt]

    def together(variables, slots, queue, max_steps):
        of = dataclasses.replace(lm, params=variables["params"])
        return _run(of, job, slots, queue, max_steps)

    program = jax.jit(together, donate_argnums=1, out_shardings=(split, whole, whole))

    def call(slots, queue, max_steps):
        return program(lm.variables, slots, queue, max_steps)

    def prepare():
        feed = job.feed(lm, share, Home(whole, whole))
        slots = job.slots(_NUM_SLOTS.value * _DEVICES.value, Home(split, split))
        _note("one program, one loop", program, lm.variables, slots, feed.queue())
        return lambda: _drive(call, slots, [feed], [share])

    return prepare


def _run(lm: models.LM, job: Job, slots, queue, max_steps):
    none_elsewhere = np.bool_(False)
    slots, results, _, head = slots_lib.run(
        lm.model(), lm.variables, slots, queue, job.settings, max_steps, none_elsewhere
    )
    return slots, results, head


def _drive(call, slots, feeds, shares) -> Drawn:
    """Calls until every chain has ended; the results of each feed lie in a block of their own."""
    drawn, max_steps = {}, np.int32(_STEPS.value)
    while True:
        queue = feeds[0].queue() if len(feeds) == 1 else _stack(feeds)
        slots, results, head = call(slots, queue, max_steps)
        results, head, busy = jax.device_get((results, head, slots.busy))
        heads, counts = np.atleast_1d(head), np.atleast_1d(results.size)
        room = len(results.length) // len(feeds)
        for i, (feed, share) in enumerate(zip(feeds, shares, strict=True)):
            feed.taken(int(heads[i]))
            for row in range(i * room, i * room + counts[i]):
                tokens = results.tokens[row, : results.length[row]].tolist()
                drawn[share[results.request[row]].prompt_index] = tokens
        if not busy.any() and all(feed.is_empty for feed in feeds):
            return drawn


def _stack(feeds, prefix=None) -> slots_lib.Queue:
    queues = [feed.queue()._replace(prefix=None) for feed in feeds]
    queue = jax.tree.map(lambda *x: np.concatenate([np.atleast_1d(y) for y in x]), *queues)
    return queue._replace(prefix=prefix)


def _note(name: str, program, *arguments) -> None:
    """Notes the collectives of a program in COLLECTIVES, once."""
    if name not in COLLECTIVES:
        text = program.lower(*arguments, np.int32(1)).compile().as_text()
        by_kind = collectives.summarize(collectives.find(text)).items()
        COLLECTIVES[name] = ", ".join(f"{count} {kind}" for kind, (count, _) in by_kind)


COLLECTIVES: dict[str, str] = {}
WAYS = {
    "an engine per device": engines,
    "one program, loops apart": loops_apart,
    "one program, one loop": one_loop,
}


if __name__ == "__main__":
    app.run(main)
