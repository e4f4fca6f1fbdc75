"""Scores of records under a model: what they agree with, and which records are refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from powerjax import sample
from powerjax.runs import rescoring
from powerjax.tasks import Problem, registry
from powerjax.tasks.base import without_text
from tests.runs import sums


@pytest.fixture(scope="module")
def sampled(lm):
    task = registry.get("arithmetic")
    problems = task.load(limit=3)
    prompts = [problem.prompt for problem in problems]
    drawn = sample.standard(
        lm, prompts, ids=[p.id for p in problems], max_new_tokens=32, num_slots=4, progress=False
    ).to_records("arithmetic")
    return problems, [{**r, "prompt": p} for r, p in zip(drawn, prompts, strict=True)]


def test_a_model_that_scores_its_own_completions_agrees_with_the_sampler(lm, sampled, tmp_path):
    problems, drawn = sampled
    path = tmp_path / "scores.jsonl"
    scored = rescoring.rescore(lm, drawn, problems, path, progress=False)
    for record in scored:
        assert record["evaluated_self_reward"] == pytest.approx(record["self_reward"], abs=1e-4)
        assert record["evaluated_log_prob"] == pytest.approx(record["log_prob"], abs=1e-3)
        assert (record["evaluated_model"], record["evaluated_as"]) == ("tiny", "tokens")
    before = path.read_bytes()
    assert rescoring.rescore(lm, drawn, problems, path, progress=False) == scored
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="another completion, answer or model"):
        rescoring.rescore(lm, drawn, problems, path, model="another", progress=False)


def test_another_tokenizers_completion_is_scored_by_its_text(lm, sampled):
    problems, drawn = sampled
    foreign = [{**record, "tokens": [5000 + i for i in record["tokens"]]} for record in drawn]
    scored = rescoring.rescore(lm, foreign, problems, progress=False)
    own = rescoring.rescore(lm, drawn, problems, progress=False)
    for ours, theirs, record in zip(own, scored, drawn, strict=True):
        assert theirs["evaluated_as"] == "text"
        # A text has several spellings in tokens; where it is the model's own, so is the score.
        tokens = lm.encode(record["completion"], special=False)
        if [*tokens, *lm.stop_ids[:1]] == record["tokens"] or tokens == record["tokens"]:
            assert theirs["evaluated_log_prob"] == pytest.approx(ours["evaluated_log_prob"])


def test_secret_prompts_come_from_the_problems(tiny_qwen):
    secret = Problem("rec0", list(range(1, 9)), "B", secret=True)
    record = {**sums.record("rec0", 5, None, tokens=[7, 8, 0]), "prompt": secret.prompt}
    hidden = without_text(secret, record)
    (scored,) = rescoring.rescore(tiny_qwen, [hidden], [secret], progress=False)
    (direct,) = tiny_qwen.score([secret.prompt], [[7, 8, 0]])
    assert scored["evaluated_log_prob"] == pytest.approx(float(np.sum(direct)), rel=1e-6)
    with pytest.raises(ValueError, match="made with another prompt"):
        rescoring.rescore(tiny_qwen, [{**hidden, "prompt_sha256": "0"}], [secret], progress=False)
    with pytest.raises(ValueError, match="no prompt, and no problem gives it"):
        rescoring.rescore(tiny_qwen, [hidden], [], progress=False)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt": [1, 97]}, "prompt has token id 97, outside the vocabulary of 97"),
        ({"tokens": [1, -1]}, "tokens has token id -1, outside the vocabulary of 97"),
        ({"prompt": 5}, "prompt is 5: give text"),
        ({"prompt": "text"}, "prompt is text, and tiny_qwen has no tokenizer"),
    ],
)
def test_a_record_that_cannot_be_scored_is_named(tiny_qwen, fields, words):
    drawn = [sums.record("p0", 0, None, prompt=[1, 2]), sums.record("p0", 1, None, prompt=[1, 2])]
    drawn[1] |= fields
    with pytest.raises(ValueError) as error:
        rescoring.rescore(tiny_qwen, drawn, [], progress=False)
    assert str(error.value).startswith(f"the record {drawn[1]['id']!r}: {words}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "float32"), (1e5, "float16")])
def test_a_record_whose_score_is_not_finite_is_named_and_no_score_is_written(
    tiny_qwen, tmp_path, value, dtype
):
    params = jax.tree.map(lambda x: x.astype(dtype), tiny_qwen.params)
    table = params["embed_tokens"]["embedding"].at[50].set(value)
    params = {**params, "embed_tokens": {"embedding": table}}
    broken = dataclasses.replace(tiny_qwen, params=params, dtype=jnp.dtype(dtype))
    drawn = [
        sums.record("p0", i, None, prompt=[1, 2], tokens=[3, t, 4]) for i, t in enumerate([5, 50])
    ]
    with pytest.raises(ValueError) as error:
        rescoring.rescore(broken, drawn, [], tmp_path / "scores.jsonl", model="m", progress=False)
    line = str(error.value)
    assert "under m are not finite; " in line and "\n" not in line
    assert ("bfloat16 or float32" in line) == (dtype == "float16")
    assert not (tmp_path / "scores.jsonl").read_bytes()


def test_a_text_of_more_tokens_than_the_model_has_is_named_by_its_record(lm):
    narrow = dataclasses.replace(lm, config=dataclasses.replace(lm.config, vocab_size=40))
    record = sums.record("p0", 0, "z", prompt=[1, 2], finish_reason="length")
    with pytest.raises(ValueError, match=r"/0': completion has token id .* vocabulary of 40"):
        rescoring.rescore(narrow, [record], [], progress=False)


def test_an_ended_record_without_tokens_is_read_as_text(lm):
    record = sums.record("p0", 0, "4", prompt=[1, 2], tokens=[])
    (scored,) = rescoring.rescore(lm, [record], [], progress=False)
    assert scored["evaluated_as"] == "text"
