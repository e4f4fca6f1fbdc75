"""Importance sampling of pi^alpha: a proposal model's draws, each with its weight.

From n draws y_i of q with W_i = alpha log p(y_i) - log q(y_i), E_pi_alpha[f] = sum w f / sum w.
What the weights themselves say is in `log_weights`.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from powerjax.models.language_model import LM
from powerjax.records.progress import progress_bar
from powerjax.sample import inputs, job, restart, spec
from powerjax.sample.completions import Completion, Completions
from powerjax.sample.failures import ChainsFailed
from powerjax.sample.job import Prompt
from powerjax.sample.log_weights import LogWeights
from powerjax.sample.stats import Finished, Request, Stats


@dataclasses.dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class Importance(LogWeights):
    """Weighted completions of one prompt, and what the weights say. n draws.

    Attributes:
      id: the prompt's name.
      completions: the n draws, in the order of their sample indices.
      log_weights: float64 [n], W = alpha log p - log q of each (nats, not normalised).
      stats: what the whole run cost, over all prompts.
    """

    id: str | int
    completions: list[Completion]
    stats: Stats

    def expect(self, f: Callable[[Completion], float]) -> tuple[float, float]:
        """The mean of f under pi_alpha, self-normalised, and its standard error (delta method)."""
        values = np.array([float(f(item)) for item in self.completions])
        mean = float(self.weights @ values)
        n = len(values)
        spread = float(np.sqrt(np.sum(self.weights**2 * (values - mean) ** 2)))
        return mean, spread * math.sqrt(n / (n - 1)) if n > 1 else math.nan

    def resample(self, n: int, seed: int = 0) -> list[Completion]:
        """Draws n of the completions by their weights, with replacement (SIR).

        Their law tends to pi_alpha as the number of draws grows.
        """
        n = inputs.whole("n", n, 1)
        rng = np.random.default_rng(inputs.whole("seed", seed, 0))
        return [self.completions[i] for i in rng.choice(len(self.weights), n, p=self.weights)]

    def __repr__(self) -> str:
        k_hat = "-" if self.k_hat is None else f"{self.k_hat:.2f}"
        return (
            f"Importance({self.id}: {len(self.completions)} completions, "
            f"log Z {self.log_z:.3f} +- {self.log_z_stderr:.3f}, ESS/n {self.ess_fraction:.3f}, "
            f"k-hat {k_hat}, KL {self.kl:.3f})"
        )


def importance(
    lm: LM,
    prompts: Sequence[Prompt],
    proposal: LM,
    *,
    num_samples: int,
    alpha: float = 4.0,
    proposal_temperature: float = 1.0,
    max_new_tokens: int,
    seed: int = 0,
    ids: Sequence[str | int] | None = None,
    top_k: int | None = None,
    num_slots: int | None = None,
    defensive: float = 0.0,
    progress: bool = True,
) -> list[Importance]:
    """Draws from a proposal model, and weighs the draws as samples of pi(y|x)^alpha.

    The proposal model decodes by itself; the base then scores the finished completions in one pass,
    and every p that is compared comes from that pass. With top_k or defensive draws the two models
    step together, because a token's laws then depend on both.

    The draw (id, sample index) is the one that `standard(proposal, ...)` and `power(lm, ...,
    proposal=proposal)` begin with under the same seed.

    Args:
      lm: the base p.
      prompts: as for `power`.
      proposal: the proposal model: the base with an adapter, or any model over the same tokenizer.
      num_samples: n, draws per prompt.
      alpha: exponent of the target, >= 1.
      proposal_temperature: tau_q, of the proposal model.
      max_new_tokens: tokens of the longest completion, EOS counted.
      seed, ids, top_k, num_slots, progress: as for `power`.
      defensive: the share of the draws that the base makes, at temperature 1/alpha. All draws are
        then weighed by the density of the mixture. It guards against modes that the proposal model
        never visits. The last ceil(n * defensive) draws of a prompt are the base's.

    Returns:
      One Importance per prompt, in their order. With a proposal model that is far from pi_alpha,
      k_hat is above 0.7; it is blind to a mode that no draw visited (see `Importance.k_hat`).

    Raises:
      ValueError: on an argument out of range, a model over another tokenizer, or a bad prompt.
      ChainsFailed: where logits were not finite.
    """
    # Its keywords and what they mean are one screen.
    sampler = spec.Power(
        alpha=alpha,
        move="restart",
        num_mcmc_steps=0,
        block_size=max_new_tokens,
        max_new_tokens=max_new_tokens,
        proposal_temperature=proposal_temperature,
        top_k=top_k,
    )
    options = job.Options(
        num_samples=num_samples, seed=seed, ids=ids, num_slots=num_slots, proposal=proposal
    )
    # 70 * .1 is 7.000000000000001, and 7 draws are meant.
    num_of_base = math.ceil(options.num_samples * inputs.share("defensive", defensive) - 1e-9)
    of_proposal = restart.draws_of(sampler, lm.stop_ids, together=num_of_base > 0)
    call = job.prepare(lm, prompts, sampler, options, steps_together=of_proposal.together)

    stats, drawn = _draw(call, of_proposal, options.num_samples - num_of_base, progress)
    share = num_of_base / options.num_samples
    return [
        Importance(
            id=name,
            completions=[call.completion(_under_base(end)) for end in ends],
            log_weights=np.array([_log_weight(end, of_proposal, share) for end in ends]),
            stats=stats,
        )
        for name, ends in zip(call.names, drawn, strict=True)
    ]


def _draw(
    call: job.Call, of_proposal: restart.Draws, first_of_base: int, progress: bool
) -> tuple[Stats, list[list[Finished]]]:
    """Draws every completion of a call: (stats, the draws of each prompt by sample index).

    first_of_base: the sample index from which on the base draws.

    Raises ChainsFailed where a draw has no weight, because logits were not finite.
    """
    drawn: list[dict[int, Finished]] = [{} for _ in call.tokens]
    failed: list[Request] = []

    def collect(end: Finished) -> None:
        if np.all(np.isfinite(end.log_weight)) and np.isfinite(restart.log_p(end)):
            drawn[end.request.prompt_index][end.request.sample_index] = end
        else:
            failed.append(end.request)

    requests, stats = call.requests(), Stats()
    of_base = dataclasses.replace(of_proposal, by_base=True)
    with progress_bar(total=len(requests), desc="importance", unit="draw", show=progress) as bar:
        for settings, is_base in ((of_proposal, False), (of_base, True)):
            part = [r for r in requests if (r.sample_index >= first_of_base) == is_base]
            stats = stats + call.run(
                restart.draw, part, settings, on_finish=collect, on_fail=failed.append, bar=bar
            )
    if failed:
        pairs = sorted((call.names[r.prompt_index], r.sample_index) for r in failed)
        items = [call.completion(_under_base(end)) for ends in drawn for end in ends.values()]
        stated = {"model": call.lm.name}
        raise ChainsFailed(pairs, Completions(items, stats, stated), call.lm.dtype)
    return stats, [[ends[i] for i in sorted(ends)] for ends in drawn]


def _under_base(end: Finished) -> Finished:
    """The draw with the base's log-probabilities as its own."""
    return end if end.scored is None else dataclasses.replace(end, log_p=end.scored)


def _log_weight(end: Finished, settings: restart.Draws, base_share: float) -> float:
    """W of a draw, by the density of the mixture that has this share of the base's draws."""
    if not base_share:
        return restart.log_weight(end, settings)
    of_base, of_proposal = (float(x) for x in end.log_weight)
    if base_share == 1:
        return of_base
    return -float(
        np.logaddexp(math.log1p(-base_share) - of_proposal, math.log(base_share) - of_base)
    )
