"""The training step of power self-distillation: maximum likelihood on samples of pi_alpha (Eq. 16).

Only the adapter is trained; the base weights are an input that gets no gradients. One jitted call
takes one global batch, in G accumulation steps of B rows, and makes one AdamW update. The loss is
the mean over all completion tokens of the global batch, whatever the mesh and the accumulation.

Letters: G accumulation steps, B rows of one of them, T tokens, D model, V vocabulary.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from powerjax.distill.loss import sum_nll
from powerjax.models import LM, lora
from powerjax.models.config import ModelConfig
from powerjax.models.lora import LoraConfig
from powerjax.records import scalars

SCHEDULES = ("constant", "linear")
_LARGEST = 1e30  # float32 computes with numbers up to here without overflow


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of the optimisation. Defaults are the paper's where it gives them.

    Attributes:
      learning_rate: the highest, after the warm-up. The paper's differs by model and task.
      num_steps: how many updates there are in all.
      warmup: the share of num_steps over which the rate rises linearly from 0.
      schedule: what the rate does after the warm-up: it stays "constant", or falls "linear"ly to 0.
        The paper does not say.
      weight_decay: AdamW's.
      max_grad_norm: larger gradients are scaled down to this global norm; None scales none.
      seed: decides the initial adapter, dropout and the order of the data; from 0 to 2**32 - 1.
      remat: compute each layer again in the backward pass, to save memory.
    """

    learning_rate: float
    num_steps: int
    warmup: float = 0.03
    schedule: str = "constant"
    weight_decay: float = 0.01
    max_grad_norm: float | None = None
    seed: int = 0
    remat: bool = True

    def __post_init__(self):
        """Makes all numbers Python's. Raises a one-line ValueError for one that is out of range."""
        numbers = {
            "learning_rate": scalars.real_from("learning_rate", self.learning_rate, 0, _LARGEST),
            "warmup": scalars.real_from("warmup", self.warmup, 0, 1),
            "weight_decay": scalars.real_from("weight_decay", self.weight_decay, 0, _LARGEST),
            "num_steps": scalars.whole_from("num_steps", self.num_steps, 1, 2**31 - 1),
            "seed": scalars.key_seed(self.seed),
        }
        if self.max_grad_norm is not None:
            norm = scalars.real(self.max_grad_norm)
            if norm is None or not 0 < norm <= _LARGEST:
                raise ValueError(
                    f"max_grad_norm is {scalars.shown(self.max_grad_norm)}: it must be above 0;"
                    " leave it out for no clipping"
                )
            numbers["max_grad_norm"] = norm
        for name, number in numbers.items():
            object.__setattr__(self, name, number)


class State(NamedTuple):
    """Everything that a step changes."""

    step: jax.Array  # int32 [], how many updates have been made
    adapter: dict  # float32, the pytree that models/lora/__init__.py describes
    opt_state: optax.OptState


class Batch(NamedTuple):
    """One global batch."""

    tokens: jax.Array  # int32 [G,B,T], right-padded
    completion: jax.Array  # bool [G,B,T], the tokens whose loss counts
    example: jax.Array  # int32 [G,B], the number of each row's example; -1 for an empty row


class Metrics(NamedTuple):
    """The numbers of one update."""

    loss: jax.Array  # float32 [], mean -log p per completion token before the update
    num_tokens: jax.Array  # int32 [], how many completion tokens the batch has
    grad_norm: jax.Array  # float32 [], the gradient's global norm before clipping
    learning_rate: jax.Array  # float32 []


def learning_rate(settings: Settings) -> optax.Schedule:
    """Returns update number -> rate, as transformers' get_constant/linear_schedule_with_warmup."""
    if settings.schedule not in SCHEDULES:
        raise ValueError(f"schedule {settings.schedule!r} is not one of {', '.join(SCHEDULES)}")
    if not 0 <= settings.warmup <= 1:
        raise ValueError(f"warmup is {settings.warmup}: it is a share of the steps, 0 to 1")
    warm = math.ceil(settings.warmup * settings.num_steps)
    peak = settings.learning_rate
    rise = optax.linear_schedule(0.0, peak, max(1, warm))
    fall = optax.constant_schedule(peak)
    if settings.schedule == "linear":
        fall = optax.linear_schedule(peak, 0.0, max(1, settings.num_steps - warm))
    return optax.join_schedules([rise, fall], [warm])


def optimizer(settings: Settings) -> optax.GradientTransformation:
    """Returns AdamW as torch has it, for every tensor of the adapter."""
    adamw = optax.adamw(learning_rate(settings), weight_decay=settings.weight_decay)
    if settings.max_grad_norm is None:
        return adamw
    return optax.chain(optax.clip_by_global_norm(settings.max_grad_norm), adamw)


def abstract_state(config: ModelConfig, lora_config: LoraConfig, settings: Settings, mesh: Mesh):
    """Returns the State's shapes, dtypes and shardings.

    The optimizer's moments are split over the mesh as the adapter's tensors are.
    """
    adapter = lora.shapes(config, lora_config)
    state = State(
        jax.ShapeDtypeStruct((), jnp.int32),
        adapter,
        jax.eval_shape(optimizer(settings).init, adapter),
    )
    places = jax.tree_util.tree_leaves_with_path(lora.shardings(config, lora_config, mesh))
    places = {tuple(part.key for part in path): place for path, place in places}

    def put(path, x):
        keys = tuple(part.key for part in path if isinstance(part, jax.tree_util.DictKey))
        sharding = places.get(keys, NamedSharding(mesh, P()))
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(put, state)


