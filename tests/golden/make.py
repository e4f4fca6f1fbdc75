"""Makes the golden files of the parity tests from transformers (needs torch).

    python -m tests.golden.make

writes tests/golden/CASE.npz, float32 logits and greedy tokens, for every case of cases.py.
"""

import tempfile
from pathlib import Path

import numpy as np

from tests.golden import cases

GOLDEN_SEED = 0


def reference(folder: Path, given: cases.Inputs) -> dict[str, np.ndarray]:
    """What transformers answers for the checkpoint in `folder`, in float32.

    single: the prompts one at a time, joined along T. batch: the same right-padded. steps: logits
    [steps,B,V] of cached decode with rewinds, here by a full pass over each row's prefix, at the
    full width, so that longrope's choice is the same at every step. greedy: [prompts, 64].
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

    single = np.concatenate([logits(prompt[None])[0] for prompt in given.prompts])
    padded = given.rows[:, : max(cases.LENGTHS)]
    batch = logits(padded, given.start_lengths)
    batch = np.concatenate([row[:n] for row, n in zip(batch, given.start_lengths, strict=True)])
    rows = np.arange(len(given.rows))
    steps = np.stack(
        [
            logits(tokens)[rows, positions]
            for tokens, positions in zip(cases.prefixes(given), given.step_positions, strict=True)
        ]
    )
    greedy = []
    for prompt in given.prompts:
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
    for case in cases.CASES:
        with tempfile.TemporaryDirectory() as folder:
            cases.write_checkpoint(case, Path(folder), GOLDEN_SEED)
            found = reference(Path(folder), cases.inputs(GOLDEN_SEED))
        path = cases.GOLDEN / f"{case}.npz"
        np.savez_compressed(path, **found)
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB, std {found['single'].std():.2f}")


if __name__ == "__main__":
    main()
