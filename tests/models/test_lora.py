"""Adapters as a pytree: fresh ones, their place on a mesh, merging, and sampling with them."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from powerjax import models, sample
from powerjax.models import lora
from powerjax.parallel import mesh as mesh_lib
from powerjax.sample import slots, workers

SETTINGS = lora.LoraConfig(rank=4, alpha=8)


def _student(lm, scale=0.1):
    """Returns the model with a random adapter that changes its logits."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: jnp.asarray(scale * rng.standard_normal(x.shape), jnp.float32),
        lora.shapes(lm.config, SETTINGS),
    )
    return dataclasses.replace(lm, adapter=lora.Adapter(SETTINGS, params, "student"))


def _mask(rows=4, rate=0.05, module="layers_0/mlp/up_proj"):
    return lora.Dropout(jax.random.split(jax.random.key(0), rows), rate).mask(module)


def _both(first, second):
    """Returns how far the overlap of two dropped sets is from chance, in standard deviations."""
    return abs((first & second).mean() - 0.05**2) / (0.05**2 / first.size) ** 0.5


def test_dropout_drops_its_share_and_keeps_the_mean():
    mask = _mask()
    dropped = ~np.asarray(mask.kept((4, 200, 301)))
    assert abs(dropped.mean() - 0.05) < 5 * (0.05 * 0.95 / dropped.size) ** 0.5
    np.testing.assert_allclose(mask.gain * (1 - 0.05), 1, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_dropout_keeps_is_scaled_in_full_precision(dtype):
    """Ones through the identity as A and B give 0 or 1 / 0.95, whatever the dtype of x."""
    eye = jnp.eye(6)
    y = lora.low_rank(jnp.ones((4, 50, 6), dtype), eye, eye, jax.lax.Precision.HIGHEST, _mask())
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(np.unique(y), [0, 1 / 0.95], rtol=1e-6)


def test_dropped_numbers_have_nothing_to_do_with_each_other():
    """Neither those of other layers or rows, nor those elsewhere in the row."""
    dropped = ~np.asarray(_mask().kept((4, 200, 301)))
    other = ~np.asarray(_mask(module="layers_1/mlp/up_proj").kept((4, 200, 301)))
    assert _both(dropped, other) < 5
    for i in (1, 2, 3):
        assert _both(dropped[0], dropped[i]) < 5
    flat = dropped.reshape(4, -1)
    for shift in (1, 2, 3, 7, 16, 64, 256, 300, 301, 302, 1024, 4096):
        assert _both(flat[:, shift:], flat[:, :-shift]) < 5, shift
    columns, rows = dropped.mean(axis=(0, 1)), dropped.mean(axis=(0, 2))
    for shares, size in ((columns, 800), (rows, 1204)):
        spread = np.mean((shares - 0.05) ** 2) / (0.05 * 0.95 / size)
        assert abs(spread - 1) < 5 * (2 / len(shares)) ** 0.5


@pytest.mark.parametrize("rate", [None, 0.3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_low_rank_product_has_the_gradients_of_autodiff(rate, dtype):
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.standard_normal((2, 5, 12)), dtype)
    a, b = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((12, 3), (3, 7)))
    weight = jnp.asarray(rng.standard_normal((2, 5, 7)), jnp.float32)
    mask = None if rate is None else _mask(2, rate)
    precision = jax.lax.Precision.HIGHEST

    def plain(x, a, b):
        if mask is not None:
            x, a = jnp.where(mask.kept(x.shape), x, 0), a * mask.gain
        return jnp.matmul(
            jnp.matmul(x.astype(a.dtype), a, precision=precision), b, precision=precision
        )

    def ours(x, a, b):
        return lora.low_rank(x, a, b, precision, mask)

    np.testing.assert_array_equal(ours(x, a, b), plain(x, a, b))
    result, expected = (
        jax.grad(lambda *args, f=f: jnp.vdot(f(*args), weight), argnums=(0, 1, 2))(x, a, b)
        for f in (ours, plain)
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(result, expected)
    chex.assert_trees_all_close(
        result, expected, rtol=1e-5 if dtype == "float32" else 1e-2, atol=1e-5
    )


def test_a_begins_as_peft_draws_it_and_b_at_zero(tiny_qwen):
    wide = dataclasses.replace(tiny_qwen.config, hidden_size=512, intermediate_size=768)
    params = traverse_util.flatten_dict(lora.init(wide, SETTINGS, seed=3), sep="/")
    assert len(params) == 2 * 7 * wide.num_layers
    for path, x in params.items():
        if path.endswith("lora_b"):
            assert not np.any(x)
            continue
        bound = 1 / np.sqrt(x.shape[0])  # kaiming_uniform(a=sqrt 5)
        assert np.abs(x).max() <= bound
        assert abs(float(jnp.std(x)) / (bound / np.sqrt(3)) - 1) < 0.1
        assert abs(float(jnp.mean(x))) < 5 * bound / np.sqrt(3 * x.size)
    firsts = [x.ravel()[:4].tolist() for path, x in params.items() if path.endswith("lora_a")]
    assert len({tuple(x) for x in firsts}) == len(firsts)


def test_a_fresh_adapter_changes_no_logit(tiny_qwen):
    adapter = lora.Adapter(SETTINGS, lora.init(tiny_qwen.config, SETTINGS))
    student = dataclasses.replace(tiny_qwen, adapter=adapter)
    tokens = np.arange(24).reshape(2, 12)
    chex.assert_trees_all_equal(student.logits(tokens), tiny_qwen.logits(tokens))


def test_merge_is_the_adapter_and_unmerge_takes_it_back(tiny_qwen):
    student, tokens = _student(tiny_qwen), np.arange(24).reshape(2, 12)
    merged = student.merged()
    assert np.abs(student.logits(tokens) - tiny_qwen.logits(tokens)).max() > 0.1
    np.testing.assert_allclose(merged.logits(tokens), student.logits(tokens), atol=1e-4)
    back = lora.unmerge(merged.params, student.adapter)
    chex.assert_trees_all_close(back, tiny_qwen.params, atol=1e-6)


def test_adapters_are_told_apart_by_their_tensors_and_merged_from_not_where_that_rounds(tiny_qwen):
    first, second = _student(tiny_qwen), _student(tiny_qwen, scale=0.2)
    half = dataclasses.replace(first, dtype="bfloat16")
    seen = [lm.identity for lm in (tiny_qwen, first, second, half)]
    assert len({tuple(identity.items()) for identity in seen}) == 4
    assert first.merged().identity == seen[1]
    assert {identity["weights"] for identity in seen} == {tiny_qwen.fingerprint}
    assert half.merged().identity == {**seen[3], "adapter_merged": True}
    assert seen[1]["adapter_merged"] is seen[3]["adapter_merged"] is False
    assert seen[0]["adapter_hash"] is None and seen[1]["adapter_hash"] != seen[2]["adapter_hash"]
    moved = dataclasses.replace(first.adapter, name="elsewhere")
    moved = dataclasses.replace(tiny_qwen, adapter=moved)
    assert moved.identity == {**seen[1], "adapter": "elsewhere"}


@pytest.mark.full
@pytest.mark.parametrize("sampler", ["power", "temperature"])
def test_every_sampler_takes_an_adapter_without_a_merge(tiny_qwen, sampler, monkeypatch):
    monkeypatch.setattr(workers, "_with_small_adapter_merged", lambda lm: lm)  # as if it were large
    student = _student(tiny_qwen)
    options = dict(max_new_tokens=12, num_samples=4, num_slots=8, progress=False)
    if sampler.startswith("power"):
        options |= dict(block_size=12, num_mcmc_steps=2)
    draw = getattr(sample, sampler)
    prompts = [[5, 7, 11], [20, 3]]
    result = draw(student, prompts, **options)
    merged = draw(student.merged(), prompts, **options)
    plain = draw(tiny_qwen, prompts, **options)
    assert [c.tokens for c in result] == [c.tokens for c in merged]
    assert [c.tokens for c in result] != [c.tokens for c in plain]
    scores = student.score([prompts[c.prompt_index] for c in result], [c.tokens for c in result])
    for completion, score in zip(result, scores, strict=True):
        np.testing.assert_allclose(completion.log_probs, score, atol=1e-4)


def test_a_small_models_adapter_is_merged_for_the_run(tiny_qwen):
    """The run then uses the base's programs. A large model, or one that rounds, is not merged."""
    student = _student(tiny_qwen)
    options = dict(max_new_tokens=12, num_samples=4, num_slots=8, progress=False)
    merged = sample.standard(student.merged(), [[5, 7, 11], [20, 3]], **options)
    programs = slots.run._cache_size()
    result = sample.standard(student, [[5, 7, 11], [20, 3]], **options)
    assert slots.run._cache_size() == programs
    assert [c.tokens for c in result] == [c.tokens for c in merged]
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), tiny_qwen.params)
    rounded = _student(models.LM(tiny_qwen.config, half, dtype=jnp.bfloat16))
    assert workers._with_small_adapter_merged(rounded) is rounded
    wide = {"x": jnp.zeros(9 << 20)}
    large = dataclasses.replace(student, params=wide)
    assert workers._with_small_adapter_merged(large) is large


