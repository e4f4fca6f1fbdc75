"""Makes the golden files of the parity tests from transformers (needs torch).

    python -m tests.golden.make [CASE ...]

writes tests/golden/CASE.npz, float32 logits and greedy tokens, for the cases named or else for
every case of cases.py.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.golden import cases

GOLDEN_SEED = 0


def reference(folder: Path, inputs: cases.Inputs) -> dict[str, np.ndarray]:
    """Returns what transformers computes for the checkpoint in `folder`, in float32.

    single: logits [all prompts' tokens,V] of the prompts one at a time.
    batch: the same from one right-padded batch.
    steps: logits [steps,B,V] of decoding with rewinds. They are computed here by a full pass over
      each row's prefix, at the full width, so that longrope chooses alike at every step.
    greedy: int32 tokens [prompts,64].
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()

    def logits(tokens, lengths=None):
        tokens = torch.from_numpy(np.asarray(tokens))
        mask = None
        if lengths is not None:
            mask = torch.arange(tokens.shape[1]) < torch.from_numpy(np.asarray(lengths))[:, None]
            mask = mask.long()
        with torch.no_grad():
            return model(tokens, attention_mask=mask, use_cache=False).logits.numpy()

    single = np.concatenate([logits(prompt[None])[0] for prompt in inputs.prompts])
    padded = inputs.rows[:, : max(cases.LENGTHS)]
    batch = logits(padded, inputs.start_lengths)
    batch = np.concatenate([row[:n] for row, n in zip(batch, inputs.start_lengths, strict=True)])
    rows = np.arange(len(inputs.rows))
    steps = np.stack(
        [
            logits(tokens)[rows, positions]
            for tokens, positions in zip(cases.prefixes(inputs), inputs.step_positions, strict=True)
        ]
    )
    greedy = []
    for prompt in inputs.prompts:
        tokens = torch.from_numpy(prompt[None])
        out = model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=False,
            max_new_tokens=cases.NUM_GREEDY,
            pad_token_id=0,
        )
        greedy.append(out[0, len(prompt) :].numpy())
    return {
        "single": single,
        "batch": batch,
        "steps": steps,
        "greedy": np.array(greedy, dtype=np.int32),
    }


def main():
    for case in sys.argv[1:] or cases.CASES:
        with tempfile.TemporaryDirectory() as folder:
            cases.write_checkpoint(case, Path(folder), GOLDEN_SEED)
            arrays = reference(Path(folder), cases.inputs(GOLDEN_SEED))
        path = cases.GOLDEN / f"{case}.npz"
        np.savez_compressed(path, **arrays)
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB, std {arrays['single'].std():.2f}")


if __name__ == "__main__":
    main()
