"""Programs for TPUs, compiled by libtpu alone: collectives, copies, and the compiler's figures.

The shapes are small. benchmarks/tpu_compile.py says what the real ones need.
"""

import collections
import dataclasses
import functools
import json

import jax
import pytest
from jax.sharding import SingleDeviceSharding

from benchmarks import collectives as collectives_lib
from benchmarks import programs
from powerjax import models
from powerjax.distill import loss
from powerjax.models.lora import LoraConfig
from powerjax.parallel import mesh
from powerjax.plan import hardware, roofline
from powerjax.sample import weights

pytestmark = [pytest.mark.tpu, pytest.mark.usefixtures("optimized")]

# Every size divides by every axis, and no two are equal, so that shapes tell what an array is.
CONFIG = models.ModelConfig(2048, 768, 1536, 2, 8, 4, 128, max_position_embeddings=1024)
LORA = LoraConfig(rank=8)


@pytest.fixture(scope="module")
def chips():
    """Eight chips of a v5e."""
    try:
        return programs.devices("v5e:2x4")
    except programs.Unavailable as error:
        pytest.skip(f"needs libtpu (pip install libtpu, no TPU needed): {error}")


@pytest.fixture(scope="module")
def step(chips):
    """collectives(data, model axis, fsdp) of the compiled training step, compiled once for each."""

    @functools.cache
    def collectives(data, axis, fsdp):
        grid = mesh.make_mesh(axis, data, chips)
        program = programs.distill(CONFIG, grid, fsdp=fsdp, length=256, lora=LORA)
        return program.compile().collectives()

    return collectives


def _shapes(collectives, kind):
    return [shape for item in collectives if item.kind == kind for shape in item.shapes]


def test_tensor_parallel_training_reduces_activations_and_gathers_nothing(step):
    collectives = step(2, 4, False)
    reduced = _shapes(collectives, "all-reduce").count("bf16[1,256,768]")
    # Each layer has two forward, one of them again in recomputation, and two backward. The rest
    # are of the embedding and the loss.
    assert reduced == 5 * CONFIG.num_layers + 2 - 1
    assert {item.kind for item in collectives} == {"all-reduce"}


def test_chunks_of_logits_bring_no_collective(chips, step, monkeypatch):
    whole = step(2, 4, False)
    # A loop of four chunks, in which the tokens that count come first.
    monkeypatch.setattr(loss, "_TOKENS", 16)
    grid = mesh.make_mesh(4, 2, chips)
    chunked = programs.distill(CONFIG, grid, length=256, lora=LORA).compile().collectives()
    counts = [
        {kind: count for kind, (count, _) in collectives_lib.summarize(collectives).items()}
        for collectives in (chunked, whole)
    ]
    assert counts[0] == counts[1]


def test_split_weights_are_gathered_twice_each_and_activations_stay(step):
    collectives = step(8, 1, True)
    c = CONFIG
    gathered = collections.Counter(_shapes(collectives, "all-gather"))
    q, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    each = [(c.hidden_size, q), (c.hidden_size, kv), (c.hidden_size, kv), (q, c.hidden_size)]
    each += [(c.hidden_size, c.intermediate_size)] * 2 + [(c.intermediate_size, c.hidden_size)]
    expected = collections.Counter([f"bf16[{a},{b}]" for a, b in each] * 2 * c.num_layers)
    expected[f"bf16[{c.hidden_size},{c.vocab_size}]"] = 1  # for all chunks, both ways
    # XLA decides where the embedding is looked up. Token ids are int32.
    embedding = f"bf16[{c.vocab_size},{c.hidden_size}]"
    seen = {s: n for s, n in gathered.items() if s.startswith("bf16") and s != embedding}
    assert seen == expected
    assert not _shapes(collectives, "all-to-all")


@pytest.mark.parametrize("num_kv_heads", [4, 8])
def test_the_slot_loop_reduces_twice_a_layer_and_gathers_the_logits(chips, num_kv_heads):
    grid = mesh.make_mesh(4, 2, chips)
    config = dataclasses.replace(CONFIG, num_kv_heads=num_kv_heads)
    program = programs.slot_loop(
        config, grid, programs.chip("v5e:2x4"), prompt=64, max_new_tokens=192, num_slots=16
    )
    compiled = program.compile()
    collectives = compiled.collectives()
    reduced = _shapes(collectives, "all-reduce")
    assert reduced == ["bf16[16,1,768]"] * (2 * CONFIG.num_layers + 1)  # one is the embedding's
    assert _shapes(collectives, "all-gather") == ["f32[16,2048]"]
    assert len(collectives) == len(reduced) + 1
    heads = num_kv_heads // 4
    cache = 2 * 2 * CONFIG.num_layers * heads * 16 * 256 * 128 * 2  # bytes of both on a device
    assert compiled.temporary_bytes < cache / 4  # neither is copied


