"""The embedded model: its files, its tokenizer, and what it has learned."""

import json
import random

import numpy as np
import pytest

from powerjax import models
from powerjax.models import checkpoint
from powerjax.tasks import arithmetic

FOLDER = checkpoint.find_folder("tiny")


@pytest.fixture(scope="module")
def lm():
    return models.load("tiny", dtype="float32")


@pytest.fixture(scope="module")
def examples():
    """(problem, completion) of 200 held-out problems, in both styles of completion."""
    rng = random.Random(0)
    problems = arithmetic.problems("test", 200)
    return [(problem, arithmetic.completion(problem, rng)) for problem in problems]


def test_it_is_small_and_whole():
    names = {path.name for path in FOLDER.iterdir()}
    assert names == {
        "README.md",
        "config.json",
        "generation_config.json",
        "manifest.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 2e6


def test_manifest_and_card_tell_how_it_was_made():
    settings = json.loads((FOLDER / "manifest.json").read_text())["settings"]
    card = (FOLDER / "README.md").read_text()
    for name, value in settings.items():
        assert f"--{name}={value}" in card
    assert "## Measured" in card
    assert "| Base, power, N 30 |" in card


def test_shapes(lm):
    config = lm.config
    assert config.tie_word_embeddings and config.qkv_bias
    assert config.vocab_size == len(lm.tokenizer) == 384
    assert config.num_heads == 2 * config.num_kv_heads
    assert lm.stop_ids == (lm.tokenizer.eos_token_id,)
    config.check_length(3072 + 40)  # the samplers' default length fits after a prompt


def test_tokenizer_keeps_digits_single_and_the_box_whole(lm, examples):
    (box,) = lm.encode(r" \boxed{")
    for digits in ("7", "42", "1234567890"):
        assert len(lm.encode(digits)) == len(digits)
    for _, completion in examples:
        ids = lm.encode(completion)
        assert ids.count(box) == 1
        assert len(ids) == len(completion) - len(r" \boxed{") + 1


def test_tokenizer_joins_nothing_across_the_prompt_and_loses_nothing(lm, examples):
    for problem, completion in examples:
        prompt, ids = lm.encode(problem.prompt), lm.encode(completion)
        assert lm.encode(problem.prompt + completion) == prompt + ids
        assert lm.decode(prompt + ids) == problem.prompt + completion
    strange = "Ä\t\u4f60\u597d  \\boxed{}\n\n"
    assert lm.decode(lm.encode(strange)) == strange


def test_one_first_token_decides_the_style(lm, examples):
    first = {"=" in completion: set() for _, completion in examples}
    for _, completion in examples:
        first["=" in completion].add(lm.encode(completion)[0])
    assert {len(tokens) for tokens in first.values()} == {1}
    assert first[True] != first[False]


def test_auto_tokenizer_agrees(lm, examples):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    for problem, completion in examples[:50]:
        text = problem.prompt + completion
        assert tokenizer(text)["input_ids"] == lm.encode(text)
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == lm.stop_ids[0]


def test_worked_steps_are_easy_and_terse_answers_are_not(lm, examples):
    """Prop. 1 needs two likely styles, a peaked one (worked steps) and a diffuse one (terse)."""
    worked = [_worked(problem) for problem, _ in examples]
    terse = [rf" \boxed{{{problem.answer}}}" for problem, _ in examples]
    prompts = [problem.prompt for problem, _ in examples]
    worked_scores, terse_scores = lm.score(prompts, worked), lm.score(prompts, terse)
    terse_share = np.mean([np.exp(scores[0]) for scores in terse_scores])
    assert 0.4 < terse_share < 0.65
    result_digits = [
        scores[place]
        for text, scores in zip(worked, worked_scores, strict=True)
        for place in _result_places(lm, text)
    ]
    assert np.mean(np.array(result_digits) > np.log(0.5)) > 0.99
    answers = np.array([scores[1:-1].sum() for scores in terse_scores])
    assert np.mean(answers < np.log(0.5)) > 0.8


def _worked(problem) -> str:
    """Returns the completion that writes every step."""
    text, value = "", problem.meta["start"]
    for operation, operand in problem.meta["steps"]:
        result = arithmetic.apply(value, operation, operand)
        text += f" {value}{operation}{operand}={result}."
        value = result
    return rf"{text} \boxed{{{problem.answer}}}"


def _result_places(lm, text: str) -> list[int]:
    """Returns the places of the digits after each =, counted in the completion's tokens."""
    places, inside = [], False
    for place, token in enumerate(lm.encode(text)):
        piece = lm.decode([token])
        inside = piece != "." if inside else piece == "="
        if inside and piece != "=":
            places.append(place)
    return places


def test_power_sampling_finds_the_worked_answers(lm):
    from powerjax import sample

    problems = arithmetic.problems("test", 40)
    prompts, ids = [p.prompt for p in problems], [p.id for p in problems]
    options = {"ids": ids, "max_new_tokens": 64, "progress": False, "num_slots": 40}
    power = sample.power(lm, prompts, block_size=64, num_mcmc_steps=20, **options)
    standard = sample.standard(lm, prompts, num_samples=2, **options)
    assert _accuracy(problems, power) > _accuracy(problems, standard) + 0.2


def _accuracy(problems, completions) -> float:
    graded = [arithmetic.grade(problems[c.prompt_index], c.text)[0] for c in completions]
    return float(np.mean(graded))


def test_transformers_gives_equal_logits(lm, examples, parity):
    import torch
    import transformers

    reference = transformers.AutoModelForCausalLM.from_pretrained(
        FOLDER, dtype=torch.float32
    ).eval()
    sequences = [lm.encode(problem.prompt + completion) for problem, completion in examples[:16]]
    lengths = [len(ids) for ids in sequences]
    tokens = np.zeros((len(sequences), max(lengths)), np.int32)
    for row, ids in enumerate(sequences):
        tokens[row, : len(ids)] = ids
    logits = np.asarray(lm.logits(tokens, lengths))
    for row, ids in enumerate(sequences):
        with torch.no_grad():
            expected = reference(torch.tensor([ids])).logits[0].numpy()
        assert np.abs(logits[row, : len(ids)] - expected).max() < 1e-4
