"""The embedded model as a GGUF file is the embedded model."""

import jax
import numpy as np
import pytest

from powerjax import models
from powerjax.distill import export
from powerjax.models import checkpoint, lora
from powerjax.tasks import registry
from tests.models.gguf import embedded


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """(the embedded model, the same read of a GGUF file), in float32."""
    path = embedded.write(tmp_path_factory.mktemp("embedded") / "tiny.gguf")
    return tuple(models.load(name, dtype="float32") for name in ("tiny", path))


def test_weights_config_and_stop_ids_are_the_same(pair):
    tiny, read = pair
    jax.tree.map(np.testing.assert_array_equal, read.params, tiny.params)
    assert (read.config, read.stop_ids) == (tiny.config, tiny.stop_ids)
    assert read.identity == tiny.identity and read.quantised is None


def test_prompts_and_completions_are_the_same_tokens(pair):
    tiny, read = pair
    for problem in registry.get("arithmetic").load(limit=20):
        for string in (problem.prompt, rf" so 3 + 4 = \boxed{{{problem.answer}}}", "\n\n 'tis é "):
            ids = tiny.encode(string)
            assert read.encode(string) == ids and read.decode(ids) == tiny.decode(ids)


def test_an_adapter_is_put_on_and_exported_with_the_tokenizer(pair, tmp_path):
    """The merged folder needs nothing of the GGUF file any more."""
    _, read = pair
    config = lora.LoraConfig(rank=2)
    adapter = lora.Adapter(config, lora.init(read.config, config))
    export.save_adapter(tmp_path / "adapter", read, adapter)
    adapted = models.adapted(read, str(tmp_path / "adapter"))
    assert adapted.params is read.params and adapted.adapter is not None
    export.save_merged(tmp_path / "merged", read, adapter)
    merged = models.load(tmp_path / "merged", dtype="float32")
    jax.tree.map(np.testing.assert_array_equal, merged.params, adapted.merged().params)
    string = r"Ann has 43 \boxed{7}"
    assert merged.encode(string) == read.encode(string)
    assert merged.stop_ids == read.stop_ids
    assert checkpoint.find_folder(read.name).name == "tiny.gguf"
