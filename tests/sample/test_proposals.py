"""Which models can propose for which, what a user may get wrong, and what records say of it."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from powerjax import models, sample
from powerjax.models import RopeConfig, checkpoint, peft
from powerjax.records import fields, identity
from powerjax.sample import ChainsFailed, job, placement, proposals, spec
from tests import tiny, tokenizer_folder

SMALL = dict(max_new_tokens=8, num_slots=8, progress=False)
PROMPTS = [[5, 6, 7], [9]]
MOVES = ("restart", "suffix", "mixture")


@pytest.fixture(scope="module")
def student(tiny_qwen):
    """The small model with an adapter, over the same weights."""
    return tiny.student(tiny_qwen)


@pytest.fixture(scope="module")
def other():
    """A model of another shape over the same 97 tokens."""
    return tiny.random_lm(tiny.config(hidden_size=24, num_heads=3, num_kv_heads=3), name="other")


def tokens_of(completions):
    return [c.tokens for c in completions]


# --- loading ---


def test_a_student_shares_the_weights_of_its_base_and_another_model_does_not(tmp_path):
    """Also where the base has an adapter of its own, or the base's name is given."""
    lm = models.load("tiny", dtype="float32")
    for name, seed in (("one", 1), ("two", 2)):
        peft.save(tmp_path / name, tiny.student(lm, seed=seed).adapter, lm.config)
    student = proposals.load(lm, None, str(tmp_path / "one"))
    assert student.params is lm.params and placement.is_adapted(lm, student)
    again = proposals.load(lm, "tiny", str(tmp_path / "one"))
    assert again.params is lm.params
    itself = proposals.load(lm, "tiny")
    assert itself.params is lm.params and itself.adapter is None

    adapted = models.load("tiny", dtype="float32", adapter=str(tmp_path / "two"))
    of_adapted = proposals.load(adapted, None, str(tmp_path / "one"))
    assert of_adapted.params is adapted.params
    assert of_adapted.adapter_name == str(tmp_path / "one")
    assert not placement.is_adapted(adapted, of_adapted)
    stated = proposals.stated(adapted, of_adapted)
    assert stated["proposal"] == "tiny+one"
    assert stated == proposals.stated(lm, student)

    with pytest.raises(ValueError, match="has an adapter in its weights"):
        proposals.load(adapted.merged(), None, str(tmp_path / "one"))
    random = models.load("tiny", dtype="float32", random_weights=True)
    assert proposals.load(random, "tiny").weights is None  # the weights that the name has
    assert proposals.load(random, None, str(tmp_path / "one")).params is random.params


def test_the_adapter_of_another_model_is_one_line(tmp_path, tiny_qwen, other):
    checkpoint.save(tmp_path / "base", tiny_qwen.config, tiny_qwen.params, stop_ids=(0,))
    lm = models.load(str(tmp_path / "base"), dtype="float32")
    peft.save(tmp_path / "adapter", tiny.student(other).adapter, other.config)
    with pytest.raises(ValueError, match="but rank 4 and the model ask for") as error:
        proposals.load(lm, None, str(tmp_path / "adapter"))
    assert "\n" not in str(error.value)


def test_records_name_a_folder_by_its_last_part_so_that_it_may_be_moved(tmp_path, tiny_qwen):
    laws = []
    for place in ("here", "there"):
        folder = tmp_path / place / "small"
        checkpoint.save(folder, tiny_qwen.config, tiny_qwen.params, stop_ids=(0,))
        laws.append(proposals.stated(tiny_qwen, models.load(str(folder), dtype="float32")))
    assert laws[0] == laws[1] and laws[0]["proposal"] == "small"


# --- one vocabulary ---


def with_tokenizer(lm, folder, **options):
    """The model with the tokenizer of 97 characters, or one whose ids are exchanged."""
    checkpoint.save(folder, lm.config, lm.params, stop_ids=(1,))
    tokenizer_folder.write(folder, **options)
    return models.load(str(folder), dtype="float32")


