"""The samplers: power, power_inf, standard, temperature, best_of_n. One engine, five laws."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from powerjax.models import prompts as prompts_lib
from powerjax.models.language_model import LM
from powerjax.records.progress import progress_bar
from powerjax.sample import draws, engine, inputs, mh, workers
from powerjax.sample.completions import Completion, Completions
from powerjax.sample.failures import ChainsFailed

Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]
OnFinish = Callable[[Completion], None]
Skip = Callable[[int, int], bool]


def power(
    lm: LM,
    prompts: Sequence[Prompt],
    *,
    alpha: float = 4.0,
    temperature: float | None = None,
    block_size: int = 192,
    num_mcmc_steps: int = 10,
    max_new_tokens: int = 3072,
    num_samples: int = 1,
    seed: int = 0,
    ids: Sequence[str | int] | None = None,
    top_k: int | None = None,
    num_slots: int | None = None,
    stop: Literal["eos", "horizon"] = "eos",
    kernel: Literal["exact", "karan2026"] = "exact",
    early_rejection: bool = True,
    progress: bool = True,
    on_finish: OnFinish | None = None,
    skip: Skip | None = None,
) -> Completions:
    """Draws completions from pi(y|x)^alpha (Eq. 4) by Metropolis-Hastings (Algorithm 2).

    What the chain converges to. With stop="horizon" every stage runs and the limit in
    num_mcmc_steps is pi^alpha on completions of at most max_new_tokens, exactly. stop="eos", the
    published schedule and the default, ends a chain at the first stage whose state ends in EOS: it
    is cheap, and not pi^alpha even with infinitely many steps (short answers count too often). With
    block_size >= max_new_tokens there is one stage and the two coincide. With top_k the target is
    pi^alpha restricted to strings whose every token is among its prefix's top k, renormalised; at
    alpha = 1 that is not what standard(top_k=...) draws.

    A chain's draws are its own, so its completion does not depend on its slot, its neighbours, the
    order of prompts or a restart; with other compiled shapes (num_slots, a longer cache), rounding
    differs, and a draw that lies on an edge may fall to the other side. An LM on a mesh has its
    weights split; the chains are not.

    Args:
      lm: the model.
      prompts: each a string, a list of token ids, or a list of chat messages ({"role": ...,
        "content": ...}), which go through the tokenizer's chat template.
      alpha: exponent, >= 1.
      temperature: of the proposal; None: 1/alpha. It changes how fast the chain mixes, not its
        target.
      block_size: tokens a stage. The last stage is shorter where it does not divide.
      num_mcmc_steps: MH moves a stage.
      max_new_tokens: longest completion, EOS counted.
      num_samples: independent chains for each prompt.
      seed: of the run. A chain's draws depend on (seed, its id, its sample index) and nothing else.
        From -2**63 to 2**64 - 1, each seed with draws of its own.
      ids: stable, distinct names of the problems, which name the chains; None: 0, 1, ...
      top_k: tokens the proposal may draw (ties with the k-th kept); None: all.
      num_slots: chains that advance at a time; None: by free device memory.
      stop: "eos" or "horizon", see above.
      kernel: "exact", or "karan2026": the published code's rule (ratio cut to the proposal's
        length, length capped at the current one, no correction for lengths), which is not exact.
      early_rejection: stop a move as soon as its rejection is certain. Changes no draw.
      progress: show a bar.
      on_finish: called with each Completion as its chain ends.
      skip: skip(prompt_index, sample_index) leaves out chains that are already recorded.

    Returns:
      Completions, ordered by (prompt_index, sample_index).

    Raises:
      ValueError: on an argument out of range, a prompt that is none of these, an empty one, one
        too long for the model's context, or a string for a model without a tokenizer.
      ChainsFailed: a ValueError that names the chains whose logits were not finite, and holds the
        other chains' completions. It comes after all of them are finished.
    """
    alpha, temperature = inputs.power(alpha, temperature)
    if kernel not in ("exact", "karan2026"):
        raise ValueError(f"kernel must be 'exact' or 'karan2026', not {kernel!r}")
    return _run(
        lm,
        prompts,
        sampler="power",
        alpha=alpha,
        temperature=temperature,
        block_size=block_size,
        num_mcmc_steps=num_mcmc_steps,
        max_new_tokens=max_new_tokens,
        num_samples=num_samples,
        seed=seed,
        ids=ids,
        top_k=top_k,
        num_slots=num_slots,
        stop=stop,
        kernel=kernel,
        early_rejection=early_rejection,
        progress=progress,
        on_finish=on_finish,
        skip=skip,
    )


def power_inf(
    lm: LM,
    prompts: Sequence[Prompt],
    *,
    temperature: float = 0.25,
    block_size: int = 192,
    num_mcmc_steps: int = 10,
    max_new_tokens: int = 3072,
    num_samples: int = 1,
    seed: int = 0,
    ids: Sequence[str | int] | None = None,
    top_k: int | None = None,
    num_slots: int | None = None,
    stop: Literal["eos", "horizon"] = "eos",
    early_rejection: bool = True,
    progress: bool = True,
    on_finish: OnFinish | None = None,
    skip: Skip | None = None,
) -> Completions:
    """Power(inf): a move is accepted iff log pi of the whole completion strictly rises.

    A stochastic ascent towards y* (Eq. 2) with proposals of the base at `temperature`. Arguments,
    result and errors as for `power`.
    """
    temperature = inputs.positive(temperature)
    return _run(
        lm,
        prompts,
        sampler="power_inf",
        alpha=math.inf,
        temperature=temperature,
        block_size=block_size,
        num_mcmc_steps=num_mcmc_steps,
        max_new_tokens=max_new_tokens,
        num_samples=num_samples,
        seed=seed,
        ids=ids,
        top_k=top_k,
        num_slots=num_slots,
        stop=stop,
        kernel="power_inf",
        early_rejection=early_rejection,
        progress=progress,
        on_finish=on_finish,
        skip=skip,
    )


def standard(lm: LM, prompts: Sequence[Prompt], **options: Any) -> Completions:
    """Plain sampling from the model: temperature 1, no MH moves.

    Options: max_new_tokens, num_samples, seed, ids, top_k, num_slots, progress, on_finish, skip;
    result and errors as for `power`.
    """
    return _plain(lm, prompts, "standard", 1.0, **options)


def temperature(
    lm: LM, prompts: Sequence[Prompt], *, temperature: float = 0.25, **options: Any
) -> Completions:
    """Token-level temperature sampling: Eq. 5, alpha = 1/temperature. Options of `standard`."""
    temperature = inputs.positive(temperature)
    return _plain(lm, prompts, "temperature", temperature, **options)


def best_of_n(
    lm: LM,
    prompts: Sequence[Prompt],
    *,
    n: int = 4,
    sampler: Callable[..., Completions] = standard,
    **options: Any,
) -> Completions:
    """Draws n completions a prompt by `sampler` and marks the one of largest self-reward `chosen`.

    All n are kept. Options are the sampler's, but num_samples, which is n.
    """
    n = inputs.whole("n", n, 1)
    if "num_samples" in options:
        raise ValueError("best_of_n draws n completions a prompt: give n, not num_samples")
    out = sampler(lm, prompts, num_samples=n, **options)
    best: dict[int, Completion] = {}
    for item in out:
        item.chosen = False
        if item.prompt_index not in best or (
            item.self_reward > best[item.prompt_index].self_reward
        ):
            best[item.prompt_index] = item
    for item in best.values():
        item.chosen = True
    return out


def _plain(
    lm,
    prompts,
    sampler,
    temperature,
    *,
    max_new_tokens: int = 3072,
    num_samples: int = 1,
    seed: int = 0,
    ids=None,
    top_k: int | None = None,
    num_slots: int | None = None,
    progress: bool = True,
    on_finish: OnFinish | None = None,
    skip: Skip | None = None,
) -> Completions:
    return _run(
        lm,
        prompts,
        sampler=sampler,
        alpha=1.0 / temperature,
        temperature=temperature,
        block_size=max_new_tokens,
        num_mcmc_steps=0,
        max_new_tokens=max_new_tokens,
        num_samples=num_samples,
        seed=seed,
        ids=ids,
        top_k=top_k,
        num_slots=num_slots,
        stop="eos",
        kernel="exact",
        early_rejection=True,
        progress=progress,
        on_finish=on_finish,
        skip=skip,
    )


def _run(
    lm: LM,
    prompts,
    *,
    sampler,
    alpha,
    temperature,
    block_size,
    num_mcmc_steps,
    max_new_tokens,
    num_samples,
    seed,
    ids,
    top_k,
    num_slots,
    stop,
    kernel,
    early_rejection,
    progress,
    on_finish,
    skip,
) -> Completions:
    max_new_tokens = inputs.whole("max_new_tokens", max_new_tokens, 1, mh.MAX_NEW_TOKENS)
    block_size = inputs.whole("block_size", block_size, 1)
    num_mcmc_steps = inputs.whole("num_mcmc_steps", num_mcmc_steps, 0)
    num_samples = inputs.whole("num_samples", num_samples, 1)
    num_slots = inputs.whole_or_none("num_slots", num_slots, 1)
    top_k = inputs.whole_or_none("top_k", top_k, 1)
    seed = inputs.seed(seed)
    inputs.check_stop(lm, stop)
    prompts = prompts_lib.separate(prompts)
    tokens = inputs.prompt_tokens(lm, prompts, max_new_tokens)
    names = inputs.names(ids, len(tokens))
    chains = [(p, s) for p in range(len(tokens)) for s in range(num_samples)]
    keys = draws.chain_keys(seed, [names[p] for p, _ in chains], [s for _, s in chains])
    requests = [
        engine.Request(p, s, key)
        for (p, s), key in zip(chains, keys, strict=True)
        if skip is None or not skip(p, s)
    ]
    settings = mh.settings(
        1 / temperature if kernel == "power_inf" else alpha,
        temperature,
        block_size=min(block_size, max_new_tokens),
        num_mcmc_steps=num_mcmc_steps,
        max_new_tokens=max_new_tokens,
        stop_ids=lm.stop_ids,
        stop=stop,
        early_rejection=early_rejection,
        kernel=kernel,
        top_k=top_k,
    )
    label = dict(
        model=lm.name,
        sampler=sampler,
        alpha=_plain_alpha(sampler, alpha),
        temperature=_proposal_temperature(sampler, alpha, temperature, settings),
        seed=seed,
        block_size=block_size,
        num_mcmc_steps=num_mcmc_steps,
        stop=stop,
        kernel=kernel,
        max_new_tokens=max_new_tokens,
        top_k=top_k,
        prompt_style=prompts_lib.style(prompts),
        **lm.identity,
    )
    if num_slots is None:
        # By all chains of the job, so that a resumed run has the slots it had, where as much memory
        # is free.
        num_slots = engine.pick_num_slots(lm, max(map(len, tokens)), max_new_tokens, len(chains))

    items: list[Completion] = []
    failed: list[engine.Request] = []

    def collect(finished: engine.Finished) -> None:
        item = _completion(lm, finished, names, prompts)
        items.append(item)
        if on_finish is not None:
            on_finish(item)

    stats = engine.Stats(num_slots=num_slots)
    with progress_bar(total=len(requests), desc=sampler, unit="chain", show=progress) as bar:
        # Each prompt's own length chooses longrope's factors, whoever else is in the run.
        for long_context in (False, True):
            mine = [
                lm.config.long_context(len(row) + max_new_tokens) == long_context for row in tokens
            ]
            part = [r for r in requests if mine[r.prompt_index]]
            if part:
                stats = stats + workers.generate(
                    lm,
                    [row if m else [] for row, m in zip(tokens, mine, strict=True)],
                    part,
                    settings,
                    num_slots=num_slots,
                    long_context=long_context,
                    on_finish=collect,
                    on_fail=failed.append,
                    bar=bar,
                )
    completions = Completions(items, stats, label)
    if failed:
        chains = sorted((request.prompt_index, request.sample_index) for request in failed)
        raise ChainsFailed([(names[p], s) for p, s in chains], completions, lm.dtype)
    return completions


def _plain_alpha(sampler: str, alpha: float) -> float | str:
    """alpha as a record states it; JSON has no infinity."""
    return {"power_inf": "inf", "standard": 1.0, "temperature": 1.0}.get(sampler, float(alpha))


def _proposal_temperature(
    sampler: str, alpha: float, temperature: float | None, settings: mh.Settings
) -> float:
    """The temperature as a record states it: 1/alpha where the proposal's exponent is alpha."""
    if sampler == "power" and settings.inv_temperature == settings.alpha:
        return 1 / float(alpha)
    return float(temperature)


def _completion(lm: LM, finished: engine.Finished, names, prompts: list) -> Completion:
    request, tokens = finished.request, finished.tokens.tolist()
    log_prob = float(np.sum(finished.log_p, dtype=np.float64))
    text = None
    if lm.tokenizer is not None:
        text = lm.decode(tokens[:-1] if finished.ended else tokens)
    return Completion(
        text=text,
        tokens=tokens,
        log_probs=finished.log_p,
        log_prob=log_prob,
        self_reward=log_prob / len(tokens),
        finish_reason="eos" if finished.ended else "length",
        acceptance_rate=(
            finished.num_accepted / finished.num_moves if finished.num_moves else None
        ),
        num_forward_tokens=finished.num_forward_tokens,
        num_early_rejections=finished.num_rejected_early,
        id=names[request.prompt_index],
        prompt_index=request.prompt_index,
        sample_index=request.sample_index,
        prompt_style=prompts_lib.style([prompts[request.prompt_index]]),
    )
