"""LoRA: low-rank adapters as a pytree of their own beside frozen weights.

An adapted layer computes x W + scale * drop(x) A B (Hu et al. 2021; peft's `lora.Linear`), with A
float32[in,r], B float32[r,out] and scale = alpha / rank. The pytree mirrors the parameters':
{"layers_0": {"self_attn": {"q_proj": {"lora_a": A, "lora_b": B}}}}. The decoder takes it as the
collection "lora" (`collection`), so that no weight is wrapped, masked or copied.
"""

from powerjax.models.lora.adapter import (
    TARGETS,
    Adapter,
    LoraConfig,
    check,
    collection,
    gated,
    init,
    layer_shardings,
    merge,
    shapes,
    shardings,
    unmerge,
)
from powerjax.models.lora.low_rank import Dropout, Mask, low_rank

__all__ = [
    "TARGETS",
    "Adapter",
    "Dropout",
    "LoraConfig",
    "Mask",
    "check",
    "collection",
    "gated",
    "init",
    "layer_shardings",
    "low_rank",
    "merge",
    "shapes",
    "shardings",
    "unmerge",
]
