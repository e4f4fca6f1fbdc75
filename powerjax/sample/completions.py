"""What a sampler returns: the completions in order, the run's settings, and what it cost."""

import dataclasses
import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from powerjax import records
from powerjax.records import identity
from powerjax.sample import arviz_export
from powerjax.sample.stats import Stats
from powerjax.sample.traces import Trace, as_lists


@dataclasses.dataclass
class Completion:
    """One completion of one prompt.

    Attributes:
      text: decoded, EOS left out; None where the model has no tokenizer.
      tokens: ids, EOS included when finish_reason is "eos".
      log_probs: float32 [len(tokens)], base log-probability of each token.
      log_prob: their sum (Eq. 1, nats).
      self_reward: their mean, EOS counted (nats per token; the reported r_self).
      finish_reason: "eos", or "length" where max_new_tokens ended it.
      acceptance_rate: accepted over finished MH moves; None where there were none.
      num_forward_tokens: tokens of this chain that the model read, by decoding or by scoring;
        prefill is left out.
      num_proposal_forward_tokens: the same of the proposal model; None where there is none.
      num_early_rejections: moves that ended early because their rejection was certain.
      id: the problem's name, which keys the chain's randomness; the prompt's index by default.
      prompt_index, sample_index: they name the chain in its run.
      chosen: in best_of_n, whether it has its prompt's largest self-reward; None elsewhere.
      prompt_style: "chat" where a chat template made the prompt, else "raw".
      trace: what the chain's state was after each of its moves, arrays [moves] (`traces.Trace`);
        None unless the run was traced.
    """

    text: str | None
    tokens: list[int]
    log_probs: np.ndarray
    log_prob: float
    self_reward: float
    finish_reason: str
    acceptance_rate: float | None
    num_forward_tokens: int
    num_early_rejections: int
    id: str | int
    prompt_index: int
    sample_index: int
    chosen: bool | None = None
    prompt_style: str = "raw"
    num_proposal_forward_tokens: int | None = None
    trace: Trace | None = None

    @property
    def num_tokens(self) -> int:
        """The number of tokens, EOS counted."""
        return len(self.tokens)

    def __repr__(self) -> str:
        what = self.text if self.text is not None else str(self.tokens)
        what = what if len(what) <= 80 else what[:77] + "..."
        accepted = "" if self.acceptance_rate is None else f", accepted {self.acceptance_rate:.2f}"
        chosen = ", chosen" if self.chosen else ""
        return (
            f"Completion({self.id}/{self.sample_index}: {what!r}, {self.num_tokens} tokens, "
            f"{self.finish_reason}, r_self {self.self_reward:.3f}{accepted}{chosen})"
        )


class Completions(Sequence):
    """Completions ordered by (prompt_index, sample_index), with the run's settings and stats.

    Attributes:
      stats: what the run did (`Stats`).
      settings: what its records state: the model, the sampler, the law, the seed.
    """

    def __init__(self, items: list[Completion], stats: Stats, settings: dict[str, Any]):
        self._items = sorted(items, key=lambda c: (c.prompt_index, c.sample_index))
        self.stats = stats
        self.settings = settings

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return Completions(self._items[index], self.stats, self.settings)
        return self._items[index]

    def to_records(self, task: str = "prompts") -> list[dict[str, Any]]:
        """The completions as the project's records (dicts that JSON can hold)."""
        return [self.to_record(item, task) for item in self]

    def to_record(self, item: Completion, task: str = "prompts") -> dict[str, Any]:
        """One completion of this run as a record."""
        return as_record(item, self.settings | {"prompt_style": item.prompt_style}, task)

    def to_arviz(self, stage: int | None = None) -> Any:
        """The moves of a traced run as ArviZ's DataTree, for R-hat, ESS and trace plots.

        Chains are the samples of a prompt, draws the moves, and `prompt` is a coordinate. The group
        posterior has log_p (nats) and length (tokens) of each chain's state after each move, the
        group sample_stats has accepted and kind ("restart", "suffix" or "base").

        stage: the stage whose moves are wanted, from 0; a chain tends to another law in each. None:
          the last stage that all chains reached. With one stage that is every move.

        Raises ImportError where the package arviz-base is missing, and ValueError where the run was
        not traced, or has more chains of one prompt than of another.
        """
        of_prompts: dict[str | int, list[Trace | None]] = {}
        for item in self:
            of_prompts.setdefault(item.id, []).append(item.trace)
        return arviz_export.to_arviz(of_prompts, self.settings, stage)

    def __repr__(self) -> str:
        if not self._items:
            return "Completions(none)"
        lines = [self._headline(), *(f"  {item!r}" for item in self._items[:8])]
        if len(self) > 8:
            lines.append(f"  ... {len(self) - 8} more")
        return "\n".join(lines)

    def _headline(self) -> str:
        s, stats = self.settings, self.stats
        mean = np.mean([item.self_reward for item in self._items])
        law = ""
        if s["num_mcmc_steps"]:
            law = f", {s['num_mcmc_steps']} steps per stage, stop={s['stop']!r}"
        rate = stats.acceptance_rate
        accepted = "" if rate is None else f", accepted {rate:.3f}"
        return (
            f"{len(self)} completions of {s['model']} by {s['sampler']} "
            f"(alpha {_alpha_text(s['alpha'])}, "
            f"temperature {s['temperature']:.4g}{law}): mean r_self {mean:.3f}{accepted}, "
            f"{stats.num_forward_tokens:,} forward tokens in {stats.wall_s:.1f} s "
            f"({stats.tokens_per_s:,.0f}/s)"
        )

    def _repr_html_(self) -> str:
        """The table that a notebook shows."""
        names = ("id", "sample", "text", "tokens", "r_self", "finish", "accepted")
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in names)
        rows = "".join(map(_html_row, self._items[:20]))
        more = f"<p>... {len(self) - 20} more</p>" if len(self) > 20 else ""
        title = html.escape(self._headline()) if self._items else "no completions"
        return f"<p>{title}</p><table><tr>{head}</tr>{rows}</table>{more}"


