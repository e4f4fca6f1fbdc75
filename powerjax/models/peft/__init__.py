"""LoRA adapters as folders in the format of Hugging Face peft, in and out, without torch.

A folder holds adapter_config.json and adapter_model.safetensors. The latter has two tensors per
adapted module: base_model.model.<module>.lora_A.weight [r,in] and .lora_B.weight [out,r]
(peft/utils/save_and_load.py).
"""

from powerjax.models.peft.reading import load
from powerjax.models.peft.writing import save

__all__ = ["load", "save"]
