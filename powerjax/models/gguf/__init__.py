"""GGUF files in: their config, their weights and their tokenizer.

The format is that of llama.cpp. `file_format.py` reads the header, `config.py` turns it into a
Hugging Face config, `names.py` and `tensors.py` find the weights under their Hugging Face names,
and `tokenizer.py` builds the tokenizer.
"""

from powerjax.models.gguf.config import ARCHITECTURES, read_config, stop_ids
from powerjax.models.gguf.file_format import Header, is_gguf, read
from powerjax.models.gguf.tensors import dequantised_from, read_headers
from powerjax.models.gguf.tokenizer import build_tokenizer, has_tokens_of

__all__ = [
    "ARCHITECTURES",
    "Header",
    "build_tokenizer",
    "dequantised_from",
    "has_tokens_of",
    "is_gguf",
    "read",
    "read_config",
    "read_headers",
    "stop_ids",
]