def _html_row(item: Completion) -> str:
    """A completion as a row of an HTML table; in bold where best_of_n chose it."""
    text = item.text if item.text is not None else str(item.tokens)
    rate = item.acceptance_rate
    values = (
        item.id,
        item.sample_index,
        text[:200],
        item.num_tokens,
        f"{item.self_reward:.3f}",
        item.finish_reason,
        "" if rate is None else f"{rate:.2f}",
    )
    cells = "".join(
        f"<td style='text-align:left'>{html.escape(str(value))}</td>" for value in values
    )
    style = " style='font-weight:bold'" if item.chosen else ""
    return f"<tr{style}>{cells}</tr>"


def _alpha_text(alpha: float | str) -> str:
    """alpha as text; `inf` is a string already."""
    return alpha if isinstance(alpha, str) else f"{alpha:g}"


def as_record(
    item: Completion,
    settings: dict[str, Any],
    task: str = "prompts",
    label: str | None = None,
) -> dict[str, Any]:
    """A completion as a record of plain Python values. It has no `prompt`; the caller adds that.

    Args:
      item: the completion.
      settings: `Completions.settings`: model, seed, and the settings of the law. Of the latter
        those in `identity.LAW` are written.
      task: the task's name.
      label: the sampler's name in the record's id; None: the sampler's own.
    """
    s = {name: _plain(value) for name, value in settings.items()}
    problem_id = _plain(item.id)
    return {
        "id": records.record_id(
            task=task,
            problem_id=problem_id,
            model=s["model"],
            sampler=label or s["sampler"],
            seed=s["seed"],
            sample_index=item.sample_index,
            law=s,
        ),
        "task": task,
        "problem_id": problem_id,
        **{k: s[k] for k in ("model", "sampler", "alpha", "temperature", "seed")},
        "sample_index": item.sample_index,
        "completion": item.text,
        "tokens": [int(token) for token in item.tokens],
        "log_probs": [float(x) for x in item.log_probs],
        "log_prob": item.log_prob,
        "num_tokens": item.num_tokens,
        "self_reward": item.self_reward,
        "finish_reason": item.finish_reason,
        **{k: s[k] for k in identity.LAW if k in s},
        "acceptance_rate": item.acceptance_rate,
        "num_forward_tokens": item.num_forward_tokens,
        **(
            {}
            if item.num_proposal_forward_tokens is None
            else {"num_proposal_forward_tokens": item.num_proposal_forward_tokens}
        ),
        "num_early_rejections": item.num_early_rejections,
        **({} if item.chosen is None else {"chosen": item.chosen}),
        **({} if item.trace is None else {"trace": as_lists(item.trace)}),
    }


def _plain(value: Any) -> Any:
    """A number of NumPy as Python's; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value
