"""adapter_config.json of a PEFT folder: its settings, checked, and the layers they name."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from powerjax.models import json_file, weight_files

# Settings that change what an adapter computes and are not supported: each has to be None, False or
# empty.
_UNSUPPORTED = (
    "use_dora",
    "fan_in_fan_out",
    "layer_replication",
    "trainable_token_indices",
    "lora_bias",
    "target_parameters",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
)
# Initialisations that subtract the first A B from the weights, so that the adapter fits no others.
_CHANGES_WEIGHTS = ("pissa", "olora", "corda", "loftq", "lora_ga")
CONFIG, WEIGHTS = weight_files.ADAPTER_CONFIG, weight_files.ADAPTER
MERGE = (
    "merge it into its model with PEFT (merge_and_unload, then save_pretrained) and give that"
    " folder as the model"
)


def read(folder: Path) -> dict[str, Any]:
    """Returns the contents of the folder's adapter_config.json, a LoRA adapter's.

    Raises FileNotFoundError where the folder is not an adapter's, and ValueError where the settings
    are damaged or ask for something that is not supported. Both say what to do.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(_why_no_adapter(folder, name))
    settings = json_file.read(folder / CONFIG)
    if settings.get("peft_type") != "LORA":
        raise ValueError(
            f"{folder} is a {settings.get('peft_type')} adapter, only LORA is read: if PEFT can"
            " merge it into its model (merge_and_unload), give the merged folder as the model"
        )
    used = [key for key in _UNSUPPORTED if settings.get(key)]
    if settings.get("bias", "none") != "none":
        used.append(f"bias {settings['bias']!r}")
    if str(settings.get("init_lora_weights")).lower().startswith(_CHANGES_WEIGHTS):
        used.append(f"init_lora_weights {settings['init_lora_weights']!r}")
    if used:
        raise ValueError(f"{folder} uses {', '.join(used)}, which is not supported: {MERGE}")
    _check_values(settings, str(folder / CONFIG))
    return settings


def _check_values(settings: dict[str, Any], file: str) -> None:
    """Raises ValueError for a value of a wrong type or size, and where rank or alpha is missing."""
    checks: tuple[tuple[str, str, Callable[..., float | None]], ...] = (
        ("r", "rank_pattern", json_file.whole_number),
        ("lora_alpha", "alpha_pattern", json_file.number),
    )
    for key, _, check in checks:
        if check(settings, key, file=file) is None:
            raise ValueError(f"{file} has no {key}: is it a PEFT adapter's?")
    json_file.number(settings, "lora_dropout", file=file, zero=True, most=1.0)
    json_file.switch(settings, "use_rslora", file=file)
    for _, key, check in checks:
        patterns = settings.get(key) or {}
        if not isinstance(patterns, dict):
            raise json_file.damaged(file, key, patterns, "an object of patterns")
        for pattern in patterns:
            if check(patterns, pattern, file=f"{key} of {file}") is None:
                raise json_file.damaged(file, key, patterns, "an object of numbers")
    for key in ("target_modules", "exclude_modules"):
        names = settings.get(key)
        listed = [names] if names is None or isinstance(names, str) else names
        if not (isinstance(listed, list) and all(isinstance(n, str | None) for n in listed)):
            raise json_file.damaged(file, key, names, "a pattern or a list of names")
    layers = settings.get("layers_to_transform")
    listed = layers if isinstance(layers, list) else [layers]
    if layers is not None and not all(type(n) is int for n in listed):
        raise json_file.damaged(file, "layers_to_transform", layers, "layer numbers")


def _why_no_adapter(folder: Path, name: str) -> str:
    """Returns the message about a folder that lacks `name`, one of the two files of an adapter."""
    if folder.is_file():
        return f"{folder} is a file: give the adapter's folder"
    if not folder.is_dir():
        return (
            f"{folder}: there is no such folder, with an {CONFIG}, and adapters are not downloaded:"
            " fetch one with huggingface_hub.snapshot_download and give its folder"
        )
    inside = sorted(str(path.parent) for path in folder.glob(f"*/{CONFIG}"))
    if inside:
        return f"{folder} has no {name}: is {' or '.join(inside[:3])} meant?"
    pickle = sorted(path.name for path in folder.glob("adapter_model*.bin"))
    alone = [*pickle, *(path.name for path in folder.glob(WEIGHTS))]
    if name == CONFIG and alone:
        return (
            f"{folder} holds {alone[0]} without the {CONFIG} that PEFT saves beside it: take the"
            " whole folder again"
        )
    if name == WEIGHTS and pickle:
        return (
            f"{folder} holds its adapter as {pickle[0]}, a pickle, and only {WEIGHTS} is read: load"
            " it with PEFT (PeftModel.from_pretrained) and save it again with save_pretrained"
        )
    if (folder / "config.json").is_file():
        return f"{folder} is a model's folder, without {name}: give it as the model, not an adapter"
    if list(folder.glob("*.gguf")):
        return f"{folder} has no {name}, and GGUF is not read: take the adapter as PEFT saved it"
    return f"{folder} has no {name}: is it a PEFT adapter's folder?"


def is_target(folder: Path, settings: dict[str, Any], module: str) -> bool:
    """Whether the settings name the module, by the rules of peft's check_target_module_exists.

    module: a name in the checkpoint, such as "model.layers.0.mlp.up_proj".
    """

    def named(names: str | list[str] | None) -> bool:
        if isinstance(names, str):
            return bool(_pattern(folder, names).fullmatch(module))
        return any(module == name or module.endswith(f".{name}") for name in names or ())

    if named(settings.get("exclude_modules")):
        return False
    targets = settings.get("target_modules")
    if targets == "all-linear":
        return True
    layers = settings.get("layers_to_transform")
    layers = [layers] if isinstance(layers, int) else layers
    index = re.search(r"\.(\d+)\.", module)
    if layers and not isinstance(targets, str) and (index is None or int(index[1]) not in layers):
        return False
    return named(targets)


def _pattern(folder: Path, text: str) -> re.Pattern[str]:
    """Compiles a pattern of the settings. Raises ValueError, naming the file, if it is invalid."""
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(f"{folder / CONFIG}: {text!r} is no pattern ({error})") from None


def by_pattern(folder: Path, settings: dict[str, Any], key: str, module: str, default):
    """Returns the value whose pattern fits the module's name, as peft's get_pattern_key finds it.

    key: "rank_pattern" or "alpha_pattern". default: the value where no pattern fits.
    """
    for pattern, value in (settings.get(key) or {}).items():
        if _pattern(folder, rf"(.*\.)?({pattern})$").match(module):
            return value
    return default
