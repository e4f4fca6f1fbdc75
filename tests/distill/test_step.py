"""The training step: against peft and torch, its loss, its dropout, its accumulation."""

import dataclasses
import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from powerjax import distill, models
from powerjax.distill import batches, loss, step
from powerjax.models import causal, lora
from powerjax.parallel import mesh as mesh_lib
from powerjax.records import scalars
from tests import tiny
from tests.golden import cases, training

SETTINGS = step.Settings(
    learning_rate=training.LEARNING_RATE,
    num_steps=training.NUM_STEPS,
    warmup=0.0,
    weight_decay=training.WEIGHT_DECAY,
)
LORA = lora.LoraConfig(training.RANK, training.ALPHA, dropout=0.0)


def _start(lm, mesh, case, seed, lora_config=LORA, settings=SETTINGS):
    """Returns a State with the adapter of tests/golden/training.py."""
    state = step.init_state(lm.config, lora_config, settings, mesh)
    adapter = traverse_util.unflatten_dict(training.adapter(case, seed), sep="/")
    places = step.state_shardings(lm.config, lora_config, settings, mesh).adapter
    return state._replace(adapter=jax.device_put(adapter, places))


def _batch(tokens, completion, accumulation=1):
    """Returns rows [B,T] as a Batch of `accumulation` steps."""
    rows = np.arange(len(tokens), dtype=np.int32)
    split = lambda x: x.reshape(accumulation, -1, *x.shape[1:])  # noqa: E731
    return step.Batch(*map(split, (tokens.astype(np.int32), completion, rows)))


# Gemma 3's windows and norms take six layers, and their compiling 15 seconds.
LONG_LAST = [pytest.param(c, marks=[pytest.mark.full] * (c == "gemma3")) for c in training.CASES]


def _check_training(folder, case, seed, expected, record_property):
    """Asserts the reference's logits, and its losses and adapter after one step and ten."""
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    lm = models.load(folder, dtype="float32", mesh=mesh)
    state = _start(lm, mesh, case, seed)
    adapted = models.LM(lm.config, lm.params, adapter=lora.Adapter(LORA, state.adapter))
    all_batches = training.batches(seed)
    logits = np.asarray(adapted.logits(all_batches[0][0]))
    worst_logit = np.abs(logits - expected["logits"]).max()
    record_property("max|dlogit|", f"{worst_logit:.1e}")
    assert worst_logit <= 1e-4
    run, worst = step.make_step(lm, LORA, SETTINGS, mesh), {}
    for i, (tokens, completion) in enumerate(all_batches, start=1):
        state, metrics = run(state, lm.params, _batch(tokens, completion, accumulation=2))
        if f"{i}/loss" in expected:
            np.testing.assert_allclose(metrics.loss, expected[f"{i}/loss"], rtol=1e-5)
            adapter = traverse_util.flatten_dict(jax.device_get(state.adapter), sep="/")
            # The error is relative to how far a tensor has come, which is stricter than its size.
            start = training.adapter(case, seed)
            worst[i] = max(
                np.linalg.norm(x - expected[f"{i}/{path}"]) / np.linalg.norm(x - start[path])
                for path, x in adapter.items()
            )
    record_property(
        "relative error of the change", ", ".join(f"step {i} {e:.1e}" for i, e in worst.items())
    )
    assert len(worst) == 2 and max(worst.values()) <= 1e-4


@pytest.mark.parametrize("case", LONG_LAST)
def test_one_and_ten_adamw_steps_are_those_of_peft(case, tmp_path, record_property):
    cases.write_checkpoint(case, tmp_path, 0)
    with np.load(cases.GOLDEN / f"lora_{case}.npz") as expected:
        _check_training(tmp_path, case, 0, expected, record_property)


@pytest.mark.parametrize("case", [*training.CASES, "llama3", "qwen3", "mistral_window", "olmo2"])
def test_one_and_ten_adamw_steps_are_those_of_peft_live(case, tmp_path, record_property, parity):
    cases.write_checkpoint(case, tmp_path, 3)
    expected = training.reference(case, tmp_path, 3)
    _check_training(tmp_path, case, 3, expected, record_property)


