"""One call of a sampler: prompts in, chains drawn by the engines, completions out."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from powerjax.models import prompts as prompts_lib
from powerjax.models.language_model import LM
from powerjax.records.progress import progress_bar
from powerjax.sample import draws, inputs, memory, proposals, restart, spec, workers
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
      proposal: the model that draws the moves, for samplers with a `move`; None: the base does.
      trace: whether completions keep what their chain's state was after each move.
    """

    num_samples: int = 1
    seed: int = 0
    ids: Sequence[str | int] | None = None
    num_slots: int | None = None
    progress: bool = True
    on_finish: Callable[[Completion], None] | None = None
    skip: Callable[[int, int], bool] | None = None
    proposal: LM | None = None
    trace: bool = False

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

    Raises TypeError for a keyword that the sampler does not take, ValueError for a bad value, and
    for a move without a proposal model.
    """
    of_options = {field.name for field in dataclasses.fields(Options)}
    settings = spec.settings_of(name)
    unknown = keywords.keys() - of_options - set(settings)
    proposal = keywords.get("proposal")
    if proposal is not None and "move" not in settings:
        unknown = unknown | {"proposal"}
    if unknown:
        raise TypeError(f"sample.{name} has no argument {min(unknown)!r}")
    if proposal is not None and keywords.get("move") is None:
        keywords = {**keywords, "move": "restart"}
    if proposal is None and keywords.get("move") is not None:
        raise ValueError(f"move={keywords['move']!r} needs a proposal model: give proposal")
    given = {key: value for key, value in keywords.items() if key in of_options}
    return spec.of(name, keywords), Options(**given)


def stated_settings(
    lm: LM,
    sampler: spec.Sampler,
    seed: int,
    prompt_style: str,
    proposal: LM | None = None,
) -> dict[str, Any]:
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
        **({} if proposal is None else proposals.stated(lm, proposal)),
        "prompt_style": prompt_style,
        **lm.identity,
    }


def pick_num_slots(
    lm: LM,
    longest_prompt: int,
    sampler: spec.Sampler,
    num_chains: int,
    proposal: LM | None = None,
    steps_together: bool | None = None,
) -> int:
    """How many slots a run of this sampler has where nobody says (`memory.pick_num_slots`).

    longest_prompt: tokens.
    num_chains: of the whole job.
    steps_together: whether both models decode in a slot; None: as the sampler does by itself.
    """
    lengths = longest_prompt, sampler.max_new_tokens
    count = num_chains * sampler.slots_per_chain
    if steps_together is None:
        steps_together = sampler.steps_together
    if proposal is None or steps_together:
        return memory.pick_num_slots(lm, *lengths, count, proposal)
    return memory.pick_num_slots(proposal, *lengths, count)


@dataclasses.dataclass(frozen=True)
class Call:
    """The checked arguments of one call, and its chains.

    Attributes:
      lm, proposal: the models, over one vocabulary.
      prompts: as they were given.
      tokens: the token ids of each.
      names: their names.
      max_new_tokens: tokens of the longest completion.
      num_slots: chains that advance at a time.
      options: the other arguments.
    """

    lm: LM
    proposal: LM | None
    prompts: list[Prompt]
    tokens: list[list[int]]
    names: list[str | int]
    max_new_tokens: int
    num_slots: int
    options: Options

    def requests(self) -> list[Request]:
        """A request for each chain that is not skipped, ordered by prompt and sample."""
        options, names = self.options, self.names
        chains = [(p, s) for p in range(len(names)) for s in range(options.num_samples)]
        keys = draws.chain_keys(options.seed, [names[p] for p, _ in chains], [s for _, s in chains])
        return [
            Request(p, s, key)
            for (p, s), key in zip(chains, keys, strict=True)
            if options.skip is None or not options.skip(p, s)
        ]

    def run(
        self,
        generate: Callable[..., Stats],
        requests: Sequence[Request],
        settings: Any,
        **ends: Any,
    ) -> Stats:
        """Runs the requests by `generate`, which takes what `workers.generate` takes.

        A prompt's own length chooses longrope's factors, whichever prompts are beside it. So there
        are several runs where a model with longrope has both kinds of prompts.

        ends: the callbacks, and the bar.
        """
        models = [self.lm] + ([] if self.proposal is None else [self.proposal])
        flags = [
            tuple(m.config.long_context(len(row) + self.max_new_tokens) for m in models)
            for row in self.tokens
        ]
        stats = Stats(num_slots=self.num_slots)
        for flag in sorted(set(flags)):
            part = [request for request in requests if flags[request.prompt_index] == flag]
            if part:
                of_pair = {} if self.proposal is None else {"proposal": self.proposal}
                stats = stats + generate(
                    self.lm,
                    [row if f == flag else [] for row, f in zip(self.tokens, flags, strict=True)],
                    part,
                    settings,
                    num_slots=self.num_slots,
                    long_context=flag[0],
                    other_long_context=flag[-1],
                    **of_pair,
                    **ends,
                )
        return stats

    def completion(self, finished: Finished) -> Completion:
        """A finished chain as a Completion, its text decoded where the model has a tokenizer."""
        request, tokens = finished.request, finished.tokens.tolist()
        log_prob = float(np.sum(finished.log_p, dtype=np.float64))
        text = None
        if self.lm.tokenizer is not None:
            text = self.lm.decode(tokens[:-1] if finished.ended else tokens)
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
            num_proposal_forward_tokens=finished.num_proposal_forward_tokens,
            num_early_rejections=finished.num_rejected_early,
            id=self.names[request.prompt_index],
            prompt_index=request.prompt_index,
            sample_index=request.sample_index,
            prompt_style=prompts_lib.style([self.prompts[request.prompt_index]]),
            trace=finished.trace if self.options.trace else None,
        )


def prepare(
    lm: LM,
    prompts: Sequence[Prompt],
    sampler: spec.Sampler,
    options: Options,
    steps_together: bool | None = None,
) -> Call:
    """Checks what is asked for, and picks the number of slots.

    steps_together: as for `pick_num_slots`.

    Raises ValueError where a prompt is not one (`models.prompts`), is empty or is too long for a
    model's context, for a string where the model has no tokenizer, and where the proposal model
    has another tokenizer.
    """
    inputs.check_stop_ids(lm)
    proposal = options.proposal
    if proposal is not None:
        lm, proposal = proposals.over_one_vocabulary(lm, proposal)
    prompts = prompts_lib.separate(prompts)
    tokens = inputs.prompt_tokens(lm, prompts, sampler.max_new_tokens)
    if proposal is not None:
        try:
            inputs.prompt_tokens(proposal, tokens, sampler.max_new_tokens)
        except ValueError as error:
            raise ValueError(f"{proposal.name or 'the proposal model'}: {error}") from None
    names = inputs.names(options.ids, len(tokens))
    num_slots = options.num_slots
    if num_slots is None:
        # The job's chains are counted, whether they are skipped or not, so that a resumed run has
        # the slots that it had before, given the same free memory.
        num_chains = len(tokens) * options.num_samples
        longest = max(map(len, tokens))
        num_slots = pick_num_slots(lm, longest, sampler, num_chains, proposal, steps_together)
    return Call(lm, proposal, prompts, tokens, names, sampler.max_new_tokens, num_slots, options)


def draw(lm: LM, prompts: Sequence[Prompt], sampler: spec.Sampler, options: Options) -> Completions:
    """Draws num_samples completions of each prompt.

    Returns Completions, ordered by (prompt_index, sample_index).

    Raises:
      ValueError: as `prepare`.
      ChainsFailed: after all other chains are finished, where the logits of some were not finite.
    """
    call = prepare(lm, prompts, sampler, options)
    items: list[Completion] = []
    failed: list[Request] = []

    def collect(finished: Finished) -> None:
        item = call.completion(finished)
        items.append(item)
        if options.on_finish is not None:
            options.on_finish(item)

    requests = call.requests()
    generate: Callable[..., Stats] = workers.generate
    settings: Any = sampler.kernel_settings(call.lm.stop_ids)
    of_chain = 1  # draws that each chain is made of
    if isinstance(sampler, spec.Power) and sampler.move == "restart":
        of_chain = sampler.num_mcmc_steps + 1
        generate = functools.partial(restart.generate, num_steps=sampler.num_mcmc_steps)
        settings = restart.draws_of(sampler, call.lm.stop_ids)
    elif options.trace:
        generate = functools.partial(workers.generate, trace=sampler.most_moves)
    unit = "chain" if of_chain == 1 else "draw"
    with progress_bar(
        total=len(requests) * of_chain, desc=sampler.name, unit=unit, show=options.progress
    ) as bar:
        ends: dict[str, Any] = {"on_finish": collect, "on_fail": failed.append, "bar": bar}
        stats = call.run(generate, requests, settings, **ends)

    stated = stated_settings(
        lm, sampler, options.seed, prompts_lib.style(call.prompts), options.proposal
    )
    completions = Completions(items, stats, stated)
    if failed:
        pairs = sorted((request.prompt_index, request.sample_index) for request in failed)
        raise ChainsFailed([(call.names[p], s) for p, s in pairs], completions, lm.dtype)
    return completions
