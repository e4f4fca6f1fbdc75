"""One call of a sampler: prompts in, chains drawn by the engines, completions out."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from powerjax.models import prompts as prompts_lib
from powerjax.models.language_model import LM
from powerjax.records.progress import progress_bar
from powerjax.sample import draws, inputs, memory, spec, workers
from powerjax.sample.completions import Completion, Completions
from powerjax.sample.failures import ChainsFailed
from powerjax.sample.stats import Finished, Request, Stats

Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What a call of any sampler may be given beside the sampler's own settings.

    Attributes:
      num_samples: independent chains per prompt.
      seed: of the run; a chain's draws depend on (seed, its id, its sample index) alone.
      ids: stable, distinct names of the problems, which name the chains; None: 0, 1, ...
      num_slots: chains that advance at a time; None: as many as free device memory holds.
      progress: whether a bar is shown.
      on_finish: called with each Completion as its chain ends.
      skip: skip(prompt_index, sample_index) is True for chains that are not to be drawn.
    """

    num_samples: int = 1
    seed: int = 0
    ids: Sequence[str | int] | None = None
    num_slots: int | None = None
    progress: bool = True
    on_finish: Callable[[Completion], None] | None = None
    skip: Callable[[int, int], bool] | None = None

    def __post_init__(self) -> None:
        checked = {
            "num_samples": inputs.whole("num_samples", self.num_samples, 1),
            "num_slots": inputs.whole_or_none("num_slots", self.num_slots, 1),
            "seed": inputs.seed(self.seed),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)  # the dataclass is frozen


def parse(name: str, keywords: Mapping[str, Any]) -> tuple[spec.Sampler, Options]:
    """Returns the sampler and the options that are in the keywords of the function `sample.NAME`.

    Raises TypeError for a keyword that the sampler does not take, ValueError for a bad value.
    """
    of_options = {field.name for field in dataclasses.fields(Options)}
    unknown = keywords.keys() - of_options - set(spec.settings_of(name))
    if unknown:
        raise TypeError(f"sample.{name} has no argument {min(unknown)!r}")
    given = {key: value for key, value in keywords.items() if key in of_options}
    return spec.of(name, keywords), Options(**given)


def stated_settings(lm: LM, sampler: spec.Sampler, seed: int, prompt_style: str) -> dict[str, Any]:
    """Returns the fields that all records of a run have alike: model, sampler, law and seed.

    prompt_style: "raw", "chat" or a task's wording (`prompts.style`).
    """
    fields = sampler.record_fields()
    head = {name: fields.pop(name) for name in ("sampler", "alpha", "temperature")}
    return {
        "model": lm.name,
        **head,
        "seed": seed,
        **fields,
        "prompt_style": prompt_style,
        **lm.identity,
    }


def draw(lm: LM, prompts: Sequence[Prompt], sampler: spec.Sampler, options: Options) -> Completions:
    """Draws num_samples completions of each prompt.

    Returns Completions, ordered by (prompt_index, sample_index).

    Raises:
      ValueError: where a prompt is not one (`models.prompts`), is empty or is too long for the
        model's context, and for a string where the model has no tokenizer.
      ChainsFailed: after all other chains are finished, where the logits of some were not finite.
    """
    # --- what is asked for ---
    inputs.check_stop_ids(lm)
    prompts = prompts_lib.separate(prompts)
    tokens = inputs.prompt_tokens(lm, prompts, sampler.max_new_tokens)
    names = inputs.names(options.ids, len(tokens))
    chains = [(p, s) for p in range(len(tokens)) for s in range(options.num_samples)]
    num_slots = options.num_slots
    if num_slots is None:
        # The job's chains are counted, whether they are skipped or not, so that a resumed run has
        # the slots that it had before, given the same free memory.
        longest = max(map(len, tokens))
        num_slots = memory.pick_num_slots(lm, longest, sampler.max_new_tokens, len(chains))

    # --- the chains ---
    items: list[Completion] = []
    failed: list[Request] = []

    def collect(finished: Finished) -> None:
        item = _completion(lm, finished, names, prompts)
        items.append(item)
        if options.on_finish is not None:
            options.on_finish(item)

    requests = _requests(chains, names, options)
    with progress_bar(
        total=len(requests), desc=sampler.name, unit="chain", show=options.progress
    ) as bar:
        ends = {"on_finish": collect, "on_fail": failed.append, "bar": bar}
        stats = _run(lm, tokens, requests, sampler, num_slots, **ends)

    # --- what came of them ---
    stated = stated_settings(lm, sampler, options.seed, prompts_lib.style(prompts))
    completions = Completions(items, stats, stated)
    if failed:
        pairs = sorted((request.prompt_index, request.sample_index) for request in failed)
        raise ChainsFailed([(names[p], s) for p, s in pairs], completions, lm.dtype)
    return completions


def _run(
    lm: LM,
    prompts: Sequence[Sequence[int]],
    requests: Sequence[Request],
    sampler: spec.Sampler,
    num_slots: int,
    **ends: Any,
) -> Stats:
    """Runs the requests' chains; `ends` are the callbacks of `workers.generate`, and its bar.

    A prompt's own length chooses longrope's factors, whichever prompts are beside it. So there are
    two runs where a model with longrope has both kinds of prompts.
    """
    settings, stats = sampler.kernel_settings(lm.stop_ids), Stats(num_slots=num_slots)
    for long_context in (False, True):
        fits = [
            lm.config.long_context(len(row) + sampler.max_new_tokens) == long_context
            for row in prompts
        ]
        part = [request for request in requests if fits[request.prompt_index]]
        if part:
            stats = stats + workers.generate(
                lm,
                [row if fit else [] for row, fit in zip(prompts, fits, strict=True)],
                part,
                settings,
                num_slots=num_slots,
                long_context=long_context,
                **ends,
            )
    return stats


def _requests(
    chains: Sequence[tuple[int, int]], names: Sequence[str | int], options: Options
) -> list[Request]:
    """A request for each chain (prompt index, sample index) that is not skipped."""
    keys = draws.chain_keys(options.seed, [names[p] for p, _ in chains], [s for _, s in chains])
    return [
        Request(p, s, key)
        for (p, s), key in zip(chains, keys, strict=True)
        if options.skip is None or not options.skip(p, s)
    ]


def _completion(
    lm: LM, finished: Finished, names: Sequence[str | int], prompts: Sequence[Prompt]
) -> Completion:
    """A finished chain as a Completion, its text decoded where the model has a tokenizer."""
    request, tokens = finished.request, finished.tokens.tolist()
    log_prob = float(np.sum(finished.log_p, dtype=np.float64))
    text = None
    if lm.tokenizer is not None:
        text = lm.decode(tokens[:-1] if finished.ended else tokens)
    num_moves = finished.num_moves
    return Completion(
        text=text,
        tokens=tokens,
        log_probs=finished.log_p,
        log_prob=log_prob,
        self_reward=log_prob / len(tokens),
        finish_reason="eos" if finished.ended else "length",
        acceptance_rate=finished.num_accepted / num_moves if num_moves else None,
        num_forward_tokens=finished.num_forward_tokens,
        num_early_rejections=finished.num_rejected_early,
        id=names[request.prompt_index],
        prompt_index=request.prompt_index,
        sample_index=request.sample_index,
        prompt_style=prompts_lib.style([prompts[request.prompt_index]]),
    )