@pytest.fixture(scope="module")
def one():
    """A mesh of one device."""
    return mesh_lib.make_mesh(devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def rows():
    """Eight rows of 24 tokens with completions of unequal lengths: (tokens, completion)."""
    return training.batches(5)[0]


SMALL = lora.LoraConfig(rank=4, alpha=8, dropout=0.0)
DROPPING = lora.LoraConfig(rank=4, alpha=8, dropout=0.3)
ADAM = step.Settings(learning_rate=1e-2, num_steps=10, warmup=0.0, remat=False)


@functools.cache
def _make_step(lm, lora_config, settings, mesh):
    return step.make_step(lm, lora_config, settings, mesh)


def _trained(lm, mesh, batch, lora_config=SMALL, number=0, run=None):
    """Returns (State, Metrics) after update `number` of one batch. The adapter's B is not zero."""
    state = step.init_state(lm.config, lora_config, ADAM, mesh)
    adapter = jax.tree.map(lambda x: x + 0.05, state.adapter)
    state = state._replace(adapter=adapter, step=state.step + number)
    run = run or _make_step(lm, lora_config, ADAM, mesh)
    return run(state, lm.params, batch)


def _change(state, other):
    """Returns the largest relative distance of two adapters' tensors."""
    return max(
        float(jnp.linalg.norm(a - b) / jnp.linalg.norm(a))
        for a, b in zip(jax.tree.leaves(state.adapter), jax.tree.leaves(other.adapter), strict=True)
    )


def test_the_loss_is_the_mean_over_the_completion_tokens_of_the_batch(tiny_qwen, one, rows):
    tokens, completion = rows
    _, metrics = _trained(tiny_qwen, one, _batch(tokens, completion))
    state = step.init_state(tiny_qwen.config, SMALL, ADAM, one)
    adapter = lora.Adapter(SMALL, jax.tree.map(lambda x: x + 0.05, state.adapter))
    lm = models.LM(tiny_qwen.config, tiny_qwen.params, adapter=adapter)
    logits = np.asarray(lm.logits(tokens), np.float64)
    log_probs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    log_probs = np.take_along_axis(log_probs[:, :-1], tokens[:, 1:, None], -1)[..., 0]
    np.testing.assert_allclose(metrics.loss, -log_probs[completion[:, 1:]].mean(), rtol=1e-5)
    assert metrics.num_tokens == completion[:, 1:].sum()


def test_longrope_factors_are_chosen_by_the_run_not_by_a_batch(one, tmp_path):
    """Rows of 12 tokens, the context beyond 16 being long: alone, and beside one of 40."""
    lm = models.load(cases.write_checkpoint("phi3_longrope_long", tmp_path), dtype="float32")
    tokens = np.random.default_rng(2).integers(3, lm.config.vocab_size, (8, 12))
    completion = np.tile(np.arange(12) >= 6, (8, 1))
    losses = {}
    for longest in (None, 40):
        state = step.init_state(lm.config, SMALL, ADAM, one)
        run = step.make_step(lm, SMALL, ADAM, one, longest=longest)
        losses[longest] = run(state, lm.params, _batch(tokens, completion))[1].loss
        scores = lm.score(tokens[:, :6], tokens[:, 6:], long_context=longest is not None)
        np.testing.assert_allclose(losses[longest], -np.mean(scores), rtol=1e-5)
    assert abs(losses[None] / losses[40] - 1) > 1e-3


@pytest.mark.full
def test_accumulation_padding_and_order_change_nothing(tiny_qwen, one, rows):
    tokens, completion = rows
    batch = _batch(tokens, completion)
    state, metrics = _trained(tiny_qwen, one, batch, DROPPING)
    wider = np.pad(tokens, ((0, 0), (0, 8))), np.pad(completion, ((0, 0), (0, 8)))
    empty = _batch(np.concatenate([tokens, tokens]), np.concatenate([completion, 0 * completion]))
    turned = jax.tree.map(lambda x: x[:, ::-1], batch)
    others = {
        "four steps of two": _batch(tokens, completion, 4),
        "wider": _batch(*wider),
        "empty rows": empty._replace(example=np.r_[:8, [-1] * 8].astype(np.int32)[None]),
        "turned": turned,
    }
    for name, other in others.items():
        again, other_metrics = _trained(tiny_qwen, one, other, DROPPING)
        np.testing.assert_allclose(other_metrics.loss, metrics.loss, rtol=1e-5, err_msg=name)
        assert other_metrics.num_tokens == metrics.num_tokens
        assert _change(state, again) < 1e-5, name


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_token_that_training_never_feeds_may_be_damaged(one, value):
    """The id that pads rows, fills a short batch, and ends completions (the last is not fed)."""
    lm = tiny.random_lm(tiny.config(tie_word_embeddings=False), mesh=one)
    table = lm.params["embed_tokens"]["embedding"].at[0].set(value)
    embed = {"embed_tokens": {"embedding": table}}
    damaged = dataclasses.replace(lm, params={**lm.params, **embed})
    rows = ([5, 6, 7], [8, 9, 0]), ([11], [12] * 20 + [0]), ([13] * 9, [14])
    examples = [distill.Example(str(i), *row) for i, row in enumerate(rows)]
    batch = batches.make_batch(
        distill.Corpus(examples, 64), np.arange(3), batch_size=8, data_size=1, tokens_per_device=64
    )
    assert batch.tokens.shape[0] == 4  # two steps of the four have no example at all
    run = step.make_step(lm, SMALL, ADAM, one)
    (state, metrics), (again, other) = (_trained(x, one, batch, run=run) for x in (lm, damaged))
    assert np.isfinite(metrics.loss) and other.loss == metrics.loss
    assert _change(state, again) == 0


def test_dropout_goes_by_step_and_example(tiny_qwen, one, rows):
    tokens, completion = rows
    batch = _batch(tokens, completion)
    others = batch._replace(example=batch.example + 8)
    tries = ((batch, 0), (batch, 1), (others, 0), (batch, 0))
    losses = [float(_trained(tiny_qwen, one, b, DROPPING, n)[1].loss) for b, n in tries]
    plain = float(_trained(tiny_qwen, one, batch)[1].loss)
    assert losses[0] == losses[3]
    assert len({losses[0], losses[1], losses[2], plain}) == 4


@pytest.mark.full
def test_recomputation_blocks_and_chunks_change_no_gradient(tiny_qwen, one, rows, monkeypatch):
    batch = _batch(*rows)
    state, metrics = _trained(tiny_qwen, one, batch, DROPPING)
    remat = dataclasses.replace(ADAM, remat=True)
    with monkeypatch.context() as patch:
        patch.setattr(causal, "_BLOCK", 12)  # two blocks of queries, recomputed like the rest
        again, _ = _trained(
            tiny_qwen, one, batch, DROPPING, run=step.make_step(tiny_qwen, DROPPING, remat, one)
        )
    assert _change(state, again) < 1e-5
    monkeypatch.setattr(loss, "_TOKENS", 8 * 6)
    chunked, by_chunks = _trained(
        tiny_qwen, one, batch, DROPPING, run=step.make_step(tiny_qwen, DROPPING, ADAM, one)
    )
    np.testing.assert_allclose(by_chunks.loss, metrics.loss, rtol=1e-6)
    assert _change(state, chunked) < 1e-5


@pytest.mark.full
def test_recomputation_keeps_less(one, record_property):
    """Also where XLA's default order would undo it, on CPUs."""
    lm = tiny.random_lm(tiny.config(num_layers=5), seed=0)
    row = np.zeros((1, 16, 32), np.int32)
    batch = step.Batch(row, row == 0, np.zeros((1, 16), np.int32))
    num_bytes = {}
    for remat in (True, False):
        settings = dataclasses.replace(ADAM, remat=remat)
        state = step.init_state(lm.config, SMALL, settings, one)
        compiled = step.make_step(lm, SMALL, settings, one).lower(state, lm.params, batch).compile()
        num_bytes[remat] = compiled.memory_analysis().temp_size_in_bytes
    record_property(
        "MB of temporaries with recomputation, without",
        f"{num_bytes[True] / 1e6:.1f}, {num_bytes[False] / 1e6:.1f}",
    )
    assert num_bytes[True] < 0.6 * num_bytes[False]


def test_clipping_to_nothing_is_refused():
    with pytest.raises(ValueError, match=r"max_grad_norm is 0\.0: .* leave it out"):
        step.optimizer(step.Settings(1.0, num_steps=1, max_grad_norm=0.0))


@pytest.mark.parametrize(
    "numbers",
    [
        dict(seed=2**32),  # jax.random.key would draw what it draws for 0
        dict(seed=-1),
        dict(seed=2**64),
        dict(seed=1.0),
        dict(learning_rate=math.nan),
        dict(learning_rate=1e39),
        dict(learning_rate="1e-4"),
        dict(warmup=math.nan),
        dict(warmup=1.5),
        dict(weight_decay=math.inf),
        dict(max_grad_norm=math.nan),
        dict(max_grad_norm=-1),
        dict(num_steps=0),
        dict(num_steps=2**31),
        dict(num_steps=10.0),
    ],
)
def test_settings_out_of_range_are_one_line(numbers):
    ((name, value),) = numbers.items()
    with pytest.raises(ValueError, match=f"^{name} is ") as error:
        step.Settings(**{"learning_rate": 1.0, "num_steps": 10, **numbers})
    assert scalars.shown(value) in str(error.value) and "\n" not in str(error.value)


def test_settings_take_numbers_of_numpy():
    of_numpy = step.Settings(np.float64(0.5), np.int64(10), seed=np.uint32(2**32 - 1))
    assert of_numpy == step.Settings(0.5, 10, seed=2**32 - 1)
    assert [type(of_numpy.learning_rate), type(of_numpy.num_steps)] == [float, int]


@pytest.mark.parametrize("schedule", step.SCHEDULES)
def test_the_rate_is_that_of_transformers(schedule, parity):
    import torch
    from transformers import get_scheduler

    settings = step.Settings(2e-4, num_steps=123, schedule=schedule)
    name = "linear" if schedule == "linear" else "constant_with_warmup"
    optimizer = torch.optim.AdamW([torch.zeros(1)], lr=2e-4)
    theirs = get_scheduler(name, optimizer, num_warmup_steps=4, num_training_steps=123)
    rate = step.learning_rate(settings)
    for i in range(123):
        np.testing.assert_allclose(rate(i), theirs.get_last_lr()[0], rtol=1e-5, atol=1e-12)
        optimizer.step()
        theirs.step()


def test_the_rate_rises_over_the_warm_up_and_then_stays_or_falls():
    constant = step.learning_rate(step.Settings(1.0, num_steps=100, warmup=0.04))
    linear = step.learning_rate(step.Settings(1.0, num_steps=100, warmup=0.04, schedule="linear"))
    np.testing.assert_allclose([constant(i) for i in (0, 1, 2, 4, 99)], [0, 0.25, 0.5, 1, 1])
    np.testing.assert_allclose([linear(i) for i in (0, 2, 4, 52, 100)], [0, 0.5, 1, 0.5, 0])


def test_clipping_acts_on_the_norm_of_all_gradients():
    settings = step.Settings(1.0, num_steps=1, max_grad_norm=0.5, weight_decay=0.0)
    grads = {"a": jnp.full(3, 2.0), "b": jnp.full(3, 1.0)}
    clipped, _ = optax.clip_by_global_norm(0.5).update(grads, optax.EmptyState())
    state = step.optimizer(settings).init(grads)
    _, after = step.optimizer(settings).update(grads, state, grads)
    (mu,) = [
        x.mu for x in jax.tree.leaves(after, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(x, "mu")
    ]
    chex.assert_trees_all_close(mu, jax.tree.map(lambda x: 0.1 * x, clipped), rtol=1e-6)


def test_one_compilation_a_shape_and_the_base_stays_as_it_was(tiny_qwen, one, rows):
    before = jax.tree.map(np.array, tiny_qwen.params)
    run = step.make_step(tiny_qwen, SMALL, ADAM, one)
    state = step.init_state(tiny_qwen.config, SMALL, ADAM, one)
    for accumulation in (1, 1, 2, 1, 2):
        state, _ = run(state, tiny_qwen.params, _batch(*rows, accumulation))
    assert run._cache_size() == 2
    assert state.step == 5
    chex.assert_trees_all_equal(before, jax.tree.map(np.array, tiny_qwen.params))


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"rank": 0}, "rank is 0"),
        ({"rank": 64}, "rank 64 is larger than self_attn/q_proj, a matrix of 32 x 32"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"target_modules": ("qkv_proj",)}, "'qkv_proj'"),
        ({"target_modules": ()}, "no target modules"),
    ],
)
def test_an_adapter_that_does_not_fit_is_one_line(tiny_qwen, one, changes, part):
    with pytest.raises(ValueError, match=part) as caught:
        step.make_step(tiny_qwen, lora.LoraConfig(**changes), ADAM, one)
    assert "\n" not in str(caught.value)
