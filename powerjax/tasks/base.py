"""What every task speaks: a problem with its prompt and its reference answer."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Problem:
    """One problem of a task.

    Attributes:
      id: stable name, unique within the task; a chain's randomness is keyed by it.
      prompt: the text the model continues, exactly as it is to be tokenized.
      answer: the reference answer.
      meta: whatever else the task's grader or reports need.
    """

    id: str
    prompt: str
    answer: str
    meta: dict[str, Any] | None = None
