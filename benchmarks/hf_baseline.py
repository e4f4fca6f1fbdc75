"""Power sampling as public implementations do it: Hugging Face `generate` once per proposal.

The acceptance rule, the settings and the model are those of `sample.power` (Algorithm 2 with the
length terms, one stage), so that chains per second can be compared. Every `generate` call computes
the keys and values of its prefix again.
"""

import math
import time

import torch
import transformers


def random_model(config, dtype: str, device: str = "cpu") -> transformers.PreTrainedModel:
    """Returns a model in torch of a `powerjax.models.ModelConfig`'s shape, with random weights."""
    hf_config = transformers.AutoConfig.for_model(**config.to_hf())
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(
            hf_config, dtype=getattr(torch, dtype)
        )
    return model.eval()


class HuggingFace:
    """Power sampling with a model in torch, on its device. Python does the chains' arithmetic."""

    def __init__(self, model: transformers.PreTrainedModel, stop_id: int):
        self.model = model.eval()
        self.stop_id = stop_id

    @torch.no_grad()
    def extend(self, rows, temperature, limits):
        """Extends each row until EOS or limits[i] new tokens.

        Returns, per row, the new tokens and (log p, log q) of each. Rows are left-padded into one
        `generate` call, which ends when its slowest row does.
        """
        width = max(map(len, rows))
        device = self.model.device
        ids = [[self.stop_id] * (width - len(r)) + list(r) for r in rows]
        ids = torch.tensor(ids, device=device)
        mask = [[0] * (width - len(r)) + [1] * len(r) for r in rows]
        mask = torch.tensor(mask, device=device)
        out = self.model.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=max(limits),
            return_dict_in_generate=True,
            output_logits=True,
            eos_token_id=self.stop_id,
            pad_token_id=self.stop_id,
        )
        logits = torch.stack(out.logits, 1)
        drawn = out.sequences[:, width:]
        pick = lambda x: torch.gather(x, 2, drawn[..., None])[..., 0].tolist()  # noqa: E731
        log_p = pick(torch.log_softmax(logits, -1))
        log_q = pick(torch.log_softmax(logits / temperature, -1))
        result = []
        for row, limit, p, q in zip(drawn.tolist(), limits, log_p, log_q, strict=True):
            stop = row.index(self.stop_id) + 1 if self.stop_id in row else len(row)
            stop = min(stop, limit)
            result.append((row[:stop], list(zip(p[:stop], q[:stop], strict=True))))
        return result

    def power(self, prompts, *, alpha, num_mcmc_steps, max_new_tokens, generator):
        """Runs one chain per prompt, all in lock-step; returns their completions."""
        temperature = 1 / alpha

        def weight(pairs):
            return sum(alpha * p - q for p, q in pairs)

        state = self.extend(prompts, temperature, [max_new_tokens] * len(prompts))
        for _ in range(num_mcmc_steps):
            cuts = [int(torch.randint(len(y), (1,), generator=generator)) for y, _ in state]
            rows = [[*x, *y[:m]] for x, (y, _), m in zip(prompts, state, cuts, strict=True)]
            tails = self.extend(rows, temperature, [max_new_tokens - m for m in cuts])
            for i, ((y, pairs), m, (tail, new)) in enumerate(zip(state, cuts, tails, strict=True)):
                log_a = weight(new) - weight(pairs[m:]) + math.log(len(y)) - math.log(m + len(tail))
                if math.log(float(torch.rand((), generator=generator)) + 1e-45) <= log_a:
                    state[i] = (y[:m] + tail, pairs[:m] + new)
        return [y for y, _ in state]


def chains_per_s(hf: HuggingFace, prompts, batch: int, **options) -> float:
    """Returns the finished chains per second, with `batch` prompts in a `generate` call."""
    generator = torch.Generator().manual_seed(0)
    hf.power(prompts[:batch], generator=generator, **{**options, "num_mcmc_steps": 0})  # warms up
    began = time.perf_counter()
    for start in range(0, len(prompts), batch):
        hf.power(prompts[start : start + batch], generator=generator, **options)
    return len(prompts) / (time.perf_counter() - began)


@torch.no_grad()
def decode_s(model, prompts, new_tokens: int) -> float:
    """Returns the seconds of one `generate` call that draws `new_tokens` per prompt.

    prompts: token ids, all of one length.

    `generate` reads each drawn token on the host, so its end is the device's end.
    """
    ids = torch.tensor(prompts, device=model.device)
    options = dict(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        pad_token_id=0,
        attention_mask=torch.ones_like(ids),
        eos_token_id=None,
    )
    model.generate(ids, max_new_tokens=2, min_new_tokens=2, **options)
    began = time.perf_counter()
    model.generate(ids, max_new_tokens=new_tokens, min_new_tokens=new_tokens, **options)
    return time.perf_counter() - began
