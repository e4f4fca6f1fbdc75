"""Runs: a task's problems are put to a model, sampled into record files, graded and learnt from.

`prompts` writes the problems as prompts, and `collect` samples them into a record file. `grading`
and `rescoring` add verdicts and scores to records, in `result_files`. `row` does all of this for
one row of a table, `setups` lists the rows of a reproduction, and `student` trains a model on
records.
"""

from powerjax.runs.prompts import Chat, note_prompts, prompt_choice, prompted
from powerjax.runs.row import Row, finished_result, measure
from powerjax.runs.student import losses, train_student, with_prompts

__all__ = [
    "Chat",
    "Row",
    "finished_result",
    "losses",
    "measure",
    "note_prompts",
    "prompt_choice",
    "prompted",
    "train_student",
    "with_prompts",
]
