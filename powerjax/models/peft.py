"""LoRA adapters as folders in the format of Hugging Face peft, in and out, without torch.

adapter_config.json and adapter_model.safetensors, the latter with
base_model.model.<module>.lora_A.weight [r,in] and .lora_B.weight [out,r]
(peft/utils/save_and_load.py). Phi-3's checkpoint fuses q, k, v and gate, up; the model here does
not. An adapter of k parts of a fused layer goes out as one of rank k * r there: A's stacked, B's on
the diagonal, the same function; such a one comes back in as its parts.
"""

import collections
import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from flax import traverse_util
from safetensors.numpy import save_file

from powerjax.models import lora, peft_settings, tensor_file
from powerjax.models.config import ModelConfig
from powerjax.models.layout import EMBEDDINGS, HEAD, Tensor, tensors
from powerjax.models.peft_settings import CONFIG, MERGE, WEIGHTS
from powerjax.models.tensor_file import StoredTensor

log = logging.getLogger(__name__)

_PREFIX = "base_model.model."
# What PEFT puts between the name of a layer and that of a tensor it has kept whole.
_WRAPPERS = re.compile(r"\.(base_layer|original_module|modules_to_save(\.default)?)(?=\.)")


def load(
    folder: str | os.PathLike,
    config: ModelConfig,
    mesh=None,
    *,
    base: Mapping[str, StoredTensor] | None = None,
    dtype=np.float32,
) -> lora.Adapter:
    """The adapter in `folder`, each tensor in float32 in its place on the mesh.

    A module whose rank_pattern or alpha_pattern gives it a scale of its own has the difference
    multiplied into its B. Whole tensors of the model that PEFT saved beside the adapter, such as
    embeddings, pass where they are the model's own, and are refused where they differ by more than
    rounding.

    base: the tensors of the model's files, and dtype: what they were loaded as, to tell which.

    Raises FileNotFoundError or ValueError, naming folder and module, where the adapter is
    incomplete, of another model, or of a kind that is not LoRA.
    """
    name, folder = str(folder), Path(folder)
    settings = peft_settings.read(folder)
    stored = tensor_file.read_header(folder / WEIGHTS)
    modules = _modules(config)
    scale = _scale(settings, settings["r"], settings["lora_alpha"])
    flat, targets = {}, set()
    for key in sorted(stored):
        module, _, part = key.removeprefix(_PREFIX).rpartition(".lora_")
        if part == "B.weight" and key.replace(".lora_B.", ".lora_A.") in stored:
            continue
        if part != "A.weight" or module not in modules:
            _check_whole(folder, stored[key], config, base, dtype)
            continue
        a, b = stored[key], stored.get(key.replace(".lora_A.", ".lora_B."))
        rank = peft_settings.by_pattern(folder, settings, "rank_pattern", module, settings["r"])
        parts = modules[module]
        in_size, out_size = parts[0][1].shape[0], parts[0][1].file_rows
        if b is None or a.shape != (rank, in_size) or b.shape != (out_size, rank):
            raise ValueError(
                f"{folder}: {module} has A {a.shape} and B {b and b.shape}, "
                f"but rank {rank} and the model ask for {(rank, in_size)} and {(out_size, rank)}"
            )
        alpha = peft_settings.by_pattern(
            folder, settings, "alpha_pattern", module, settings["lora_alpha"]
        )
        a = tensor_file.read_tensor(a, np.float32)
        b = tensor_file.read_tensor(b, np.float32)
        b = b * np.float32(_scale(settings, rank, alpha) / scale)
        for path, tensor, a_part, b_part in _unfused(parts, a, b, settings["r"]):
            places = lora.layer_shardings(path, tensor.shape, config, mesh)
            for letter, x, place in zip("ab", (a_part, b_part), places, strict=True):
                flat[f"{path}/lora_{letter}"] = _place(np.ascontiguousarray(x.T), place)
            targets.add(path.split("/")[-1])
    if not flat:
        raise ValueError(f"{folder} holds no adapter weights: was it saved before training?")
    _check_layers(folder, settings, modules, stored)
    found = lora.LoraConfig(
        rank=settings["r"],
        alpha=float(settings["lora_alpha"]),
        dropout=float(settings.get("lora_dropout") or 0.0),
        target_modules=tuple(t for t in lora.TARGETS if t in targets),
        rslora=bool(settings.get("use_rslora")),
    )
    return lora.Adapter(found, traverse_util.unflatten_dict(flat, sep="/"), name)


def _check_whole(
    folder: Path,
    tensor: StoredTensor,
    config: ModelConfig,
    base: Mapping[str, StoredTensor] | None,
    dtype,
) -> None:
    """Refuses a tensor that is not of an adapted layer, unless it is the model's own.

    One that is the model's own rounded to the dtype it is stored in is named in the log.
    """
    name = _WRAPPERS.sub("", tensor.name.removeprefix(_PREFIX))
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
    """Why a tensor of an adapter's file cannot be used, to follow the folder's name."""
    module = re.sub(r"\.lora_.*", "", _WRAPPERS.sub("", key.removeprefix(_PREFIX)))
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