def test_vocabularies_padded_to_two_sizes_are_both_cut_to_the_tokenizer(tmp_path, tiny_qwen):
    one = with_tokenizer(tiny.random_lm(tiny.config(vocab_size=104)), tmp_path / "one")
    two = with_tokenizer(tiny.random_lm(tiny.config(vocab_size=128), seed=2), tmp_path / "two")
    out = sample.power(one, ["2+2="], proposal=two, num_samples=8, alpha=2, **SMALL)
    rows = out.to_records()
    assert {row["vocab_size"] for row in rows} == {97}
    assert max(max(c.tokens) for c in out) < 97
    prompt = one.encode("2+2=")
    cut = one.with_vocabulary(97).score([prompt] * 8, tokens_of(out))
    for c, expected in zip(out, cut, strict=True):
        np.testing.assert_allclose(c.log_probs, expected, atol=1e-4)
    alone = sample.power(one, ["2+2="], num_samples=1, num_mcmc_steps=1, **SMALL).to_records()
    assert "vocab_size" not in alone[0]


def test_other_vocabularies_are_refused_in_one_line(tmp_path, tiny_qwen):
    one = with_tokenizer(tiny_qwen, tmp_path / "one")
    smaller = tiny.random_lm(tiny.config(vocab_size=61), name="smaller")
    swapped = with_tokenizer(tiny_qwen, tmp_path / "two")
    path = tmp_path / "two" / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(content))
    swapped = models.load(str(tmp_path / "two"), dtype="float32")
    cases = [
        (
            tiny_qwen,
            smaller,
            "smaller cannot propose for tiny_qwen: their vocabularies have 61",
        ),
        (one, smaller, "a model without a tokenizer cannot say which are the same"),
        (one, swapped, "their tokenizers differ, and one text would have two meanings"),
    ]
    for lm, proposal, words in cases:
        with pytest.raises(ValueError) as error:
            sample.power(lm, [[5]], proposal=proposal, **SMALL)
        assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.full
def test_real_tokenizers_of_two_families_are_refused(tmp_path, data_dir, tiny_qwen):
    """Qwen2.5's and Phi-3's, each over weights of a vocabulary that holds both."""
    import shutil

    loaded = []
    for name, files in (
        ("Qwen2.5-0.5B", ("merges.txt", "tokenizer_config.json", "vocab.json")),
        ("phi-3-mini", ("tokenizer.json", "tokenizer_config.json")),
    ):
        lm = tiny.random_lm(tiny.config(vocab_size=151936, hidden_size=8, num_layers=1))
        folder = tmp_path / name
        checkpoint.save(folder, lm.config, lm.params, stop_ids=(0,))
        for file in files:
            shutil.copy(data_dir / "tokenizers" / name / file, folder)
        loaded.append(models.load(str(folder), dtype="float32"))
    for lm, proposal in (loaded, loaded[::-1]):
        with pytest.raises(ValueError, match="their tokenizers differ"):
            proposals.over_one_vocabulary(lm, proposal)
    same = dataclasses.replace(loaded[0], config=tiny.config(vocab_size=152064))
    assert proposals._common_size(loaded[0], same) == 151665