def test_a_lies_as_the_rows_of_its_kernel_and_b_as_the_columns(tiny_qwen):
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    places = lora.shardings(tiny_qwen.config, SETTINGS, mesh)["layers_0"]
    specs = jax.tree.map(lambda x: tuple(x.spec), places)
    assert specs["self_attn"]["q_proj"] == {"lora_a": (None, None), "lora_b": (None, "model")}
    assert specs["mlp"]["down_proj"] == {"lora_a": ("model", None), "lora_b": (None, None)}
    mesh_params = lora.init(tiny_qwen.config, SETTINGS, seed=1, mesh=mesh)
    chex.assert_trees_all_equal(mesh_params, lora.init(tiny_qwen.config, SETTINGS, seed=1))


def test_bfloat16_weights_take_a_float32_adapter(tiny_qwen):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), tiny_qwen.params)
    student = _student(models.LM(tiny_qwen.config, half, dtype=jnp.bfloat16))
    tokens = np.arange(24).reshape(2, 12)
    result, exact = student.logits(tokens), _student(tiny_qwen).logits(tokens)
    assert student.merged().params["layers_0"]["mlp"]["up_proj"]["kernel"].dtype == jnp.bfloat16
    assert 1e-3 < float(jnp.abs(result - exact).max()) < 0.15 * float(jnp.abs(exact).max())
