"""Tensors of an adapter's file that adapt no layer: the model's own pass, others are refused."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from powerjax.models import tensor_file
from powerjax.models.config import ModelConfig
from powerjax.models.layout import EMBEDDINGS, HEAD, tensors
from powerjax.models.peft.modules import PREFIX
from powerjax.models.peft.settings import MERGE
from powerjax.models.tensor_file import StoredTensor

log = logging.getLogger(__name__)

# What PEFT puts between the name of a layer and that of a tensor it has kept whole.
_WRAPPERS = re.compile(r"\.(base_layer|original_module|modules_to_save(\.default)?)(?=\.)")


def check(
    folder: Path,
    tensor: StoredTensor,
    config: ModelConfig,
    base: Mapping[str, StoredTensor] | None,
    dtype,
) -> None:
    """Refuses a tensor that does not belong to an adapted layer, unless it is the model's own.

    A tensor that is the model's own, rounded to the dtype it is stored in, is named in the log.

    Args:
      folder: the adapter's folder, named in messages.
      tensor: one tensor of the adapter's file.
      base: the tensors of the model's files by name; None for a model of random weights.
      dtype: the dtype that the model's tensors were loaded as.
    """
    name = _WRAPPERS.sub("", tensor.name.removeprefix(PREFIX))
    of_model = {t.name for t in tensors(config).values()} | {HEAD}
    if name not in of_model:
        raise ValueError(f"{folder} {_why_unread(tensor.name, config, of_model)}")
    own = None
    if base is not None:
        own = base.get(EMBEDDINGS if name == HEAD and config.tie_word_embeddings else name)
    if own is None:
        raise ValueError(
            f"{folder} holds a {name} of its own, and a model of random weights has none to compare"
            " it with: take the model's weights"
        )
    if tensor.shape != own.shape:
        raise ValueError(
            f"{folder} holds a {name} of shape {tensor.shape}, where the model's is {own.shape}: it"
            f" was resized before training, or is another model's; {MERGE}"
        )
    if tensor_file.equal(tensor, own, dtype):
        return
    if not tensor_file.equal(tensor, own, tensor_file.stored_dtype(tensor)):
        raise ValueError(
            f"{folder} holds a {name} of its own that differs from the model's: it was trained"
            f" beside the adapter, and only adapters of layers are read; {MERGE}"
        )
    log.warning(
        "%s: the adapter holds the model's %s rounded to %s: the model's own is used",
        *(folder, name, tensor.dtype),
    )


def _why_unread(key: str, config: ModelConfig, of_model: set[str]) -> str:
    """Returns why a tensor cannot be used, as the rest of a sentence that begins with the folder.

    key: the tensor's name in the adapter's file. of_model: names of the model's own tensors.
    """
    module = re.sub(r"\.lora_.*", "", _WRAPPERS.sub("", key.removeprefix(PREFIX)))
    if "lora_magnitude_vector" in key:
        return f"holds {key}, of a DoRA adapter, which is not supported: {MERGE}"
    if "trainable_tokens" in key:
        return f"holds {key}, trained rows of the embeddings, which are not supported: {MERGE}"
    if ".lora_" in key and f"{module}.weight" in (EMBEDDINGS, HEAD):
        return f"adapts {module}, and only adapters of the layers are supported: {MERGE}"
    if re.search(r"\.lora_[AB]\.[^.]+\.weight$", key):
        return (
            f"holds {key}, named as in a model in memory, and PEFT reads no such file: save it with"
            " save_pretrained of the PEFT model it was trained in"
        )
    if ".lora_" in key and f"{module}.weight" in of_model:
        return f"holds {key}, which is no part of a plain LoRA adapter: {MERGE}"
    layer = re.match(r"model\.layers\.(\d+)\.", module)
    if layer and int(layer[1]) >= config.num_layers:
        return (
            f"adapts {key}, and the model has {config.num_layers} layers: is it the adapter of"
            " another model?"
        )
    verb = "adapts" if ".lora_" in key else "holds"
    return f"{verb} {key}, which {config.architecture} does not have"
