"""Scores of completions that are in records, under a model other than the one that drew them.

Scores are kept in a file beside the records, from which a run that was killed goes on
(`result_files`).
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from powerjax.models import LM, text
from powerjax.records import Record
from powerjax.runs import collect, result_files
from powerjax.runs.prompts import Prompt, recover_prompts
from powerjax.sample import failures
from powerjax.tasks.base import Problem


def rescore(
    lm: LM,
    records: Sequence[Record],
    problems: Sequence[Problem],
    path: str | os.PathLike | None = None,
    *,
    model: str | None = None,
    progress: bool = True,
) -> list[Record]:
    """Returns the records with `lm`'s log-likelihood of each completion after its prompt (Eq. 1).

    Four fields are added. `evaluated_log_prob` is the sum of the tokens' log-probabilities (nats),
    and `evaluated_self_reward` their mean (nats per token, EOS counted). `evaluated_model` is
    `model`. `evaluated_as` says which token ids were scored:

    - "tokens": those of the record, because `lm`'s tokenizer decodes them to the record's text.
    - "text": those that `lm`'s tokenizer encodes the record's text to, because the record's ids
      are those of another tokenizer. The two means are then over different numbers of tokens, and
      so `evaluated_self_reward` cannot be compared with the mean under the other tokenizer.

    Args:
      lm: the model that scores.
      records: records whose ids are distinct.
      problems: where the prompts of records that hold none (secret problems) are looked up.
      path: a JSONL file of scores, {"id", "of", "evaluated_log_prob", ...}, to resume from and to
        add to; "of" is a hash of model, prompt and completion. None keeps no file.
      model: the name for `evaluated_model`; None: that of `collect.model_name`.
      progress: whether a bar is shown.

    Raises ValueError where records have no ids, and where two have one id. Raises ValueError,
    naming the record, where its prompt is not known, where `lm` cannot read its prompt or
    completion, and where a log-probability is not finite. Raises ValueError for a `path` that holds
    scores of other completions.
    """
    name = collect.model_name(lm) if model is None else model
    result_files.check_ids(records)
    prompts = _prompts(lm, records, problems)

    def score(batch: Sequence[int]) -> list[dict[str, Any]]:
        return _scores(lm, name, [records[i] for i in batch], [prompts[i] for i in batch])

    sources = [
        result_files.source_hash(name, prompt, record.get("tokens"), record.get("completion"))
        for record, prompt in zip(records, prompts, strict=True)
    ]
    # A batch is padded to its longest completion, so those of similar length go together.
    order = sorted(range(len(records)), key=lambda i: records[i].get("num_tokens") or 0)
    return result_files.add_results(
        records, sources, order, score, path, desc="scoring", progress=progress
    )


def _scores(
    lm: LM, model: str, records: Sequence[Record], prompts: Sequence[Prompt]
) -> list[dict[str, Any]]:
    """Returns the four fields of each record of a batch."""
    contexts = [
        lm.encode(prompt, what=f"the record {record['id']!r}: prompt")
        for record, prompt in zip(records, prompts, strict=True)
    ]
    readings = [_as_tokens(lm, record) for record in records]
    log_probs = lm.score(contexts, [tokens for tokens, _ in readings])
    for record, values in zip(records, log_probs, strict=True):
        if not np.isfinite(values).all():
            raise ValueError(
                f"the log-probabilities of the record {record['id']!r} under {model} are"
                f" not finite; {failures.remedy(lm.dtype)}"
            )
    return [
        {
            "evaluated_log_prob": float(values.sum(dtype=np.float64)),
            "evaluated_self_reward": float(values.mean(dtype=np.float64)) if values.size else None,
            "evaluated_model": model,
            "evaluated_as": reading,
        }
        for values, (_, reading) in zip(log_probs, readings, strict=True)
    ]


def _prompts(lm: LM, records: Sequence[Record], problems: Sequence[Problem]) -> list[Prompt]:
    """Returns each record's prompt: its own, or that of its problem."""
    by_id = {problem.id: problem for problem in problems}
    recovered = recover_prompts(records, problems, lm.tokenizer)

    def prompt_of(record: Record, prompt: Prompt | None) -> Prompt:
        if record.get("prompt") is not None:
            return text.recorded_prompt(record)
        if prompt is not None:
            return prompt
        problem = by_id.get(str(record.get("problem_id")))
        if problem is None:
            raise ValueError(f"the record {record['id']!r} has no prompt, and no problem gives it")
        if record.get("prompt_sha256") is None:
            return problem.prompt
        raise ValueError(
            f"the record {record['id']!r} was made with another prompt than the task's, which it"
            " does not hold: it cannot be scored"
        )

    return [prompt_of(*pair) for pair in zip(records, recovered, strict=True)]


def _as_tokens(lm: LM, record: Record) -> tuple[list[int], str]:
    """Returns the record's completion as token ids for `lm`, and "tokens" or "text" (`rescore`)."""
    tokens, completion = record.get("tokens"), record.get("completion")
    ended = record.get("finish_reason") == "eos"
    place = f"the record {record['id']!r}"
    if tokens is not None and (completion is None or _reads_as(lm, tokens, completion, ended)):
        return lm.encode(tokens, what=f"{place}: tokens"), "tokens"
    if completion is None:
        raise ValueError(f"{place} has neither a completion nor tokens")
    encoded = lm.encode(completion, special=False, what=f"{place}: completion")
    return [*encoded, *lm.stop_ids[:1]] if ended else encoded, "text"


def _reads_as(lm: LM, tokens: list[int], completion: str, ended: bool) -> bool:
    """Whether `lm` reads these token ids as this text, and their last as an EOS if `ended`."""
    outside = any(not 0 <= token < lm.config.vocab_size for token in tokens)
    if outside or (ended and (not tokens or tokens[-1] not in lm.stop_ids)):
        return False
    return lm.tokenizer is None or lm.decode(tokens[:-1] if ended else tokens) == completion
