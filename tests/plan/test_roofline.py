"""What a model takes of chips that are not here, held against what the engine does with them."""

import dataclasses
import math
from unittest import mock

import jax
import jax.numpy as jnp
import pytest

from powerjax import models
from powerjax.models.cache import bytes_per_token
from powerjax.plan import hardware, roofline
from powerjax.sample import memory, shapes
from tests.models import published

SEVEN_B = models.ModelConfig(152_064, 3584, 18_944, 28, 28, 4, 128)
JOB = {"longest_prompt": 1024, "max_new_tokens": 3072, "num_chains": 500}


def test_the_memory_is_that_of_weights_caches_and_buffers():
    machine = hardware.parse("a100-40gb:8")
    one, two, four, eight = roofline.layouts(SEVEN_B, machine, **JOB)
    assert [x.model_axis for x in (one, two, four, eight)] == [1, 2, 4, 8]
    assert one.weights == 2 * 7_615_616_512  # the published number of parameters
    assert one.weights / 4 < four.weights < one.weights / 4 * 1.01  # norms are whole
    # Four kv heads do not divide by eight: attention and caches are whole on every device.
    assert eight.slot == one.slot > 3.5 * four.slot
    assert eight.weights > one.weights / 8 * 1.5
    for layout in (one, two, four, eight):
        assert layout.weights + layout.buffers + layout.num_slots * layout.slot <= layout.room
        assert layout.room == int(0.95 * machine.chip.memory_bytes)
        assert layout.all_slots <= 512


@pytest.mark.parametrize(
    ("name", "matrices", "vectors", "read"),
    [
        # Of a layer: q and o, k and v, the feed-forward; its norms and those of q and k. Then the
        # final norm, and the embeddings, twice where they are not the head as well.
        ("Qwen3-8B", 36 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 12_288), 36 * 2 * 128, 1),
        ("Llama-3.1-8B", 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14_336), 0, 1),
        (
            "gemma-3-12b",
            48 * (2 * 3840 * 4096 + 2 * 3840 * 2048 + 3 * 3840 * 15_360),
            48 * (2 * 3840 + 2 * 256),
            0,
        ),
    ],
)
def test_published_models_of_other_families_are_counted(name, matrices, vectors, read):
    """Weights, caches and products, where a head is not D / N wide and q and k have norms."""
    c = models.ModelConfig.from_hf(published.CONFIGS[name])
    head = c.vocab_size * c.hidden_size
    vectors += (2 * c.num_layers + 1) * c.hidden_size
    machine = hardware.parse("h200:1")
    (layout,) = roofline.layouts(c, machine, **JOB)
    assert layout.weights == 2 * (matrices + vectors + head * (1 + read))
    cache = bytes_per_token(c, "bfloat16", "gpu")
    kv = {"Qwen3-8B": 36 * 8 * 128, "Llama-3.1-8B": 32 * 8 * 128, "gemma-3-12b": 48 * 8 * 256}[name]
    assert cache == 2 * 2 * kv
    length = 4096
    moved = 2 * (matrices + vectors + head) + layout.num_slots * (
        length * cache + shapes.LOGIT_ROWS * 4 * c.vocab_size
    )
    scores = 4 * c.num_layers * c.num_heads * c.head_dim * length
    flops = layout.num_slots * (2 * (matrices + head) + scores)
    assert layout.step_s == pytest.approx(machine.chip.roofline_s(flops, moved), rel=1e-6)
    student = roofline.training(c, machine, length=1024, batch_size=8)
    scores = 2 * c.num_layers * c.num_heads * c.head_dim * 1024
    expected = machine.chip.bf16_flops / (3 * (2 * (matrices + head) + scores))
    assert student.tokens_per_s == pytest.approx(expected, rel=1e-6)


