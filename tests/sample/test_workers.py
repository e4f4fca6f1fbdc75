"""Several engines in threads give the results of one, and end together."""

import numpy as np
import pytest

from powerjax import sample
from powerjax.sample import engine, workers

OPTIONS = dict(alpha=2.0, block_size=6, num_mcmc_steps=3, max_new_tokens=16, progress=False)


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(5)
    return [rng.integers(1, 97, n).tolist() for n in rng.integers(1, 16, 40)]


def run(lm, prompts, count, monkeypatch, **options):
    """Samples with `count` engines of eight slots each."""
    monkeypatch.setattr(workers, "count_workers", lambda lm, num_slots: count)
    return sample.power(lm, prompts, num_slots=8 * count, **{**OPTIONS, **options})


@pytest.mark.parametrize("num_samples", [1, 3])
def test_three_engines_of_eight_slots_give_the_bits_of_one(
    tiny_qwen, prompts, monkeypatch, num_samples
):
    one, three = (run(tiny_qwen, prompts, n, monkeypatch, num_samples=num_samples) for n in (1, 3))
    assert len(one) == len(three) == 40 * num_samples
    for a, b in zip(one, three, strict=True):
        assert a.tokens == b.tokens and np.array_equal(a.log_probs, b.log_probs)
    names = "num_forward_tokens moves moves_accepted moves_rejected_early tokens_proposed"
    names += " tokens_accepted stage_moves stage_accepted"
    for name in names.split():
        assert getattr(one.stats, name) == getattr(three.stats, name)
    assert (three.stats.num_slots, three.stats.slots_an_engine) == (24, 8)


def test_few_prompts_are_shared_out_by_samples(tiny_qwen, prompts, monkeypatch):
    one, two = (run(tiny_qwen, prompts[:2], n, monkeypatch, num_samples=9) for n in (1, 2))
    assert [c.tokens for c in one] == [c.tokens for c in two]
    single = run(tiny_qwen, prompts[:1], 2, monkeypatch)  # one engine gets no chain
    assert single[0].tokens == one[0].tokens


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupt_hands_over_what_was_finished_and_ends_the_threads(
    tiny_qwen, prompts, monkeypatch, error
):
    import threading

    seen, before = [], threading.active_count()

    def record(completion):
        seen.append((completion.prompt_index, completion.sample_index))
        if len(seen) == 5:
            raise error("stop")

    with pytest.raises(error):
        run(tiny_qwen, prompts, 2, monkeypatch, num_samples=10, on_finish=record)
    assert 5 <= len(seen) < 400 and len(set(seen)) == len(seen)
    assert threading.active_count() <= before + 1


def test_an_engine_that_fails_is_heard(tiny_qwen, prompts, monkeypatch):
    original = engine.generate

    def fails(lm, prompts, requests, settings, **options):
        if requests[0].prompt_index == 1:
            raise ValueError("this engine broke")
        return original(lm, prompts, requests, settings, **options)

    monkeypatch.setattr(engine, "generate", fails)
    with pytest.raises(ValueError, match="this engine broke"):
        run(tiny_qwen, prompts, 2, monkeypatch)


def test_large_models_and_few_slots_get_one_engine(tiny_qwen, monkeypatch):
    monkeypatch.setattr(workers, "_count_cores", lambda: 4)
    assert workers.count_workers(tiny_qwen, 64) == 4
    assert workers.count_workers(tiny_qwen, 16) == 2
    assert workers.count_workers(tiny_qwen, 1) == 1
    monkeypatch.setattr(workers, "_SMALL_MODEL_BYTES", 1000)
    assert workers.count_workers(tiny_qwen, 64) == 1