@pytest.mark.parametrize(("axis", "head_dim"), [(1, 128), (4, 128), (1, 96), (4, 64)])
def test_a_plan_has_the_bytes_of_the_compiled_loop(chips, axis, head_dim, record_property):
    """Bytes of weights and slots as plan/roofline.py counts them, and as libtpu does."""
    num_slots, config = 32, dataclasses.replace(CONFIG, head_dim=head_dim)
    grid = mesh.make_mesh(axis, 8 // axis, chips)
    program = programs.slot_loop(
        config, grid, programs.chip("v5e:2x4"), prompt=64, max_new_tokens=448, num_slots=num_slots
    )
    compiled = program.compile()
    taken = compiled.argument_bytes + compiled.temporary_bytes
    layouts = roofline.layouts(
        config,
        hardware.parse("tpu-v5e:8"),
        longest_prompt=64,
        max_new_tokens=448,
        num_chains=num_slots * 8,
    )
    planned = next(layout for layout in layouts if layout.model_axis == axis)
    planned = planned.weights + num_slots * planned.slot
    about = f"model axis {axis}, heads of {head_dim}"
    record_property(f"{about}: planned over compiled bytes", round(planned / taken, 3))
    assert abs(planned / taken - 1) < 0.1


@pytest.mark.parametrize("head_dim", [64, 96, 128])
def test_an_engine_of_one_chip_speaks_to_no_other(chips, head_dim):
    grid = mesh.make_mesh(1, 8, chips)
    chip = programs.chip("v5e:2x4")
    config = dataclasses.replace(CONFIG, head_dim=head_dim)
    program = programs.slot_loop(config, grid, chip, prompt=64, max_new_tokens=448, num_slots=64)
    compiled = program.compile()
    assert compiled.collectives() == []
    # Several kv heads on a device, and heads narrower than its lanes, have each made the compiler
    # keep the cache in another order than the loop uses.
    cache = 2 * 2 * CONFIG.num_layers * 4 * 64 * 512 * 128 * 2
    assert compiled.temporary_bytes < cache / 16  # neither is copied


@pytest.mark.parametrize(("vocab_size", "top_k"), [(151_936, 20), (32_064, 100)])
def test_a_draw_among_the_top_k_sorts_nothing(chips, vocab_size, top_k):
    place = SingleDeviceSharding(chips[0])
    logits = jax.ShapeDtypeStruct((16, vocab_size), "float32", sharding=place)
    uniforms = jax.ShapeDtypeStruct((16, 2), "float32", sharding=place)
    draw = jax.vmap(lambda row, u: weights.draw_token(row, u, 4.0, 4.0, top_k))
    traced = jax.jit(draw).trace(logits, uniforms)
    program = traced.lower(lowering_platforms=("tpu",)).compile().as_text()
    assert "TopK" in program
    assert "sort(" not in program


def test_prefill_reduces_twice_a_layer(chips):
    grid = mesh.make_mesh(4, 2, chips)
    compiled = programs.prefill(CONFIG, grid, prompt=64).compile()
    # The last layer's MLP is not needed for K/V. The embedding is split as well.
    assert _shapes(compiled.collectives(), "all-reduce") == ["bf16[8,64,768]"] * (
        2 * CONFIG.num_layers - 1
    )


def test_a_program_too_large_for_the_chip_is_refused(chips):
    wide = dataclasses.replace(CONFIG, num_layers=1, vocab_size=2**23)  # 24 GiB on each chip
    grid = mesh.make_mesh(1, 8, chips)
    program = programs.distill(wide, grid, length=256, lora=LORA)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        program.compile()


def test_collectives_are_read_from_the_text():
    text = """
  %all-gather.1 = bf16[64,8]{1,0} all-gather(%p), channel_id=3, replica_groups=[2,4]<=[8]
  %all-gather.9 = bf16[64,8]{1,0} all-gather(%q), channel_id=3, replica_groups=[2,4]<=[8]
  %ar = (f32[4]{0}, f32[2,2]{1,0}) all-reduce(%a, %b), channel_id=4, to_apply=%sum
  %cp = (bf16[8]{0}, bf16[8]{0}, u32[], u32[]) collective-permute-start(%x), channel_id=5
"""
    collectives = collectives_lib.find(text)
    assert collectives_lib.summarize(collectives) == {
        "all-gather": (1, 1024),
        "all-reduce": (1, 32),
        "collective-permute": (1, 16),
    }


@pytest.mark.parametrize("name", programs.MODELS)
def test_the_shapes_are_those_of_the_published_models(name, data_dir):
    (path,) = (data_dir / "configs").glob(f"{name}*.config.json")
    published = models.ModelConfig.from_hf(json.loads(path.read_text()))
    ours = programs.MODELS[name]
    for field in ("rope", "rms_norm_eps", "max_position_embeddings", "sliding_window"):
        published = dataclasses.replace(published, **{field: getattr(ours, field)})
    assert published == ours
