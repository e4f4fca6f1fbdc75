"""Pretraining in small: three steps of a narrow model, exported, loaded, measured."""

import functools
import importlib

import numpy as np
import pytest
from absl import flags

from powerjax import models
from powerjax.tasks import arithmetic

pytestmark = pytest.mark.full

SMALL = ("--steps=3", "--batch=8", "--examples=300", "--hidden_size=32", "--num_layers=1")


@pytest.fixture(scope="module")
def launcher():
    """(module, its flags): flags of its own, since launchers share names like --seed."""
    values = flags.FlagValues()
    importlib.import_module("powerjax.cli")  # before the patch: its flags are everyone's
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("string", "bool", "integer", "float"):
            name = f"DEFINE_{kind}"
            patch.setattr(flags, name, functools.partial(getattr(flags, name), flag_values=values))
        module = importlib.import_module("experiments.pretrain_tiny")
    return module, values


@pytest.fixture(scope="module")
def trained(launcher, tmp_path_factory):
    """The folder of a small run."""
    return _run(launcher, tmp_path_factory.mktemp("tiny"))


def _run(launcher, folder, *more):
    module, values = launcher
    values.unparse_flags()
    values(["pretrain_tiny", f"--out={folder}", *SMALL, *more])
    module.main([])
    return folder


def test_the_folder_loads_and_scores_its_own_text(trained):
    lm = models.load(str(trained), dtype="float32")
    assert (lm.config.num_layers, lm.config.hidden_size) == (1, 32)
    assert lm.stop_ids == (lm.tokenizer.eos_token_id,) == (0,)
    problem = arithmetic.problems("test", 1)[0]
    (scores,) = lm.score([problem.prompt], [rf" \boxed{{{problem.answer}}}"])
    # Three steps leave the model near the uniform law.
    assert -1.5 * np.log(384) < scores.mean() < -0.5 * np.log(384)
    assert (trained / "README.md").read_text().startswith("# tiny\n")


def test_the_same_flags_make_the_same_weights(launcher, trained, tmp_path):
    again = _run(launcher, tmp_path / "again")
    other = _run(launcher, tmp_path / "other", "--seed=1")
    for name in ("model.safetensors", "tokenizer.json", "config.json", "README.md"):
        assert (again / name).read_bytes() == (trained / name).read_bytes()
    weights = "model.safetensors"
    assert (other / weights).read_bytes() != (trained / weights).read_bytes()


def test_a_model_is_not_overwritten(launcher, trained):
    before = (trained / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="holds a model: choose another --out"):
        _run(launcher, trained, "--steps=4")
    assert (trained / "model.safetensors").read_bytes() == before


def test_an_impossible_width_is_refused_before_anything_is_written(launcher, tmp_path):
    with pytest.raises(ValueError, match="--hidden_size=36"):
        _run(launcher, tmp_path / "odd", "--hidden_size=36")
    assert not (tmp_path / "odd").exists()


def test_card_measures_and_replaces_what_was_measured(launcher, trained):
    before = (trained / "README.md").read_text()
    weights = (trained / "model.safetensors").read_bytes()
    for _ in range(2):
        _run(launcher, trained, "--card", "--problems=2")
    card = (trained / "README.md").read_text()
    assert card.startswith(before)
    assert card.count("## Measured") == 1
    rows = [line for line in card.splitlines() if line.startswith(("| Base, ", "| RandW, "))]
    assert len({row.count("|") for row in rows}) == 1
    assert (trained / "model.safetensors").read_bytes() == weights


def test_batches_hold_whole_examples_and_weigh_completions(launcher):
    module, _ = launcher
    examples = module.corpus(64, seed=0)
    tokenizer = module.train_tokenizer([prompt + text for prompt, text in examples])
    stream = module.batches(examples, tokenizer, batch_size=4, seed=0)
    seen, totals = set(), []
    for _ in range(32):
        batch = next(stream)
        totals.append(batch.weights[:, 1:].sum())
        for tokens, weights in zip(batch.tokens, batch.weights, strict=True):
            trained_on = tokens[weights > 0]
            text = tokenizer.decode(trained_on.tolist(), skip_special_tokens=True)
            prompt, colon, completion = text.partition("A:")
            assert (prompt + colon, completion) in examples
            assert trained_on[-1] == 0 and (tokens[weights == 0] == 0).all()
            # Full weight from the first token after the prompt to EOS.
            full = tokens[weights == weights.max()]
            assert tokenizer.decode(full.tolist(), skip_special_tokens=True) == completion
            seen.add(text)
    assert len(seen) == len({prompt + text for prompt, text in examples})
    assert len({round(total, 3) for total in totals}) > 1
    assert np.mean(totals) == pytest.approx(1.0, abs=0.05)


def test_corpus_is_of_the_training_split_alone(launcher):
    module, _ = launcher
    prompts = {prompt for prompt, _ in module.corpus(500, seed=0)}
    assert prompts == {problem.prompt for problem in arithmetic.problems("train", 500, seed=0)}
    assert not prompts & {problem.prompt for problem in arithmetic.problems("test", 500)}
