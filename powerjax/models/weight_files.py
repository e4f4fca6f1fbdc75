"""Which files of a folder are its model's weights: those that transformers reads.

These are model.safetensors, or else the shards that model.safetensors.index.json names. Shards
without an index are read too. Other safetensors files are not read, and are named in the log. A
GGUF file is a whole model by itself.
"""

import itertools
import logging
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from powerjax.models import gguf, json_file, tensor_file

log = logging.getLogger(__name__)

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_SHARD = re.compile(r"model-\d+-of-(\d*[1-9]\d*)\.safetensors")
_CONVERT = "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"


def read_headers(folder: Path, named: str | None = None) -> dict[str, tensor_file.StoredTensor]:
    """Returns every tensor of the folder's or GGUF file's model, by its Hugging Face name.

    named: the file or index of shards that config.json names as `transformers_weights`; None where
        it names none.

    Raises FileNotFoundError where there are no weights or a shard is missing, and ValueError where
    a file is damaged or two files hold the same tensor.
    """
    if folder.is_file():
        return gguf.read_headers(folder)
    names = _names(folder, named)
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)} ({len(missing)} of {len(names)} shards): "
            "download it again"
        )
    stored: dict[str, tensor_file.StoredTensor] = {}
    for name in sorted(names):
        for tensor in tensor_file.read_header(folder / name).values():
            if tensor.name in stored:
                raise ValueError(
                    f"the tensor {tensor.name} stands in both {stored[tensor.name].path} and"
                    f" {tensor.path}: remove the file that is not the model's"
                )
            stored[tensor.name] = tensor
    others = sorted(path.name for path in folder.glob("*.safetensors") if path.name not in names)
    if others:
        read = min(names) if len(names) == 1 else f"{len(names)} files, {min(names)} and so on"
        log.warning(
            "%s: the weights are those of %s; not read: %s", folder, read, ", ".join(others)
        )
    return stored


def _names(folder: Path, named: str | None) -> set[str]:
    """Returns the names of the files that hold the weights; some of them may be missing.

    Raises FileNotFoundError where the folder shows no sign of weights, see `_why_none`.
    """
    if named is not None:
        if not isinstance(named, str) or not named.endswith(
            (".safetensors", ".safetensors.index.json")
        ):
            raise json_file.damaged(
                "config.json", "transformers_weights", named, "the name of a safetensors file"
            )
        return _indexed(folder / named) if named.endswith(".json") else {named}
    if (folder / SINGLE).is_file():
        return {SINGLE}
    if (folder / INDEX).is_file():
        return _indexed(folder / INDEX)
    counts = {match[1] for path in folder.iterdir() if (match := _SHARD.fullmatch(path.name))}
    if not counts:
        raise FileNotFoundError(_why_none(folder))
    return {
        f"model-{i + 1:0{len(count)}d}-of-{count}.safetensors"
        for count in counts
        for i in range(int(count))
    }


def _indexed(path: Path) -> set[str]:
    """Returns the names of the files that an index of shards lists."""
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} lacks {path.name}: download it again")
    files = json_file.read(path).get("weight_map")
    if (
        not isinstance(files, dict)
        or not files
        or not all(isinstance(f, str) for f in files.values())
    ):
        raise ValueError(f"{path} has no weight_map from tensors to files: download it again")
    return set(files.values())


def _why_none(folder: Path) -> str:
    """Returns the message about a folder without weights that can be read."""
    names = sorted(path.name for path in folder.iterdir())
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
    tensors = [name for name in names if name.endswith(".safetensors")]
    whole = [name for name in names if name.endswith(".gguf")]
    if ADAPTER in tensors or ADAPTER_CONFIG in names:
        return (
            f"{folder} holds an adapter and no model: give its base model, and this folder as the"
            " adapter"
        )
    if SINGLE in tensors:
        return f"{folder / SINGLE} is no file, or a link to a file that is gone: download it again"
    if len(tensors) > 1:
        return (
            f"{folder} has no {SINGLE}, index or shards, and transformers reads none of the names"
            f" {', '.join(tensors)}: if they are the model's, rename one file to {SINGLE}, or"
            f" shards to model-00001-of-{len(tensors):05d}.safetensors and so on"
        )
    if tensors:
        return (
            f"{folder} has no {SINGLE}, index or shards, and {tensors[0]} is not a name that"
            f" transformers reads: if it is the model's, rename it to {SINGLE}"
        )
    if pickles:
        return (
            f"{folder} holds its weights as {pickles[0]}, a pickle, and only safetensors are read:"
            f" convert it with transformers, {_CONVERT}"
        )
    if whole:
        return f"{folder} holds no safetensors: {give_gguf(folder / whole[0])}"
    return (
        f"{folder} has no *.safetensors file: convert the checkpoint, or give "
        "random_weights=True for its shapes alone"
    )


def give_gguf(path: Path) -> str:
    """Returns what to do with a GGUF file that was found where a folder's files were looked for."""
    return f"a GGUF file is a model by itself, so give its path, {path}"


def grouped(names: Iterable[str]) -> str:
    """Returns tensor names in few words, such as `model.layers.2-3.{mlp.up.weight, norm.weight}`.

    Names that differ only in their first number become one, with the range of the numbers. Names
    with the same numbers are put together in braces.
    """
    plain, numbers = [], defaultdict(set)
    for name in names:
        if match := re.fullmatch(r"((?:.*?\.)?)(\d+)\.(.*)", name):
            numbers[match[1], match[3]].add(int(match[2]))
        else:
            plain.append(name)
    tails = defaultdict(list)
    for (head, tail), members in sorted(numbers.items()):
        tails[f"{head}{_ranges(members)}."].append(tail)
    return ", ".join(
        [*sorted(plain)]
        + [
            f"{head}{t[0] if len(t) == 1 else '{' + ', '.join(t) + '}'}"
            for head, t in tails.items()
        ]
    )


def _ranges(numbers: set[int]) -> str:
    """Returns `0-3,7` for {0, 1, 2, 3, 7}."""
    parts = []
    for _, run in itertools.groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        parts.append(f"{members[0]}-{members[-1]}" if len(members) > 1 else f"{members[0]}")
    return ",".join(parts)
