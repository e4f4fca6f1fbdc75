"""What a sampler is given, checked: one ValueError of one line for each mistake."""

import math
import numbers

from powerjax.models.language_model import LM


def check_power(alpha: float, temperature: float | None) -> None:
    """alpha >= 1 and finite; a temperature, where one is given, > 0."""
    if not (math.isfinite(alpha) and alpha >= 1):
        hint = " (power_inf is the limit)" if alpha == math.inf else ""
        raise ValueError(f"alpha is {alpha}: it must be a finite number, 1 or more{hint}")
    if temperature is not None:
        check_temperature(temperature)


def check_temperature(temperature: float) -> None:
    """A finite temperature that float32 can divide logits by (1e-4 is greedy in all but name)."""
    if not (math.isfinite(temperature) and temperature >= 1e-4):
        raise ValueError(f"temperature is {temperature}: it must be a finite number, 1e-4 or more")


def check_counts(**counts: tuple[int | None, int]) -> None:
    """Each argument is (value, least): a whole number, `least` or more; None passes."""
    for name, (value, least) in counts.items():
        if value is not None and (not isinstance(value, numbers.Integral) or value < least):
            raise ValueError(f"{name} is {value!r}: it must be a whole number, {least} or more")
    if counts["max_new_tokens"][0] >= 2**16:
        raise ValueError("max_new_tokens must be below 65536")


def check_stop(lm: LM, stop: str) -> None:
    """The stop rule exists, and the model can end a completion."""
    if stop not in ("eos", "horizon"):
        raise ValueError(f"stop must be 'eos' or 'horizon', not {stop!r}")
    if not lm.stop_ids:
        raise ValueError(
            f"{lm.name or 'the model'} names no EOS token, so no completion would end: add"
            " eos_token_id to its generation_config.json (to draw fixed lengths on purpose, give"
            " the LM stop_ids=(-1,))"
        )


def prompt_tokens(lm: LM, prompts, max_new_tokens: int) -> list[list[int]]:
    """Token ids of each prompt, none empty and none too long for max_new_tokens more."""
    if isinstance(prompts, str):
        raise ValueError("prompts is one string: give a list of prompts")
    if len(prompts) == 0:
        raise ValueError("prompts is empty: give at least one prompt")
    tokens = []
    for i, prompt in enumerate(prompts):
        row = lm.encode(prompt) if isinstance(prompt, str) else [int(t) for t in prompt]
        if not row:
            raise ValueError(f"prompt {i} is empty: its first token would have no context")
        if min(row) < 0 or max(row) >= lm.config.vocab_size:
            raise ValueError(
                f"prompt {i} has token id {max(row) if min(row) >= 0 else min(row)}, "
                f"outside the vocabulary of {lm.config.vocab_size}"
            )
        try:
            lm.config.check_length(len(row) + max_new_tokens)
        except ValueError as error:
            raise ValueError(f"prompt {i} ({len(row)} tokens): {error}") from None
        tokens.append(row)
    return tokens


def names(ids, count: int) -> list[str | int]:
    """The problems' names, all different; 0, 1, ... where ids is None."""
    found = list(range(count)) if ids is None else list(ids)
    for name in found:
        if not isinstance(name, str | numbers.Integral):
            raise ValueError(f"id {name!r} is neither a string nor a whole number")
    if len(found) != count:
        raise ValueError(f"{len(found)} ids for {count} prompts: give one for each")
    if len(set(found)) != count:
        twice = next(name for name in found if found.count(name) > 1)
        raise ValueError(f"id {twice!r} names two prompts: their chains would be the same")
    return found
