"""Real weights: is a model here the one that transformers computes, number by number?

    python -m benchmarks.real_parity --model=MODEL --reference=FOLDER

MODEL is a folder in Hugging Face's format or a GGUF file, FOLDER the same model in that format.
Everything is in float32 on the CPU. Lines: the tokenizer on eight texts; for a GGUF file every
tensor against FOLDER, as narrow as it is there, and against the package gguf's own dequantisation,
which is also what transformers then runs; logits; 64 greedy tokens. It needs torch (the extra
`parity`), and for a GGUF file four bytes of a temporary folder for each of the model's numbers.
"""

import contextlib
import dataclasses
import hashlib
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from absl import app, flags
from safetensors.numpy import save_file

from benchmarks.lines import Lines
from powerjax import models, sample
from powerjax.models import gguf, tensor_file, text, weight_files

_MODEL = flags.DEFINE_string("model", None, "The model: a folder or a GGUF file.")
_REFERENCE = flags.DEFINE_string(
    "reference", None, "The same model as a folder in Hugging Face's format."
)
_NUM_GREEDY = 64
_TEXTS = (
    "def fib(n):\n    if n < 2:\n        return n\n    return fib(n - 1) + fib(n - 2)\n",
    "  two  spaces,   three\tand a tab ",
    "naïve café e\u0301, 你好，世界, Привет",
    "🦙🦙 👩‍👩‍👧 \u200b end",
    "\n\n\r\n \n  the end\n",
    "<|im_start|>user\nHello<|im_end|>\n<|endoftext|><s></s><bos><|eot_id|>",
    "1 12 123 1,234,567.89e-10 ½ ٣",
    "It's they'LL DOESN'T \u3000x",
)
_PROMPTS = (_TEXTS[0] + "\n\nprint(", "The capital of France is", _TEXTS[2])


