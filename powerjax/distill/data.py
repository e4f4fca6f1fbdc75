"""Prompt-completion records -> bucketed batches that say which tokens are the completion's.

The order of examples is a function of (seed, epoch), a batch of its examples alone: a run that was
killed sees the same batches again, and so does every mesh.
"""

import dataclasses
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from powerjax import records
from powerjax.distill import step as step_lib
from powerjax.models import LM, buckets, prompts, text
from powerjax.records import fields, scalars

log = logging.getLogger(__name__)

_CHECKED = {name: fields.FIELDS[name] for name in ("finish_reason", "prompt_sha256")}
_TEXT_OR_IDS = fields.Kind(
    lambda value: isinstance(value, str) or fields.IDS.fits(value), "text or token ids"
)

SMALLEST_BUCKET = 16  # tokens
TOKENS = 1024  # that a device takes at a time
# A CPU maps a step's memory anew at each call, at more than a tenth of the step's time; what comes
# later in a loop finds it mapped, and more of it in the cache.
TOKENS_ON_CPU = 512


@dataclasses.dataclass(frozen=True)
class Example:
    """Token ids of a prompt and its completion (EOS included where it ended)."""

    id: str
    prompt: list[int]
    completion: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """What `load` made of the records.

    Attributes:
      examples: in the order of their tokens, whatever that of the records; none is longer than
        max_length.
      max_length: tokens of prompt and completion.
      num_truncated: examples cut at max_length.
      num_dropped: records left out, because their prompt fills the window.
      num_without_eos: examples whose completion does not end in a stop token.
      fingerprint: SHA-256 over all token ids, in the examples' order.
    """

    examples: list[Example]
    max_length: int
    num_truncated: int = 0
    num_dropped: int = 0
    num_without_eos: int = 0
    fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.examples)


def load(lm: LM, source: Any, *, max_length: int = 1024) -> Corpus:
    """Reads records for the model to learn from.

    Args:
      source: a JSONL file, a folder of `datasets.save_to_disk`, a Hugging Face dataset id (its
        split "train"), a `datasets.Dataset`, or any iterable of dicts. A row has a `prompt`, and
        either `tokens` (EOS included, as the project's records have them) or a `completion`. A
        prompt is a text, token ids or a list of chat messages, a completion a text or token ids. A
        text is encoded as it follows its prompt, and a completion gets EOS unless the row's
        finish_reason is "length". A prompt that a chat template made gets no special tokens beside
        its own: it has BOS in its text, or the row's prompt_style is "chat".
      max_length: tokens of prompt and completion; what is longer is cut there.

    Raises a ValueError or FileNotFoundError of one line, with file and line number, for what cannot
    be learnt from. A last line that a kill cut short is left out.
    """
    number = scalars.whole(max_length)
    if number is None or number < 2:
        raise ValueError(
            f"--max_length={scalars.shown(max_length)}: it must be a whole number, 2 or more, for a"
            " prompt and a completion"
        )
    max_length = number
    name, rows = _rows(source)
    eos = _eos(lm)
    examples, longest, truncated, dropped, total = [], 0, 0, 0, 0
    for where, row in rows:
        example = _example(lm, row, where, eos)
        total += 1
        longest = max(longest, len(example))
        if len(example.prompt) >= max_length:
            dropped += 1
            continue
        if len(example) > max_length:
            truncated += 1
            room = max_length - len(example.prompt)
            example = dataclasses.replace(example, completion=example.completion[:room])
        examples.append(example)
    if not total:
        raise ValueError(f"{name} holds no examples")
    if truncated + dropped == total:
        raise ValueError(
            f"{name}: every example is longer than --max_length={max_length}; the longest has"
            f" {longest} tokens (prompt and completion)"
        )
    # A record file is in the order in which chains finished, which is no part of the run.
    examples.sort(key=lambda example: (example.prompt, example.completion))
    _check_context(lm, name, max(map(len, examples)))
    unfinished = sum(example.completion[-1] not in lm.stop_ids for example in examples)
    if unfinished:
        log.warning(
            "%s: %d of %d completions do not end in a stop token; from those the student does not"
            " learn to stop",
            *(name, unfinished, len(examples)),
        )
    return Corpus(examples, max_length, truncated, dropped, unfinished, _fingerprint(examples))


def _rows(source: Any) -> tuple[str, Iterator[tuple[str, Any]]]:
    """What to call the source, and its rows, each with what to call it."""
    if not isinstance(source, str | os.PathLike):
        if not isinstance(source, Iterable) or isinstance(source, Mapping | bytes):
            raise ValueError(
                f"the records are {scalars.shown(source)}: give a file, a folder, a dataset id, or"
                " a list of dicts"
            )
        name = type(source).__name__ if hasattr(source, "features") else "records"
        return name, _numbered(name, source)
    name, path = str(source), Path(source)
    if not name:
        raise ValueError("the records' name is empty: give a file, a folder or a dataset id")
    if path.is_file():
        return name, ((f"{name}, line {n}", row) for n, row in _lines(path))
    return name, _numbered(name, _dataset(name, path))


