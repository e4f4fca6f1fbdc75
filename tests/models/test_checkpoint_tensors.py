"""A head that differs from tied embeddings is kept, and tensors that are not read are named."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from powerjax import models
from powerjax.models import checkpoint
from powerjax.parallel.mesh import make_mesh
from tests.models.model_folders import check_refusal, rewrite

HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"
TOKENS = np.arange(40).reshape(2, 20)


def _with_own_head(folder):
    """Adds a head that config.json does not expect to the tied checkpoint; returns its arrays."""
    rewrite(folder, lambda arrays: arrays.update({HEAD: arrays[EMBEDDINGS][::-1].copy()}))
    return load_file(folder / "model.safetensors")


def _only_line(caplog, *parts):
    (message,) = [record.getMessage() for record in caplog.records]
    for part in parts:
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize("row", [0, -1])
def test_a_head_that_differs_in_one_number_is_kept_and_said(row, folder, caplog, monkeypatch):
    def change(arrays):
        arrays[HEAD] = arrays[EMBEDDINGS].copy()
        arrays[HEAD][row, row] += 1

    rewrite(folder, change)
    monkeypatch.setattr("powerjax.models.tensor_file._CHUNK_BYTES", 300)
    lm = models.load(folder, dtype="float32")
    assert not lm.config.tie_word_embeddings
    arrays = load_file(folder / "model.safetensors")
    np.testing.assert_array_equal(lm.params["lm_head"]["kernel"], arrays[HEAD].T)
    np.testing.assert_array_equal(lm.params["embed_tokens"]["embedding"], arrays[EMBEDDINGS])
    _only_line(caplog, str(folder), HEAD, "differs")


def test_an_equal_head_stays_tied_in_silence(folder, caplog):
    plain = models.load(folder, dtype="float32")
    rewrite(folder, lambda arrays: arrays.update({HEAD: arrays[EMBEDDINGS].copy()}))
    lm = models.load(folder, dtype="float32")
    assert lm.config == plain.config and "lm_head" not in lm.params and not caplog.records
    assert lm.fingerprint == plain.fingerprint


def test_a_head_that_differs_below_the_dtype_stays_tied(folder):
    rewrite(folder, lambda arrays: arrays.update({HEAD: arrays[EMBEDDINGS] * (1 + 1e-7)}))
    assert models.load(folder, dtype="bfloat16").config.tie_word_embeddings


def test_a_tied_file_that_holds_the_head_alone_is_read(folder):
    plain = models.load(folder, dtype="float32")
    rewrite(folder, lambda arrays: arrays.update({HEAD: arrays.pop(EMBEDDINGS)}))
    reloaded = models.load(folder, dtype="float32")
    jax.tree.map(np.testing.assert_array_equal, reloaded.params, plain.params)


def test_a_head_of_another_shape_is_refused(folder):
    rewrite(folder, lambda arrays: arrays.update({HEAD: arrays[EMBEDDINGS][:-1].copy()}))
    check_refusal(ValueError, HEAD, "(60, 32)", "(61, 32)", name_or_folder=folder)


@pytest.mark.parametrize("fsdp", [False, True])
def test_a_mesh_holds_the_head_that_differs(fsdp, folder):
    _with_own_head(folder)
    lm = models.load(folder, dtype="float32")
    spread = models.load(folder, dtype="float32", mesh=make_mesh(model=1), fsdp=fsdp)
    jax.tree.map(np.testing.assert_array_equal, spread.params, lm.params)
    assert spread.fingerprint == lm.fingerprint
    random = models.load(folder, dtype="float32", random_weights=True)
    assert random.config.tie_word_embeddings  # config.json alone decides there


@pytest.mark.parametrize("shard_bytes", [1 << 30, 20_000])
def test_a_head_that_differs_is_saved_and_read_again(shard_bytes, folder, tmp_path, caplog):
    arrays = _with_own_head(folder)
    lm = models.load(folder, dtype="float32")
    checkpoint.save(tmp_path / "out", lm.config, lm.params, shard_bytes=shard_bytes)
    assert not json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"]
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    result = {name: x for shard in shards for name, x in load_file(shard).items()}
    np.testing.assert_array_equal(result[HEAD], arrays[HEAD])
    np.testing.assert_array_equal(result[EMBEDDINGS], arrays[EMBEDDINGS])
    caplog.clear()
    reloaded = models.load(tmp_path / "out", dtype="float32")
    assert reloaded.config == lm.config and not caplog.records
    jax.tree.map(np.testing.assert_array_equal, reloaded.params, lm.params)


def test_transformers_has_the_same_logits_of_a_head_that_differs(folder, tmp_path, parity):
    import torch
    from transformers import AutoModelForCausalLM

    _with_own_head(folder)
    lm = models.load(folder, dtype="float32")
    checkpoint.save(tmp_path / "out", lm.config, lm.params)
    result = lm.logits(TOKENS)
    for read in (folder, tmp_path / "out"):
        model = AutoModelForCausalLM.from_pretrained(read, dtype=torch.float32).eval()
        with torch.no_grad():
            expected = model(torch.from_numpy(TOKENS)).logits.numpy()
        np.testing.assert_allclose(result, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["model.layers.0.self_attn.q_norm.weight", "model.layers.1.self_attn.q_norm.weight"],
            "2 tensors of the file, which are left out",
        ),
        (["model.layers.0.self_attn.o_proj.bias"], "model.layers.0.self_attn.o_proj.bias"),
        (["model.layers.3.mlp.up_proj.weight"], "model.layers.3.mlp.up_proj.weight"),
        (["lm_head.bias", "visual.blocks.0.attn.qkv.weight"], "lm_head.bias, visual.blocks.0."),
        (["model.layers.2.self_attn.q_proj.weight_scale"], "q_proj.weight_scale"),
    ],
)
def test_tensors_that_are_not_read_are_named_in_one_line(names, message, folder, caplog):
    plain = models.load(folder, dtype="float32")
    rewrite(folder, lambda arrays: arrays.update({n: np.ones(2, np.float32) for n in names}))
    lm = models.load(folder, dtype="float32")
    jax.tree.map(np.testing.assert_array_equal, lm.params, plain.params)
    _only_line(caplog, str(folder), "Qwen2ForCausalLM", "3 layers", message)


def test_constants_of_older_files_are_not_worth_a_line(folder, caplog):
    names = [f"model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in range(3)]
    constants = {name: np.ones(4, np.float32) for name in (*names, "model.rotary_emb.inv_freq")}
    rewrite(folder, lambda arrays: arrays.update(constants))
    models.load(folder)
    assert not caplog.records
