"""The two sides of a LoRA training step: this project's, and PEFT's on torch."""

import jax
import numpy as np

from powerjax.distill import step as step_lib
from powerjax.models import LM, lora
from powerjax.parallel import mesh as mesh_lib


def batch_of(vocab_size: int, accumulation: int, rows: int, length: int) -> step_lib.Batch:
    """Returns rows of random tokens. The first quarter of a row is its prompt; none is padding."""
    shape = accumulation, rows, length
    tokens = np.random.default_rng(0).integers(1, vocab_size, shape, dtype=np.int32)
    completion = np.broadcast_to(np.arange(length) >= length // 4, shape)
    return step_lib.Batch(tokens, completion, np.arange(accumulation * rows).reshape(shape[:2]))


class Ours:
    """A call makes one update and waits for it.

    shape: accumulation steps, rows per step, tokens per row.
    """

    def __init__(self, lm: LM, shape: tuple[int, int, int], *, dropout=0.05, remat=True):
        mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
        self.lora_config = lora.LoraConfig(dropout=dropout)
        settings = step_lib.Settings(1e-4, num_steps=100, remat=remat)
        self.lm, self.batch = lm, batch_of(lm.config.vocab_size, *shape)
        self.state = step_lib.init_state(lm.config, self.lora_config, settings, mesh)
        self.step = step_lib.make_step(lm, self.lora_config, settings, mesh)

    def __call__(self):
        self.state, metrics = self.step(self.state, self.lm.params, self.batch)
        return jax.block_until_ready(metrics)

    def temporary_bytes(self) -> int:
        """Returns the bytes of the compiled step's temporaries."""
        compiled = self.step.lower(self.state, self.lm.params, self.batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes


class Peft:
    """The same update by transformers, peft and torch's AdamW, on the device of `model`.

    shape: as for `Ours`.
    """

    def __init__(self, model, shape: tuple[int, int, int], *, dropout=0.05, remat=True):
        import peft
        import torch

        if remat:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        model.config.use_cache = False
        settings = peft.LoraConfig(
            r=16, lora_alpha=32, lora_dropout=dropout, target_modules=list(lora.TARGETS)
        )
        self.model = peft.get_peft_model(model, settings).train()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01)
        batch = batch_of(model.config.vocab_size, *shape)
        self.parts = [
            (
                torch.from_numpy(tokens.astype(np.int64)).to(model.device),
                torch.from_numpy(np.where(completion, tokens, -100)).to(model.device),
            )
            for tokens, completion in zip(batch.tokens, batch.completion, strict=True)
        ]
        self.count = int(batch.completion[..., 1:].sum())

    def __call__(self):
        self.optimizer.zero_grad()
        for tokens, labels in self.parts:
            options = dict(labels=labels.long(), num_items_in_batch=self.count)
            self.model(tokens, **options).loss.backward()
        self.optimizer.step()
