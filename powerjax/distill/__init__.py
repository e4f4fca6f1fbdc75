"""Power self-distillation (Algorithm 1): a LoRA student from records of power samples."""

from powerjax.distill.batches import num_batches
from powerjax.distill.corpus import Corpus, Example, load
from powerjax.distill.export import save_adapter, save_merged
from powerjax.distill.loop import Trained, train
from powerjax.distill.signals import Stopped
from powerjax.distill.step import Settings

__all__ = [
    "Corpus",
    "Example",
    "Settings",
    "Stopped",
    "Trained",
    "load",
    "num_batches",
    "save_adapter",
    "save_merged",
    "train",
]
