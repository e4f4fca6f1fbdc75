"""The records of a plain student, picked out and weighed against pi^alpha of its base.

What is weighed must have been drawn from the student's own law q, and its log q must be in the
record: samplers standard and temperature at temperature 1, without top_k. Other rows of the student
are left out with a line on why.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from powerjax import models
from powerjax.evaluation import Result
from powerjax.evaluation.nearness import nearness
from powerjax.models import LM
from powerjax.records import Record
from powerjax.sample import proposals

_PLAIN = ("standard", "temperature")  # samplers that draw token by token
_CONFIG = "adapter_config.json"  # a folder with this file is an adapter's


def load(model: str, proposal: str, **options: Any) -> tuple[LM, LM]:
    """Returns the base and the student, which share their weights where the student is an adapter.

    Args:
      model: the base, as `models.load` takes it.
      proposal: the folder of an adapter on it, or another model.
      options: the other arguments of `models.load`. Random weights and the revision are the base's
        alone.

    Raises ValueError where p and q of one completion cannot be compared: other tokenizers, other
    vocabularies, or other tokens that end a completion.
    """
    if (Path(proposal) / _CONFIG).is_file():
        student = models.load(model, adapter=proposal, **options)
        return dataclasses.replace(student, adapter=None, adapter_name=None), student
    base = models.load(model, **options)
    student = models.load(proposal, dtype=options.get("dtype", "bfloat16"))
    if "vocab_size" in proposals.stated(base, student):
        raise ValueError(
            f"--proposal={proposal}: its vocabulary has {student.config.vocab_size:,} tokens and"
            f" the base's {base.config.vocab_size:,}; sample.importance weighs such a pair"
        )
    if set(base.stop_ids) != set(student.stop_ids):
        raise ValueError(
            f"--proposal={proposal}: completions end in the tokens {sorted(student.stop_ids)}, and"
            f" the base's in {sorted(base.stop_ids)}: p and q are of other completions"
        )
    return base, student


def select(drawn: Sequence[Record], student: LM, name: str) -> tuple[set[str], list[str]]:
    """Returns the ids of the records that can be weighed, and lines on the student's others.

    Args:
      drawn: all records.
      student: the model q.
      name: what messages call it, the value of --proposal.

    Raises ValueError where no record can be weighed, and where the lengths at which completions
    were cut off differ, for that length is a part of the target.
    """
    identity = student.identity
    of_student = [
        record for record in drawn if record.get("sampler") in _PLAIN and _is_of(record, identity)
    ]
    if not of_student:
        plain = [record for record in drawn if record.get("sampler") in _PLAIN]
        stated = sorted({_stated(record) for record in plain})
        raise ValueError(
            f"--proposal={name} has {_stated(identity)}, and no record by the sampler standard or"
            f" temperature is of it: {'; '.join(stated) if stated else 'there are none at all'}"
        )
    wanted: set[str] = set()
    reasons: dict[str, int] = {}
    for record in of_student:
        reason = _why_not(record)
        if reason is None:
            wanted.add(record["id"])
        else:
            reasons[reason] = reasons.get(reason, 0) + 1
    lines = [
        f"{count} records of --proposal are not weighed: {why}" for why, count in reasons.items()
    ]
    if not wanted:
        raise ValueError(
            f"--proposal={name}: none of its records can be weighed: {next(iter(reasons))}"
        )
    if len({r["problem_id"] for r in of_student if r["id"] in wanted}) == len(wanted):
        raise ValueError(
            f"--proposal={name}: its records hold one completion per problem, and weights need two"
            " or more, better 100: sample with a larger --num_samples"
        )
    lengths = {r["max_new_tokens"] for r in of_student if r["id"] in wanted}
    if len(lengths) > 1:
        raise ValueError(
            f"--proposal={name}: its completions were cut off at"
            f" {' and at '.join(map(str, sorted(lengths)))} tokens, which are different targets:"
            " give --records of one length"
        )
    return wanted, lines


def _is_of(record: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
    """Whether a record's weights and adapter, merged or not, are those of this identity."""
    return all(record.get(key) == identity[key] for key in ("weights", "adapter_hash"))


def _stated(fields: Mapping[str, Any]) -> str:
    """Returns `weights 1a2b in float32, adapter 3c4d`, which names a law's model."""
    adapter = fields.get("adapter_hash")
    return (
        f"weights {fields.get('weights')} in {fields.get('dtype')},"
        f" {'no adapter' if adapter is None else f'adapter {adapter}'}"
    )


def _why_not(record: Record) -> str | None:
    """Returns why a plain record of the student has no weight, a clause; None where it has one."""
    if record.get("temperature") != 1:
        return (
            f"drawn at temperature {record.get('temperature')}, and records hold log q at"
            " temperature 1 alone"
        )
    if record.get("top_k") is not None:
        return f"drawn with top_k {record['top_k']}, and records hold log q over all tokens"
    if record.get("max_new_tokens") is None:
        return "they do not say max_new_tokens, which is a part of the target"
    tokens, log_probs = record.get("tokens"), record.get("log_probs")
    if not tokens or not log_probs or len(log_probs) != len(tokens):
        return "they do not hold the log_probs of their tokens"
    return None


def weighed(results: Sequence[Result], wanted: set[str], alpha: float, name: str) -> list[Result]:
    """Returns the rows with `nearness` where their records are to be weighed.

    Args:
      results: the rows; their records were scored by the base (`rescoring.rescore`).
      wanted: ids of the records to weigh (`select`).
      alpha: of the target.
      name: what messages call the student.

    Raises ValueError where the base does not read a record's tokens as the student wrote them.
    """
    rows = []
    for result in results:
        members = [record for record in result.records if record["id"] in wanted]
        if not members:
            rows.append(result)
            continue
        for record in members:
            if record.get("evaluated_as") != "tokens":
                raise ValueError(
                    f"--proposal={name}: the base reads the tokens of the record {record['id']!r}"
                    " as another text: it has another tokenizer"
                )
        rows.append(dataclasses.replace(result, nearness=nearness(members, alpha)))
    return rows