def state_shardings(config: ModelConfig, lora_config: LoraConfig, settings: Settings, mesh: Mesh):
    """Returns the sharding of each part of the State."""
    return jax.tree.map(lambda x: x.sharding, abstract_state(config, lora_config, settings, mesh))


def init_state(
    config: ModelConfig, lora_config: LoraConfig, settings: Settings, mesh: Mesh
) -> State:
    """Returns a fresh adapter and optimizer state, with the same values on every mesh."""
    adapter = lora.init(config, lora_config, seed=settings.seed, mesh=mesh)
    places = state_shardings(config, lora_config, settings, mesh)
    opt_state = jax.jit(optimizer(settings).init, out_shardings=places.opt_state)(adapter)
    step = jax.jit(lambda: jnp.int32(0), out_shardings=places.step)()
    return State(step, adapter, opt_state)


def batch_sharding(mesh: Mesh) -> Batch:
    """Returns the shardings of a Batch: its rows are split over the data axis."""
    rows = NamedSharding(mesh, P(None, "data"))
    return Batch(rows, rows, rows)


def make_step(
    lm: LM,
    lora_config: LoraConfig,
    settings: Settings,
    mesh: Mesh,
    *,
    longest: int | None = None,
):
    """Returns step(state, lm.params, batch) -> (state, Metrics), jitted, for all batch shapes.

    It is compiled once per batch shape. The state is donated.

    Args:
      lm: the model; its `params` are arrays on `mesh`, or ShapeDtypeStructs with shardings on it.
      lora_config: the adapter's rank, scale, dropout and targets.
      settings: the learning rate, its schedule and the rest of the optimisation.
      mesh: the devices to train on.
      longest: tokens of the run's longest example, which choose longrope's factors for every batch;
        None: the width of each batch chooses its own.
    """
    lora.check(lm.config, lora_config)
    places = state_shardings(lm.config, lora_config, settings, mesh)
    everywhere = NamedSharding(mesh, P())
    return jax.jit(
        _update_rule(lm, lora_config, settings, mesh, longest),
        donate_argnums=0,
        in_shardings=(
            places,
            jax.tree.map(lambda x: x.sharding, lm.params),
            batch_sharding(mesh),
        ),
        out_shardings=(places, Metrics(*[everywhere] * len(Metrics._fields))),
        compiler_options=_compiler_options(mesh),
    )


def _update_rule(
    lm: LM, lora_config: LoraConfig, settings: Settings, mesh: Mesh, longest: int | None
) -> Callable[[State, dict, Batch], tuple[State, Metrics]]:
    """Returns the function that `make_step` compiles; the arguments are its own."""
    update = optimizer(settings).update
    rate = learning_rate(settings)

    def step(state: State, params: dict, batch: Batch) -> tuple[State, Metrics]:
        long_context = lm.config.long_context(longest or batch.tokens.shape[-1])
        model = lm.model(long_context, remat=settings.remat).clone(mesh=mesh)
        key = jax.random.fold_in(jax.random.key(settings.seed), state.step)

        def loss(adapter, tokens, completion, example):
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, example)
            dropout = lora.Dropout(keys, lora_config.dropout) if lora_config.dropout else None
            scaled = lora.collection(adapter, lora_config.scale)
            variables = {"params": params, "lora": scaled}
            return sum_nll(model, variables, tokens, completion, dropout, mesh.size)

        def accumulate(total, rows):
            return jax.tree.map(jnp.add, total, gradient(state.adapter, *rows)), None

        # --- the gradient of the sum of -log p, over all accumulation steps ---
        gradient = jax.value_and_grad(loss)
        num_tokens = jnp.sum(batch.completion[..., 1:], dtype=jnp.int32)
        if batch.tokens.shape[0] == 1:
            total = gradient(state.adapter, *(x[0] for x in batch))
        else:
            zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, state.adapter))
            total, _ = jax.lax.scan(accumulate, zero, batch)

        # --- the mean, and the update ---
        mean_nll, grads = jax.tree.map(lambda x: x / jnp.maximum(num_tokens, 1), total)
        with jax.named_scope("adamw"):
            updates, opt_state = update(grads, state.opt_state, state.adapter)
            adapter = optax.apply_updates(state.adapter, updates)
        metrics = Metrics(
            mean_nll,
            num_tokens,
            optax.tree.norm(grads),
            jnp.asarray(rate(state.step), jnp.float32),
        )
        return State(state.step + 1, adapter, opt_state), metrics

    return step


def _compiler_options(mesh: Mesh) -> dict[str, str]:
    """Returns options that have XLA for CPUs order a step's operations by their memory.

    Its default order computes each layer again as soon as it can, and so keeps in memory what
    `Settings.remat` is there to save. Without remat the memory's order is as fast.
    """
    if mesh.devices.flat[0].platform == "cpu":
        return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    return {}
