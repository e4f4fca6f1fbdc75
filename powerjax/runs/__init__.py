"""Runs: a task's problems are put to a model, sampled into record files, graded and learnt from."""

from powerjax.runs.prompts import asked, note_prompts, prompt_choice
from powerjax.runs.row import Row, kept, measure
from powerjax.runs.student import losses, train_student, with_prompts

__all__ = [
    "Row",
    "asked",
    "kept",
    "losses",
    "measure",
    "note_prompts",
    "prompt_choice",
    "train_student",
    "with_prompts",
]