# --- prompts, settings, weights ---


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(move="jump"), "move must be 'restart', 'suffix' or 'mixture', not 'jump'"),
        (dict(mixture=(0.4, 0.3, 0.3)), "mixture is for move='mixture' alone"),
        (dict(move="mixture", mixture=(0.4, 0.3, 0.4)), "three numbers that sum to 1"),
        (dict(move="mixture", mixture=(0.5, 0.5)), "three numbers that sum to 1"),
        (dict(move="mixture", mixture=(1.5, -0.5, 0)), "mixture is 1.5"),
        (dict(move="mixture", mixture="abc"), "mixture is one string"),
        (dict(move="mixture", mixture=(1, 0, 0), temperature=0.5), "no move here is the base's"),
        (dict(temperature=0.5), "no move here is the base's"),
        (dict(proposal_temperature=0), "proposal_temperature is 0"),
        (dict(proposal_temperature=np.nan), "proposal_temperature is nan"),
        (dict(block_size=4), "restart moves draw whole completions"),
        (dict(kernel="karan2026"), "its rule has none"),
        (dict(num_samples=0), "num_samples is 0"),
        (dict(proposal=None, move="suffix"), "move='suffix' needs a proposal model"),
        (dict(proposal=None, proposal_temperature=0.5), "needs a proposal model"),
    ],
)
def test_settings_that_do_not_go_together_are_one_line(tiny_qwen, student, options, words):
    with pytest.raises(ValueError) as error:
        sample.power(tiny_qwen, [[5]], **{"proposal": student, **SMALL, **options})
    assert words in str(error.value) and "\n" not in str(error.value)


def test_samplers_without_a_proposal_model_take_none(tiny_qwen, student):
    for sampler in (sample.standard, sample.temperature):
        with pytest.raises(TypeError, match="no argument 'proposal'"):
            sampler(tiny_qwen, [[5]], proposal=student, **SMALL)


def test_a_prompt_too_long_for_the_proposal_model_alone_is_named_with_it(tiny_qwen):
    short = tiny.random_lm(tiny.config(max_position_embeddings=16), seed=2, name="short")
    with pytest.raises(ValueError) as error:
        sample.power(tiny_qwen, [[5], [6] * 9], proposal=short, **SMALL)
    assert str(error.value).startswith("short: prompt 1 (9 tokens): ")
    assert "16" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("move", MOVES)
def test_a_student_whose_weights_hold_nan_fails_by_name(tiny_qwen, student, move):
    """One batch with the base, or a model that decodes alone: each chain is named."""
    tree = jax.tree.map(lambda x: x, student.adapter.params)  # its dicts are copies
    layer = tree["layers_0"]["self_attn"]["q_proj"]
    layer["lora_b"] = layer["lora_b"].at[0, 0].set(np.nan)
    broken = dataclasses.replace(student, adapter=dataclasses.replace(student.adapter, params=tree))
    with pytest.raises(ChainsFailed) as error:
        sample.power(tiny_qwen, PROMPTS, proposal=broken, move=move, **SMALL)
    assert error.value.failed == [(0, 0), (1, 0)] and len(error.value.completions) == 0
    assert "the model's or the proposal model's logits are not finite in 2 of 2" in str(error.value)


@pytest.mark.full
@pytest.mark.parametrize("move", MOVES)
def test_small_settings_and_top_k_with_each_move(tiny_qwen, student, move):
    """One token per completion, alpha 1, and draws among the base's two likeliest tokens."""
    options = dict(proposal=student, move=move, num_samples=4, num_mcmc_steps=2, trace=True)
    out = sample.power(tiny_qwen, PROMPTS, alpha=1, top_k=2, **options, **SMALL)
    for c in out:
        prompt = PROMPTS[c.prompt_index]
        row = [*prompt, *c.tokens]
        logits = np.asarray(tiny_qwen.logits([row[:-1]]))[0, len(prompt) - 1 :]
        best = np.sort(logits, axis=-1)[:, -2]
        assert all(x[t] >= b - 1e-4 for x, t, b in zip(logits, c.tokens, best, strict=True))
        assert c.num_proposal_forward_tokens == c.num_forward_tokens
    one = sample.power(tiny_qwen, PROMPTS, **options, **(SMALL | {"max_new_tokens": 1}))
    assert {len(c.tokens) for c in one} == {1}
    for record in [*out.to_records(), *one.to_records()]:
        fields.check(json.loads(json.dumps(record)), "here")
        trace = record["trace"]
        assert [len(x) for x in trace.values()] == [2, 2, 2, 2]
        assert trace["length"][-1] == record["num_tokens"]
        assert trace["log_p"][-1] == pytest.approx(record["log_prob"], abs=1e-4)
        assert np.mean(trace["accepted"]) == pytest.approx(record["acceptance_rate"])
        if move != "mixture":
            assert set(trace["kind"]) == {move}


