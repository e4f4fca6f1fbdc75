"""The samplers as functions: power, power_inf, standard, temperature, best_of_n.

Each puts its keywords into a value of `spec`, which `job.draw` then draws from.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from powerjax.models.language_model import LM
from powerjax.sample import inputs, job, spec
from powerjax.sample.completions import Completion, Completions
from powerjax.sample.job import Prompt

OnFinish = Callable[[Completion], None]
Skip = Callable[[int, int], bool]


def power(
    lm: LM,
    prompts: Sequence[Prompt],
    *,
    alpha: float = 4.0,
    temperature: float | None = None,
    block_size: int | None = None,
    num_mcmc_steps: int | None = None,
    max_new_tokens: int = 3072,
    num_samples: int = 1,
    seed: int = 0,
    ids: Sequence[str | int] | None = None,
    top_k: int | None = None,
    num_slots: int | None = None,
    stop: Literal["eos", "horizon"] = "eos",
    kernel: Literal["exact", "karan2026"] = "exact",
    early_rejection: bool = True,
    proposal: LM | None = None,
    move: spec.Move | None = None,
    proposal_temperature: float = 1.0,
    mixture: tuple[float, float, float] | None = None,
    trace: bool = False,
    progress: bool = True,
    on_finish: OnFinish | None = None,
    skip: Skip | None = None,
) -> Completions:
    """Draws completions from pi(y|x)^alpha (Eq. 4) by Metropolis-Hastings (Algorithm 2).

    What the chain converges to. A chain extends its completion stage by stage, by block_size tokens
    each, and makes num_mcmc_steps MH moves in each stage. With stop="horizon" every stage runs, and
    as num_mcmc_steps grows the law tends to pi^alpha on completions of at most max_new_tokens,
    exactly. stop="eos", the published schedule and the default, ends a chain at the first stage
    whose state ends in EOS. That is cheap, but it is not pi^alpha even with infinitely many steps:
    short answers count too often. With block_size >= max_new_tokens there is one stage, and the two
    coincide. With top_k the target is pi^alpha restricted to strings whose every token is among its
    prefix's top k, renormalised; at alpha = 1 that is not what standard(top_k=...) draws.

    With a `proposal` model, such as a student that was distilled from this target, that model draws
    the moves, and one move reaches what many of the base's own reach. The target stays pi^alpha of
    `lm`. move="restart" draws whole completions, all at once, and lets `lm` score them. "suffix"
    draws from a cut on, the two models stepping together. "mixture" adds the base's own moves,
    which a poor proposal model cannot spoil.

    A chain's draws are its own, so its completion does not depend on its slot, its neighbours, the
    order of prompts or a restart. With other compiled shapes (num_slots, a longer cache) rounding
    differs, and a draw that lies on an edge may fall to the other side. Where the LM is on a mesh,
    its weights are split over the "model" axis; a chain is never split.

    Args:
      lm: the model.
      prompts: each a string, a list of token ids, or a list of chat messages ({"role": ...,
        "content": ...}), which go through the tokenizer's chat template.
      alpha: exponent, >= 1.
      temperature: of the base's proposal; None: 1/alpha. It changes how fast the chain mixes, but
        not its target.
      block_size: tokens per stage. The last stage is shorter where it does not divide. None: 192,
        or max_new_tokens with a proposal model.
      num_mcmc_steps: MH moves per stage. None: 10, or 1 with a proposal model.
      max_new_tokens: tokens of the longest completion, EOS counted.
      num_samples: independent chains for each prompt.
      seed: of the run. A chain's draws depend on (seed, its id, its sample index) and nothing else.
        From -2**63 to 2**64 - 1, each seed with draws of its own.
      ids: stable, distinct names of the problems, which name the chains; None: 0, 1, ...
      top_k: how many tokens the proposal may draw (ties with the k-th may all be drawn); None: all.
      num_slots: chains that advance at a time; None: as many as free device memory holds.
      stop: "eos" or "horizon", see above.
      kernel: "exact", or "karan2026": the published code's rule (ratio cut to the proposal's
        length, length capped at the current one, no correction for lengths), which is not exact.
      early_rejection: stop a move as soon as its rejection is certain. Changes no draw. Moves of a
        proposal model run to their end.
      proposal: the proposal model: `lm` with an adapter, or any model over the same tokenizer.
        None: `lm` at `temperature` draws the moves. `lm`'s stop tokens alone end a completion.
      move: "restart" (the default with a proposal model), "suffix" or "mixture".
      proposal_temperature: tau_q, at which the proposal model draws.
      mixture: with move="mixture", the shares of the proposal model's restarts, its suffixes and
        the base's suffixes among the moves; None: (.4, .3, .3).
      trace: keep what each chain's state was after each move, for `Completions.to_arviz`.
      progress: show a bar.
      on_finish: called with each Completion as its chain ends.
      skip: skip(prompt_index, sample_index) leaves out chains that are already recorded.

    Returns:
      Completions, ordered by (prompt_index, sample_index).

    Raises:
      ValueError: on an argument out of range, a prompt that is none of these, an empty one, one
        too long for a model's context, a string for a model without a tokenizer, or a proposal
        model over another tokenizer.
      ChainsFailed: a ValueError that names the chains whose logits were not finite, and holds the
        other chains' completions. It comes after all of them are finished.
    """
    # Longer than a screen of code should be: its keywords and what they mean are one screen.
    return _draw("power", **locals())


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
    trace: bool = False,
    progress: bool = True,
    on_finish: OnFinish | None = None,
    skip: Skip | None = None,
) -> Completions:
    """Power(inf): a move is accepted iff log pi of the whole completion strictly rises.

    A stochastic ascent towards y* (Eq. 2) with proposals of the base at `temperature`. Arguments,
    result and errors as for `power`.
    """
    return _draw("power_inf", **locals())


def standard(lm: LM, prompts: Sequence[Prompt], **options: Any) -> Completions:
    """Plain sampling from the model: temperature 1, no MH moves.

    Options: max_new_tokens, num_samples, seed, ids, top_k, num_slots, progress, on_finish, skip;
    result and errors as for `power`.
    """
    return _draw("standard", lm, prompts, **options)


def temperature(
    lm: LM, prompts: Sequence[Prompt], *, temperature: float = 0.25, **options: Any
) -> Completions:
    """Token-level temperature sampling: Eq. 5, alpha = 1/temperature. Options of `standard`."""
    return _draw("temperature", lm, prompts, temperature=temperature, **options)


def best_of_n(
    lm: LM,
    prompts: Sequence[Prompt],
    *,
    n: int = 4,
    sampler: Callable[..., Completions] = standard,
    **options: Any,
) -> Completions:
    """Draws n completions per prompt by `sampler`, and marks that of largest self-reward `chosen`.

    All n are returned. Options are the sampler's, without num_samples, which is n.

    Raises ValueError for a bad n or for num_samples, and whatever the sampler raises.
    """
    n = inputs.whole("n", n, 1)
    if "num_samples" in options:
        raise ValueError("best_of_n draws n completions per prompt: give n, not num_samples")
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


def _draw(name: str, lm: LM, prompts: Sequence[Prompt], **keywords: Any) -> Completions:
    """Draws by the sampler `name`, with the keywords of its function."""
    sampler, options = job.parse(name, keywords)
    return job.draw(lm, prompts, sampler, options)