def _numbered(name: str, rows: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"{name}, row {n}", row) for n, row in enumerate(rows, start=1))


def _lines(path: Path) -> Iterator[tuple[int, records.Record]]:
    """(line number, row) of a JSONL file; a torn last line is left out, with a warning."""
    whole = list(records.whole_rows(path))
    if not records.is_cut_short(path):
        return iter(whole)
    if not whole:
        return records.rows(path)  # one line that is not JSON: no record at all
    log.warning("%s: the last line is cut short and left out", path)
    return iter(whole)


def _dataset(name: str, path: Path):
    """A dataset of the `datasets` library, from a folder or the hub."""
    if (path / "records.jsonl").is_file():
        raise ValueError(f"{name} is the folder of a run: give {path / 'records.jsonl'}")
    looks_like_file = path.suffix in (".json", ".jsonl") or path.is_absolute()
    if not path.exists() and (looks_like_file or name.count("/") > 1):
        raise FileNotFoundError(f"{name}: no such file")
    import datasets  # here, because it is slow to import

    try:
        if path.is_dir():
            found = datasets.load_from_disk(name)
        else:
            found = datasets.load_dataset(name)
    except Exception as error:  # many kinds: of the folder, the hub, the network, the builder
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        what = "not a folder of datasets.save_to_disk" if path.is_dir() else "no file or folder"
        asked = "" if path.is_dir() else ", and the Hugging Face hub does not give it"
        raise ValueError(f"{name}: {what}{asked} ({reason})") from None
    if hasattr(found, "keys"):  # a DatasetDict
        if "train" not in found:
            raise ValueError(f"{name} has no split 'train', only {', '.join(found)}")
        found = found["train"]
    return found


def _example(lm: LM, row: Any, where: str, eos: int | None) -> Example:
    if not hasattr(row, "keys"):
        raise ValueError(f"{where}: expected a dict, found {type(row).__name__}")
    row = {key: value for key, value in row.items() if value is not None}
    given = "tokens" if "tokens" in row else "completion"
    for field in ("prompt", given):
        if field not in row:
            if field == "prompt" and "prompt_sha256" in row:
                raise ValueError(
                    f"{where}: no prompt, only its prompt_sha256, for its text is secret: name the"
                    " task it was sampled from, --task=gpqa_rest, say"
                )
            raise ValueError(f"{where}: no {field}, only {scalars.listed(row) or 'nothing'}")
    fields.check(row, where, kinds=_CHECKED)
    prompt = prompts.encode(lm, text.recorded_prompt(row), f"{where}: prompt")
    if given == "tokens":
        fields.check(row, where, kinds={"completion": _TEXT_OR_IDS})
        completion = prompts.ids(lm, row["tokens"], f"{where}: tokens")
    else:
        here = f"{where}: completion"
        completion = prompts.encode(lm, row["completion"], here, special=False, chat=False)
    for field, ids in (("prompt", prompt), (given, completion)):
        if not ids:
            raise ValueError(f"{where}: {field} is empty")
    if given == "tokens":
        _check_text(lm, completion, row.get("completion"), where)
    else:
        completion = _in_place(lm, row, prompt, completion, where)
        if eos is not None and row.get("finish_reason") != "length":
            completion = completion + ([] if completion[-1] in lm.stop_ids else [eos])
    return Example(str(row.get("id", where)), prompt, completion)


def _in_place(lm: LM, row: Any, prompt: list[int], alone: list[int], where: str) -> list[int]:
    """Ids of a text completion as it follows its prompt, where that leaves the prompt's ids alone.

    Tokenizers as Phi's begin whatever they are given with a space: encoded `alone`, a completion
    would have one that its text has not.
    """
    if not isinstance(row["prompt"], str) or not isinstance(row["completion"], str):
        return alone
    whole = text.recorded_prompt(row) + row["completion"]
    both, size = lm.encode(whole, what=f"{where}: completion"), len(prompt)
    return both[size:] if both[:size] == prompt and both[size:] else alone


def _check_text(lm: LM, tokens: list[int], text: Any, where: str) -> None:
    """Refuses tokens of another model: they would be learnt as nonsense."""
    if lm.tokenizer is None or not isinstance(text, str):
        return
    if lm.decode(tokens) != text:  # special tokens, EOS among them, are left out
        raise ValueError(
            f"{where}: the tokens are not the completion's in the tokenizer of {lm.name}; were"
            " they sampled from another model? Without the field tokens the text is encoded"
        )


def _eos(lm: LM) -> int | None:
    """The stop token to end a text with: the tokenizer's own where it is among the model's."""
    own = getattr(lm.tokenizer, "eos_token_id", None)
    return own if own in lm.stop_ids else next(iter(lm.stop_ids), None)


