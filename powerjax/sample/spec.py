"""Samplers as values: which sampler, with which settings.

Each class is one sampler. It checks its settings when it is made, and knows what follows from them:
the settings of the Metropolis-Hastings kernel, the fields that its records state, a phrase on the
law of its completions, and what they cost. The rest of the project asks here: launchers for their
flags, records for their fields, plans for tokens, reports for the law.

To add a sampler that the kernel can draw from: a class here, or in `spec_moves` if it makes MH
moves, entered in `SAMPLERS`; a function in `samplers`, handed on by `sample/__init__`; the names of
its new settings in `records.identity.LAW` and `records.fields.FIELDS`, and flags for them in
experiments/sample.py. Its row in the tables of reproductions is in `runs.setups`.

A sampler with another loop than the kernel's, such as one that resamples across chains, cannot use
`slots` and `engine`, which run chains that know nothing of each other. It needs a file beside `mh`
for its step, a loop of its own in place of `workers.generate` in `job`, and purposes of its own in
`draws`.

    Power(alpha=4.0, num_mcmc_steps=30).forward_tokens(600)   # tokens per chain of 600 tokens
    of("power", {"alpha": 4.0, "num_samples": 8})             # from the keywords of sample.power
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from powerjax.sample import inputs, mh
from powerjax.sample.spec_base import Sampler
from powerjax.sample.spec_moves import Move, Power, PowerInf, Stop

__all__ = [
    "SAMPLERS",
    "Move",
    "Power",
    "PowerInf",
    "Sampler",
    "Standard",
    "Stop",
    "Temperature",
    "of",
    "settings_of",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Standard(Sampler):
    """Plain sampling from the model: temperature 1, no MH moves."""

    name: ClassVar[str] = "standard"

    @property
    def _temperature(self) -> float:
        return 1.0

    def kernel_settings(self, stop_ids: tuple[int, ...]) -> mh.Settings:
        return mh.settings(
            1.0 / self._temperature,
            self._temperature,
            block_size=self.max_new_tokens,
            num_mcmc_steps=0,
            max_new_tokens=self.max_new_tokens,
            stop_ids=stop_ids,
            top_k=self.top_k,
        )

    def record_fields(self) -> dict[str, Any]:
        return {
            "sampler": self.name,
            "alpha": 1.0,
            "temperature": self._temperature,
            "block_size": self.max_new_tokens,
            "num_mcmc_steps": 0,
            "stop": "eos",
            "kernel": "exact",
            "max_new_tokens": self.max_new_tokens,
            "top_k": self.top_k,
        }

    def describe_law(self) -> str:
        return f"the model's own{self._among()}"

    def forward_tokens(self, length: float) -> float:
        return min(length, self.max_new_tokens)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Temperature(Standard):
    """Token-level temperature sampling: Eq. 5, with alpha = 1 / temperature."""

    name: ClassVar[str] = "temperature"

    temperature: float = 0.25

    def __post_init__(self) -> None:
        self._set("temperature", inputs.positive(self.temperature))
        super().__post_init__()

    @property
    def _temperature(self) -> float:
        return self.temperature

    def describe_law(self) -> str:
        return f"each token at temperature {self.temperature:g}{self._among()}"


SAMPLERS: dict[str, type[Sampler]] = {
    kind.name: kind for kind in (Power, PowerInf, Standard, Temperature)
}


def settings_of(name: str) -> tuple[str, ...]:
    """The names of a sampler's settings. Raises ValueError where there is no such sampler."""
    return tuple(field.name for field in dataclasses.fields(_kind(name)))


def of(name: str, settings: Mapping[str, Any]) -> Sampler:
    """The sampler `name` with those of the keywords that are its settings.

    All other keywords are passed over: num_samples and seed, and settings of other samplers, too.
    (`job.parse` refuses what the sampler does not take.) A block_size or num_mcmc_steps of None
    takes the sampler's default. With a `move` that is one stage, and one move. Raises ValueError
    for an unknown sampler, and for a setting that is out of range.
    """
    kind = _kind(name)
    chosen = {key: settings[key] for key in settings_of(name) if key in settings}
    for key in ("block_size", "num_mcmc_steps"):
        if chosen.get(key, 0) is None:
            del chosen[key]
    if chosen.get("move") is not None:
        chosen.setdefault("block_size", chosen.get("max_new_tokens", Sampler.max_new_tokens))
        chosen.setdefault("num_mcmc_steps", 1)
    return kind(**chosen)


def _kind(name: str) -> type[Sampler]:
    if name not in SAMPLERS:
        raise ValueError(f"there is no sampler {name!r}: give one of {', '.join(SAMPLERS)}")
    return SAMPLERS[name]
