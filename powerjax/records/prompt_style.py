"""The values that a record's `prompt_style` has for the form in which the model was asked.

They are defined here and not in `powerjax.models`, so that tasks can be looked up without importing
JAX.
"""

RAW = "raw"  # the text of a problem as it is
CHAT = "chat"  # as a turn of the model's chat template