def test_slots_are_those_the_engine_would_take():
    """On a device with that much free memory, for every chip and number of devices per copy."""
    for text in ("a100-40gb:1", "h100-80gb:8", "tpu-v5e:8", "tpu-v4:32"):
        machine = hardware.parse(text)
        for layout in roofline.layouts(SEVEN_B, machine, **JOB | {"num_chains": 1 << 20}):
            free = layout.room - layout.weights - layout.buffers
            if free < layout.slot:
                assert layout.num_slots == 0
                continue
            platform = "tpu" if machine.is_tpu else "gpu"
            fit = shapes.count_fitting(free, layout.slot, platform)
            assert layout.num_slots == fit


def test_slots_are_counted_in_eights_and_fewer_than_eight_one_by_one():
    """127 of 240 + 3,072 tokens fit an H100 beside a model of 7.6 B."""
    job = {"longest_prompt": 240, "max_new_tokens": 3072, "num_chains": 1 << 20}
    (layout,) = roofline.layouts(SEVEN_B, hardware.parse("h100-80gb:1"), **job)
    free = layout.room - layout.weights - layout.buffers
    assert int(0.8 * free / layout.slot) == 127 and layout.num_slots == 120
    counts = [shapes.count_fitting(10 * n, 8, "gpu") for n in (1, 5, 7, 8, 15, 17, 127, 255, 999)]
    assert counts == [1, 5, 7, 8, 8, 16, 120, 248, 256]
    assert shapes.count_fitting(-1, 8, "gpu") == shapes.count_fitting(0, 8, "cpu") == 1


def test_no_engine_gets_more_slots_than_its_share_of_the_chains():
    slots = {1: 1, 2: 2, 3: 4, 7: 8, 8: 8, 9: 16, 40: 40, 100: 104}
    assert {n: shapes.slots_for(n) for n in slots} == slots
    machine = hardware.parse("h200:8")
    for chains, slots in ((100, 16), (8, 1), (320, 40)):
        layouts = roofline.layouts(SEVEN_B, machine, **JOB | {"num_chains": chains})
        assert layouts[0].num_slots == slots


def test_a_slot_is_counted_as_the_engine_counts_it(tiny_qwen):
    counted = {}

    def fake(free, per_slot, platform):
        counted["slot"] = per_slot
        return 1

    with mock.patch.object(shapes, "count_fitting", fake):
        memory.pick_num_slots(tiny_qwen, 20, 40, 100)
    (layout,) = roofline.layouts(
        tiny_qwen.config,
        hardware.parse("h200:1"),
        longest_prompt=20,
        max_new_tokens=40,
        num_chains=4,
        dtype="float32",
    )
    assert layout.slot == counted["slot"]
    assert layout.weights == sum(x.nbytes for x in jax.tree.leaves(tiny_qwen.params))


def test_a_step_reads_weights_and_caches_once_at_the_roofline():
    """By hand, for a model without any replication, on one device and on four."""
    config = models.ModelConfig(1024, 256, 512, 2, 8, 8, 32, qkv_bias=False)
    machine = hardware.parse("h200:4")
    job = {"longest_prompt": 64, "max_new_tokens": 192, "num_chains": 64}
    one, _, four = roofline.layouts(config, machine, **job)
    layer = 4 * 256 * 256 + 3 * 256 * 512
    matrices = 2 * layer + 256 * 1024  # and the head; the embedding's table is not read
    norms = 5 * 256
    slots = one.num_slots
    assert slots == 16  # of 64 chains on four engines
    cache = slots * (2 * 2 * 256 * 256 * 2)
    logits = slots * 6 * 4 * 1024
    moved = 2 * (matrices + norms) + cache + logits
    products = slots * (2 * matrices + 4 * 2 * 256 * 256)
    chip = machine.chip
    expected = max(moved / chip.bandwidth, products / chip.bf16_flops)
    assert one.step_s == pytest.approx(expected, rel=1e-6)
    assert one.tokens_per_s == pytest.approx(4 * slots / expected)
    slots = four.num_slots
    assert slots == 64
    moved = 2 * (matrices / 4 + norms) + 4 * cache / 4 + 4 * logits
    expected = moved / chip.bandwidth + 6 * roofline._HOP_S  # two per layer, embedding and logits
    assert four.step_s == pytest.approx(expected, rel=1e-6)