def _check_context(lm: LM, name: str, longest: int) -> None:
    context = lm.config.max_position_embeddings
    context = min(context, lm.config.sliding_window or context)
    if longest > context:
        raise ValueError(
            f"{name} has an example of {longest} tokens, and {lm.name} a context of {context}:"
            f" give a --max_length of at most {context}"
        )


def _fingerprint(examples: list[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        sizes = [len(example.prompt), len(example.completion)]
        ids = np.asarray([*sizes, *example.prompt, *example.completion], "<i8")
        digest.update(ids.tobytes())
    return digest.hexdigest()


def bucket(length: int, max_length: int) -> int:
    """The width that an example is padded to: a power of two from 16, or max_length."""
    return min(max_length, buckets.power_of_two(length, SMALLEST_BUCKET))


def num_batches(corpus: Corpus, batch_size: int) -> int:
    """Batches, and so optimizer steps, of one epoch."""
    return -(-len(corpus) // batch_size)


def epoch_batches(corpus: Corpus, *, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Indices of the examples of each batch: a function of the arguments alone.

    Every example once, in an order drawn for the epoch; the last batch may be short. Examples are
    not sorted into batches of like length: the loss is a mean over the batch's tokens, so a token
    among short completions would count for many times one among long ones, and the student would
    learn to be shorter than its teacher.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(corpus))
    return np.split(order, range(batch_size, len(order), batch_size))


def grid(
    num_tokens: int, *, batch_size: int, data_size: int, tokens_per_device: int | None = None
) -> tuple[int, int]:
    """(G, B): accumulation steps, and rows of one of them over all devices.

    A device takes as many rows at a time as fit tokens_per_device, at least one, in powers of two;
    tokens_per_device is 1024, on a CPU 512 (`TOKENS_ON_CPU`), if not given.
    Raises ValueError where the batch does not divide over the data axis.
    """
    if batch_size < 1 or batch_size % data_size:
        raise ValueError(
            f"a batch of {batch_size} examples does not divide over a data axis of {data_size}:"
            " choose a --batch_size that is a multiple of it, or a smaller data axis"
        )
    if tokens_per_device is None:
        tokens_per_device = TOKENS_ON_CPU if jax.default_backend() == "cpu" else TOKENS
    per_device = batch_size // data_size
    rows = 1
    while per_device % (2 * rows) == 0 and 2 * rows * num_tokens <= tokens_per_device:
        rows *= 2
    return per_device // rows, rows * data_size


def make_batch(
    corpus: Corpus,
    indices: np.ndarray,
    *,
    batch_size: int,
    data_size: int,
    tokens_per_device: int | None = None,
    sharding: "step_lib.Batch | None" = None,
) -> "step_lib.Batch":
    """The examples at `indices` as arrays [G,B,T] (see `step.Batch`), T the longest one's bucket.

    A short batch is filled up with empty rows. With a sharding, a Batch of NamedSharding, arrays
    are global and each process makes its own rows alone; without, they are NumPy's.
    """
    width = bucket(max(len(corpus.examples[i]) for i in indices), corpus.max_length)
    steps, rows = grid(
        width, batch_size=batch_size, data_size=data_size, tokens_per_device=tokens_per_device
    )
    chosen = np.full(batch_size, -1, np.int32)
    chosen[: len(indices)] = indices
    chosen = chosen.reshape(steps, rows)

    def make(field: str, index: tuple[slice, ...]) -> np.ndarray:
        return getattr(_fill(corpus, chosen[index[:2]], width), field)

    if sharding is None:
        return _fill(corpus, chosen, width)
    return step_lib.Batch(
        *(
            jax.make_array_from_callback(
                chosen.shape if field == "example" else (*chosen.shape, width),
                getattr(sharding, field),
                lambda index, field=field: make(field, index),
            )
            for field in step_lib.Batch._fields
        )
    )


def _fill(corpus: Corpus, chosen: np.ndarray, width: int) -> "step_lib.Batch":
    """The rows whose examples are chosen[G,B]; -1 leaves a row empty.

    An empty row repeats a token of the corpus: the model computes it, and a zero gradient through
    a NaN is NaN, so it must not hold a token that training itself never feeds.
    """
    first = corpus.examples[0]
    tokens = np.zeros((*chosen.shape, width), np.int32)
    tokens[chosen < 0] = (first.prompt + first.completion)[0]
    completion = np.zeros(tokens.shape, bool)
    for place in np.argwhere(chosen >= 0):
        example = corpus.examples[chosen[tuple(place)]]
        row = tuple(place)
        tokens[row][: len(example)] = example.prompt + example.completion
        completion[row][len(example.prompt) : len(example)] = True
    return step_lib.Batch(tokens, completion, chosen)
