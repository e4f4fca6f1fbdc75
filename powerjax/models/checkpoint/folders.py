"""Finding a model's folder or GGUF file, downloading it if need be, and reading its config."""

import re
from pathlib import Path
from typing import Any

from powerjax.models import gguf, json_file, weight_files
from powerjax.models.config import ModelConfig

_TINY = Path(__file__).parents[1] / "assets" / "tiny"
_SMALL_FILES = ("*.json", "*.txt", "*.jinja", "tokenizer.model")
_WEIGHT_FILES = ("*.safetensors",)


def find_folder(name_or_folder: str, *, revision: str | None = None, weights: bool = True) -> Path:
    """Returns the folder of "tiny", of a local path, or of a Hugging Face id; or a GGUF file.

    A Hugging Face id that is not in the local cache is downloaded.

    Args:
      revision: branch, tag or commit of a Hugging Face id; None is its default branch.
      weights: whether to download the weights too, and not only the small files.

    Raises FileNotFoundError that says in one line why there is no such folder.
    """
    if name_or_folder == "tiny":
        if not (_TINY / "config.json").is_file():
            raise FileNotFoundError(
                "the embedded model is missing from this installation: make it with "
                "python -m experiments.pretrain_tiny"
            )
        return _TINY
    folder = Path(name_or_folder).expanduser()
    if folder.is_dir():
        return folder
    if gguf.is_gguf(folder):
        return folder
    if folder.is_file():
        raise FileNotFoundError(
            f"{folder} is a file, and a model is a folder or a GGUF file: give the folder it is in"
        )
    if folder.suffix == ".gguf":
        raise FileNotFoundError(f"{folder}: no such file")
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name_or_folder):
        raise FileNotFoundError(
            f"{name_or_folder}: no such folder, and not a Hugging Face id (owner/name)"
        )
    if name_or_folder.lower().endswith("-gguf"):
        raise FileNotFoundError(
            f"{name_or_folder} holds GGUF files by its name: download one of them, as by"
            f" `hf download {name_or_folder} FILE.gguf --local-dir .`, and give its path"
        )
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(
                name_or_folder,
                revision=revision,
                allow_patterns=[*_SMALL_FILES, *(_WEIGHT_FILES if weights else ())],
                ignore_patterns=["*/*"],
            )
        )
    except Exception as error:
        raise FileNotFoundError(_download_failure(name_or_folder, revision, error)) from error


def _download_failure(name: str, revision: str | None, error: Exception) -> str:
    """Returns the one line that says why a download failed and what to do."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        why = "it is gated: accept its terms on its page and set HF_TOKEN"
    elif isinstance(error, errors.RevisionNotFoundError):
        why = f"it has no revision {revision!r}"
    elif isinstance(error, errors.RepositoryNotFoundError):
        why = "there is no such folder or Hugging Face id (or it is private: set HF_TOKEN)"
    elif isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        why = (
            "it is neither a folder nor in the local cache, and the hub cannot be reached: "
            "check the network, HF_HUB_OFFLINE and HF_HOME, or give a folder"
        )
    else:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        why = f"the download failed: {reason}"
    return f"cannot load {name!r}: {why}"


def read_config(folder: Path) -> dict[str, Any]:
    """Returns the folder's config.json as a dict, or what a GGUF file says in its place.

    Raises FileNotFoundError where there is none, and says what the folder looks like instead.
    """
    if folder.is_file():
        return gguf.read_config(folder)
    path = folder / "config.json"
    if path.is_file():
        return json_file.read(path)
    if (folder / weight_files.ADAPTER_CONFIG).is_file():
        base = json_file.read(folder / weight_files.ADAPTER_CONFIG).get("base_model_name_or_path")
        raise FileNotFoundError(
            f"{folder} is an adapter's folder: give its base model{f' ({base})' if base else ''} as"
            " the model, and this folder as the adapter"
        )
    inside = [name for name in ("merged", "adapter") if (folder / name).is_dir()]
    if inside:
        raise FileNotFoundError(
            f"{folder} has no config.json, and is a run's folder: its student is"
            f" {' or '.join(str(folder / name) for name in inside)}"
        )
    found = sorted(folder.glob("*.gguf"))
    if found:
        raise FileNotFoundError(f"{folder} has no config.json: {weight_files.give_gguf(found[0])}")
    raise FileNotFoundError(f"{folder} has no config.json: is it a model folder?")


def model_config(folder: Path, hf: dict[str, Any]) -> ModelConfig:
    """Returns `ModelConfig.from_hf` of what `read_config` read; errors name the folder too."""
    try:
        return ModelConfig.from_hf(hf)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