def test_no_chain_ends_before_its_own_tokens():
    (layout,) = roofline.layouts(SEVEN_B, hardware.parse("h200:1"), **JOB)
    per_chain = 9_000
    assert layout.seconds(1, per_chain) == pytest.approx(per_chain * layout.step_s)
    many = 100 * layout.all_slots
    expected = 100 * per_chain * layout.step_s
    assert layout.seconds(many, many * per_chain) == pytest.approx(expected)
    assert layout.seconds(0, 0) == 0


def test_the_fastest_layout_with_room_is_best_and_none_is_an_error():
    machine = hardware.parse("tpu-v5e:8")
    layouts = roofline.layouts(SEVEN_B, machine, **JOB)
    assert layouts[0].num_slots == 0  # 14.2 GiB of weights on 15.75 GiB
    chosen = roofline.best(layouts)
    assert chosen.tokens_per_s == max(layout.tokens_per_s for layout in layouts)
    wide = dataclasses.replace(SEVEN_B, num_layers=280)
    with pytest.raises(ValueError, match=r"does not fit: with 1 devices per copy, each needs 12\d"):
        roofline.best(roofline.layouts(wide, hardware.parse("a100-40gb:1"), **JOB))


def test_the_student_is_split_no_more_than_it_must():
    student = roofline.training(SEVEN_B, hardware.parse("a100-40gb:1"))
    assert (student.data_axis, student.model_axis, student.fsdp, student.fits) == (
        1,
        1,
        False,
        True,
    )
    # rank 16 on all seven: 40.4 M parameters in float32, and two moments
    assert student.adapter == 3 * 4 * 40_370_176
    student = roofline.training(SEVEN_B, hardware.parse("tpu-v5e:8"))
    assert student.fits and student.model_axis > 1
    whole = roofline.training(SEVEN_B, hardware.parse("tpu-v6e:64"), model_axis=4)
    assert (whole.data_axis, whole.batch_size) == (16, 16)  # a slice is used whole
    for text, data in (("a100-40gb:6", 4), ("a100-40gb:24", 8), ("a100-40gb:3", 2)):
        divided = roofline.training(SEVEN_B, hardware.parse(text))
        assert (divided.data_axis, divided.batch_size) == (data, 8)  # rows divide the batch
    odd = roofline.training(SEVEN_B, hardware.parse("tpu-v4:12"), model_axis=4)
    assert (odd.data_axis, odd.batch_size) == (3, 9)
    none = roofline.training(SEVEN_B, hardware.parse("a100-40gb:1"), remat=False, length=8192)
    assert not none.fits


def test_dtype_decides_the_bytes():
    machine = hardware.parse("h200:1")
    (half,) = roofline.layouts(SEVEN_B, machine, **JOB)
    (full,) = roofline.layouts(SEVEN_B, machine, **JOB, dtype=jnp.float32)
    assert full.weights == 2 * half.weights and full.num_slots < half.num_slots


@pytest.mark.parametrize(
    "text, name, hosts, of",
    [
        ("a100-40gb", "a100-40gb:1", 1, 1),
        ("H100-80GB:16", "h100-80gb:16", 2, 8),
        ("tpu-v5e:8", "tpu-v5e:8", 1, 8),
        ("v5e:16", "tpu-v5e:16", 4, 4),
        ("tpu-v4:32", "tpu-v4:32", 8, 4),
    ],
)
def test_hardware_is_read(text, name, hosts, of):
    machine = hardware.parse(text)
    assert (machine.name, machine.num_hosts, machine.host_devices) == (name, hosts, of)
    assert math.prod((machine.num_hosts, machine.host_devices)) == machine.count


@pytest.mark.parametrize("text", ["", "b200:8", "a100-40gb:", "a100-40gb:x", "a100-40gb:0"])
def test_other_hardware_is_refused_with_what_there_is(text):
    with pytest.raises(ValueError, match="hardware"):
        hardware.parse(text)
    with pytest.raises(ValueError, match="no whole number of hosts of 8"):
        hardware.parse("a100-40gb:12")
