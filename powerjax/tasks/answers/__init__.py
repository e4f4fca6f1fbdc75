"""Final answers: found in a completion, brought into a normal form, and compared."""

from powerjax.tasks.answers.normal_form import elements, groups, last_boxed, literal, simplified

__all__ = ["elements", "groups", "last_boxed", "literal", "simplified"]
