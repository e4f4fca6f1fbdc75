"""Power self-distillation (Algorithm 1): a LoRA student from records of power samples."""

from powerjax.distill.data import Corpus, Example, load, num_batches
from powerjax.distill.export import save_adapter, save_merged
from powerjax.distill.loop import Stopped, Trained, train
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