def save(
    folder: str | os.PathLike, adapter: lora.Adapter, config: ModelConfig, *, base_model: str = ""
) -> None:
    """Writes the adapter as a folder that peft's PeftModel.from_pretrained loads.

    base_model: the id or folder of the model it adapts, for the file's reader.
    """
    flat = {
        path: np.asarray(jax.device_get(x), np.float32)
        for path, x in traverse_util.flatten_dict(adapter.params, sep="/").items()
    }
    arrays, ranks = {}, {}
    for module, parts in _modules(config).items():
        fused = _fused(parts, flat)
        if fused is None:
            continue
        ranks[module] = fused[0].shape[0]
        arrays[f"{_PREFIX}{module}.lora_A.weight"] = fused[0]
        arrays[f"{_PREFIX}{module}.lora_B.weight"] = fused[1]
    rank, scale = adapter.config.rank, adapter.config.scale
    names = _short_names(ranks, _modules(config))
    other = {names[module]: r for module, r in ranks.items() if r != rank}
    to_alpha = (lambda r: scale * r**0.5) if adapter.config.rslora else (lambda r: scale * r)
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": _plain(adapter.config.alpha),
        "lora_dropout": adapter.config.dropout,
        "target_modules": sorted(set(names.values())),
        "rank_pattern": other,
        "alpha_pattern": {name: _plain(to_alpha(r)) for name, r in other.items()},
        "use_rslora": adapter.config.rslora,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(arrays, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(settings, indent=2) + "\n")


def _modules(config: ModelConfig) -> dict[str, list[tuple[str, Tensor]]]:
    """The linear layers of the checkpoint by module name, with the parts they are made of here."""
    found = collections.defaultdict(list)
    for path, tensor in tensors(config).items():
        if path.startswith("layers_") and path.endswith("/kernel"):
            found[tensor.name.removesuffix(".weight")].append(
                (path.removesuffix("/kernel"), tensor)
            )
    return dict(found)


def _unfused(parts, a: np.ndarray, b: np.ndarray, rank: int):
    """(path, tensor, A [r,in], B [out,r]) of each part that a module's A and B adapt."""
    if len(parts) == 1:
        (path, tensor) = parts[0]
        yield path, tensor, a, b
        return
    blocks = _diagonal(parts, b, rank)
    for (path, tensor), block in zip(parts, blocks, strict=True):
        if block is not None:
            yield path, tensor, a[block], b[tensor.start : tensor.stop, block]


def _diagonal(parts, b: np.ndarray, rank: int) -> list[slice | None]:
    """Which of the module's ranks each part uses: its own where B is block-diagonal, else all.

    A part without a block (None) was not adapted.
    """
    count = len(parts)
    if b.shape[1] % rank:
        return [slice(None)] * count
    blocks = [slice(i, i + rank) for i in range(0, b.shape[1], rank)]
    used = np.array([[b[t.start : t.stop, block].any() for block in blocks] for _, t in parts])
    if len(blocks) == count and not used[~np.eye(count, dtype=bool)].any():
        return blocks  # those of a fresh adapter too, whose B is all zeros
    if (used.sum(0) == 1).all() and (used.sum(1) <= 1).all():
        return [blocks[row.argmax()] if row.any() else None for row in used]
    return [slice(None)] * count


def _fused(parts, flat: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """The module's A [r,in] and B [out,r]: its parts' A stacked, their B on the diagonal."""
    adapted = [(path, tensor) for path, tensor in parts if f"{path}/lora_a" in flat]
    if not adapted:
        return None
    a = np.concatenate([flat[f"{path}/lora_a"].T for path, _ in adapted])
    b = np.zeros((parts[0][1].file_rows, a.shape[0]), np.float32)
    column = 0
    for path, tensor in adapted:
        block = flat[f"{path}/lora_b"].T
        b[tensor.start : tensor.stop, column : column + block.shape[1]] = block
        column += block.shape[1]
    return np.ascontiguousarray(a), b


def _short_names(ranks: dict[str, int], modules) -> dict[str, str]:
    """How the config names each adapted module: `q_proj` where all layers' agree, else in full."""
    groups = collections.defaultdict(list)
    for module in modules:
        groups[module.rpartition(".")[2]].append(module)
    names = {}
    for short, members in groups.items():
        agree = len({ranks.get(module) for module in members}) == 1
        names |= {module: short if agree else module for module in members if module in ranks}
    return names


def _check_layers(folder: Path, settings: dict, modules, stored) -> None:
    """Refuses an adapter that lacks one of the layers its settings name, or has one they do not.

    Where it lacks one, it is of a model with fewer layers, whose shapes may all be the same. One
    that the settings do not name would not be applied by PEFT.
    """
    adapted = {key.removeprefix(_PREFIX).rpartition(".lora_")[0] for key in stored}
    meant = collections.defaultdict(list)
    for module in modules:
        if peft_settings.is_target(folder, settings, module):
            meant[module.rpartition(".")[2]].append(module)
    for target, members in meant.items():
        there = adapted.intersection(members)
        if len(there) != len(members):
            raise ValueError(
                f"{folder} adapts {target} in {len(there)} layers, and the model has"
                f" {len(members)}: is it the adapter of another model?"
            )
    unnamed = sorted(adapted.intersection(modules).difference(*meant.values()))
    if unnamed and settings.get("target_modules"):
        raise ValueError(
            f"{folder} adapts {unnamed[0]}, which target_modules, exclude_modules or"
            f" layers_to_transform of its {CONFIG} leave out: was the file changed by hand?"
        )


def _scale(settings: dict, rank: int, alpha: float) -> float:
    return alpha / (rank**0.5 if settings.get("use_rslora") else rank)


def _place(x: np.ndarray, sharding) -> jax.Array:
    if sharding is None:
        return jax.device_put(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def _plain(number: float) -> float | int:
    return int(number) if float(number).is_integer() else float(number)