@pytest.mark.full
def test_only_the_bases_stop_tokens_end_a_completion(tiny_qwen):
    """The proposal model's own, 3, is a token like others, and the base's ends it."""
    eager = dataclasses.replace(tiny.random_lm(tiny.config(), seed=2), stop_ids=(3,))
    out = sample.power(tiny_qwen, PROMPTS, proposal=eager, num_samples=32, alpha=1, **SMALL)
    assert any(3 in c.tokens[:-1] for c in out)
    assert all((c.tokens[-1] == 0) == (c.finish_reason == "eos") for c in out)
    assert not any(0 in c.tokens[:-1] for c in out)


@pytest.mark.full
@pytest.mark.parametrize("move", MOVES)
def test_longrope_of_each_model_follows_its_own_edge(tiny_qwen, move):
    """The proposal model has longrope with an edge of 24 tokens, the base none, and the reverse."""
    rope = RopeConfig(
        kind="longrope",
        short_factor=(1.0, 1.1, 1.2, 1.3),
        long_factor=(1.0, 3.0, 9.0, 20.0),
        original_max_position_embeddings=24,
    )
    phi3 = dict(architecture="Phi3ForCausalLM", qkv_bias=False, tie_word_embeddings=False)
    roped = tiny.random_lm(tiny.config(rope=rope, num_kv_heads=4, **phi3), seed=3, name="roped")
    prompts = [[5] * 4, [7] * 16, [9] * 17, [3] * 20]  # 24 tokens at most, 24, 25, 28
    for lm, proposal in ((tiny_qwen, roped), (roped, tiny_qwen)):
        options = dict(proposal=proposal, move=move, num_mcmc_steps=2, alpha=1.5, **SMALL)
        out = sample.power(lm, prompts, **options)
        for c in out:
            prompt = prompts[c.prompt_index]
            (fresh,) = lm.score([prompt], [c.tokens], long_context=len(prompt) > 16)
            np.testing.assert_allclose(c.log_probs, fresh, atol=2e-4)
        for i in (0, 2):
            (alone,) = sample.power(lm, [prompts[i]], ids=[i], **options)
            assert alone.tokens == out[i].tokens


# --- resuming ---


@pytest.mark.full
def test_chains_that_are_left_out_change_no_other(tiny_qwen, student, other):
    """As a run that was killed draws the rest: restarts at once and a mixture of both models."""
    for proposal, move in ((student, "restart"), (other, "mixture")):
        options = dict(proposal=proposal, move=move, num_mcmc_steps=2, num_samples=3, **SMALL)
        whole = sample.power(tiny_qwen, PROMPTS, **options)
        drawn = {(0, 0), (1, 1), (1, 2)}
        rest = sample.power(tiny_qwen, PROMPTS, skip=lambda *c, d=drawn: c in d, **options)
        expected = [c for c in whole if (c.prompt_index, c.sample_index) not in drawn]
        assert tokens_of(rest) == tokens_of(expected) and len(rest) == 3
        for record, before in zip(rest.to_records(), (e for e in expected), strict=True):
            assert record["id"] == whole.to_record(before)["id"]


def test_a_record_without_a_proposal_model_is_of_another_law(tiny_qwen, student):
    """Records from before there were proposal models state none."""
    mixture = spec.of("power", {"move": "mixture", "max_new_tokens": 8})
    stated = job.stated_settings(tiny_qwen, mixture, 0, "raw", student)
    before = {k: v for k, v in stated.items() if not k.startswith(("proposal", "move", "mix"))}
    differing = identity.differences(before, stated)
    assert [name for name, _, _ in differing] == [
        *("proposal", "proposal_hash", "move", "proposal_temperature", "mixture")
    ]
    assert identity.differences(before, before) == []
    assert identity.law_hash(before) != identity.law_hash(stated)
