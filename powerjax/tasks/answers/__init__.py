"""Final answers of mathematics: found in a completion, brought into a normal form, and compared.

`boxes` finds them. `notation` and `normal_form` take away what changes only their looks, and
`numbers` reads numbers. `equivalence` compares two answers, with `expressions` where sympy has to
decide, and `checkers` runs it within a time limit.
"""

from powerjax.tasks.answers.normal_form import elements, groups, last_boxed, literal, simplified

__all__ = ["elements", "groups", "last_boxed", "literal", "simplified"]