def dequantised(path: Path, reference: Path, folder: Path) -> Path:
    """Writes a GGUF file as a folder in float32 and returns it, by the package `gguf` alone.

    reference: where config and tokenizer are from, and the names of the tensors.
    """
    import gguf as package

    reader = package.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    value = lambda key: reader.fields[f"{architecture}.{key}"].contents()  # noqa: E731
    arch = next(k for k, v in package.MODEL_ARCH_NAMES.items() if v == architecture)
    names = package.get_tensor_name_map(arch, value("block_count"))
    heads = {"q_proj": "attention.head_count", "k_proj": "attention.head_count_kv"}
    arrays, by_name = {}, {tensor.name: tensor for tensor in reader.tensors}
    for name in weight_files.read_headers(reference):
        tensor = by_name[names.get_name(name, try_suffixes=(".weight", ".bias"))]
        x = package.quants.dequantize(tensor.data, tensor.tensor_type)
        projection = name.split(".")[-2]
        if architecture == "llama" and projection in heads:
            n = value(heads[projection])
            pairs = x.reshape(n, len(x) // n // 2, 2, *x.shape[1:])
            x = pairs.swapaxes(1, 2).reshape(x.shape)
        if architecture == "gemma3" and name.endswith("norm.weight"):
            x = x - np.float32(1)
        arrays[name] = np.ascontiguousarray(x)
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    for file in reference.glob("*.json"):
        if not file.name.endswith(".index.json"):
            shutil.copy(file, folder)
    return folder


def equal_tensors(path: Path, reference: Path) -> tuple[int, int]:
    """Returns how many tensors of a GGUF file are those of a folder in its dtype, and how many."""
    read, expected = gguf.read_headers(path), weight_files.read_headers(reference)
    same = [
        name in read and tensor_file.equal(read[name], tensor, tensor_file.stored_dtype(tensor))
        for name, tensor in expected.items()
    ]
    return sum(same), len(same)


def digests(lm: models.LM) -> dict[str, str]:
    """Returns a hash of every parameter's bytes."""
    leaves = jax.tree_util.tree_leaves_with_path(lm.params)
    return {
        jax.tree_util.keystr(path): hashlib.sha256(np.asarray(x).tobytes()).hexdigest()
        for path, x in leaves
    }


class Torch:
    """transformers' own model of a folder, in float32."""

    def __init__(self, folder: Path):
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()
        warnings.simplefilter("ignore", FutureWarning)  # newer ones call past_key_values cache
        self._torch = torch
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def logits(self, ids: list[int]) -> np.ndarray:
        """Returns float32[T,V]."""
        with self._torch.no_grad():
            return self._model(self._torch.tensor([ids])).logits[0].numpy()

    def greedy(self, ids: list[int]) -> list[int]:
        """Returns the tokens of largest logit, decoded with a cache; no token ends them."""
        found, cache, fed = [], None, ids
        with self._torch.no_grad():
            for _ in range(_NUM_GREEDY):
                fed = self._torch.tensor([fed])
                out = self._model(fed, past_key_values=cache, use_cache=True)
                cache, fed = out.past_key_values, [int(out.logits[0, -1].argmax())]
                found += fed
        return found


def greedy(lm: models.LM, prompts: list[list[int]]) -> list[list[int]]:
    """Returns 64 greedy tokens of each prompt, by the project's sampler; no token ends them."""
    out = sample.standard(
        dataclasses.replace(lm, stop_ids=(-1,)),
        prompts,
        top_k=1,
        max_new_tokens=_NUM_GREEDY,
        progress=False,
    )
    return [list(completion.tokens) for completion in out]


@contextlib.contextmanager
def weights_of(path: Path, reference: Path, lines: Lines) -> Iterator[Path]:
    """Gives the folder whose numbers the model has to have, once a GGUF's tensors are compared."""
    if not gguf.is_gguf(path):
        yield reference
        return
    same, of = equal_tensors(path, reference)
    lines.add("tensors as the reference has them", f"{same} of {of}", "all")
    with tempfile.TemporaryDirectory() as scratch:
        yield dequantised(path, reference, Path(scratch))


def main(_):
    if _MODEL.value is None or _REFERENCE.value is None:
        sys.exit("benchmarks.real_parity: name the model by --model and its folder by --reference")
    path, reference = Path(_MODEL.value).expanduser(), Path(_REFERENCE.value).expanduser()
    lines = Lines(40, 22)
    lines.begin()
    own, expected = text.load_tokenizer(path), text.load_tokenizer(reference)
    same = [own(string)["input_ids"] == expected(string)["input_ids"] for string in _TEXTS]
    lines.add("texts that are the same tokens", f"{sum(same)} of {len(same)}", "all")
    prompts = [text.encode(expected, prompt) for prompt in _PROMPTS]
    with weights_of(path, reference, lines) as folder:
        if folder != reference:
            hashes = digests(models.load(folder, dtype="float32"))
            lm = models.load(path, dtype="float32")
            same = [hashes.get(name) == found for name, found in digests(lm).items()]
            what = "parameters bit for bit, in float32"
            lines.add(what, f"{sum(same)} of {len(same)}", f"{len(hashes)} by the package gguf")
        else:
            lm = models.load(path, dtype="float32")
        print(lm)
        other = Torch(folder)
    for i, ids in enumerate(prompts):
        logits, theirs = np.asarray(lm.logits(np.array([ids]))[0]), other.logits(ids)
        worst, scale = np.abs(logits - theirs).max(), np.abs(theirs).max()
        measured = f"{worst:.1e} / {scale:.1f} = {worst / scale:.1e}"
        lines.add(f"prompt {i}, {len(ids)} tokens: max|dlogit|", measured, "float32's rounding")
    for i, (ids, found) in enumerate(zip(prompts, greedy(lm, prompts), strict=True)):
        alike = np.equal(found, other.greedy(ids))
        same = len(alike) if alike.all() else int(alike.argmin())
        lines.add(f"prompt {i}: greedy tokens alike", f"{same} of {_NUM_GREEDY}", "all")


if __name__ == "__main__":
    app.run(main)
