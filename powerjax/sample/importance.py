"""Importance sampling of pi^alpha: a proposal model's draws, each with its weight.

From n draws y_i of q, W_i = alpha log p(y_i) - log q(y_i) gives without further cost
    log Z_alpha = log mean exp(W),   ESS/n = (sum w)^2 / (n sum w^2),   chi^2 = n/ESS - 1,
    KL(q || pi_alpha) = log Z_alpha - E_q[W],   E_pi_alpha[f] = sum w f / sum w,
and, by the Pareto fit of the largest weights (PSIS, Vehtari et al. 2024), k-hat.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from powerjax.models.language_model import LM
from powerjax.records.progress import progress_bar
from powerjax.sample import diagnostics, inputs, job, restart, spec
from powerjax.sample.completions import Completion, Completions
from powerjax.sample.failures import ChainsFailed
from powerjax.sample.job import Prompt
from powerjax.sample.stats import Finished, Request, Stats


@dataclasses.dataclass(frozen=True, repr=False)
class Importance:
    """Weighted completions of one prompt, and what the weights say. n draws.

    Attributes:
      id: the prompt's name.
      completions: the n draws, in the order of their sample indices.
      log_weights: float64 [n], W = alpha log p - log q of each (nats, not normalised).
      stats: what the whole run cost, over all prompts.
    """

    id: str | int
    completions: list[Completion]
    log_weights: np.ndarray
    stats: Stats

    @property
    def weights(self) -> np.ndarray:
        """The normalised weights, float64 [n]. They sum to 1."""
        relative = np.exp(self.log_weights - self.log_weights.max())
        return relative / relative.sum()

    @property
    def log_z(self) -> float:
        """log Z_alpha, Z_alpha = sum_y p(y)^alpha: the log of the mean weight (nats)."""
        top = self.log_weights.max()
        return float(top + math.log(np.mean(np.exp(self.log_weights - top))))

    @property
    def log_z_stderr(self) -> float:
        """The standard error of `log_z`, by the delta method; nan for a single draw."""
        n = len(self.log_weights)
        if n < 2:
            return math.nan
        relative = self.weights * n
        return float(relative.std(ddof=1) / math.sqrt(n))

    @property
    def ess_fraction(self) -> float:
        """ESS/n, the effective share of the draws: 1 where q is pi_alpha, 1/n at the least."""
        return diagnostics.ess_fraction(self.log_weights)

    @property
    def chi2(self) -> float:
        """An estimate of the chi-square divergence of pi_alpha from q: n/ESS - 1."""
        return 1 / self.ess_fraction - 1

    @property
    def kl(self) -> float:
        """An estimate of KL(q || pi_alpha), in nats: log Z - mean(W)."""
        return self.log_z - float(self.log_weights.mean())

    @property
    def k_hat(self) -> float | None:
        """Pareto k-hat of the weights; None where fewer than five of the largest are distinct.

        Above 0.7, q gives pi_alpha's region too little mass, and the estimates here are not to be
        trusted. Below 0.7 says nothing about a mode that no draw visited: k-hat is blind to it, and
        `log_z` is then too low. `defensive` draws guard against that.
        """
        return diagnostics.k_hat(self.log_weights)

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
    num_of_base = math.ceil(options.num_samples * inputs.share("defensive", defensive))
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
        settings = {"model": call.lm.name}
        raise ChainsFailed(pairs, Completions(items, stats, settings), call.lm.dtype)
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
