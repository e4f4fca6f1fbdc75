"""How a prompt asks, as the `prompt_style` of a record says it.

These names stand below `powerjax.models`, so that tasks can be looked up without importing JAX.
"""

RAW = "raw"  # the text of a problem as it is
CHAT = "chat"  # as a turn of the model's chat template
