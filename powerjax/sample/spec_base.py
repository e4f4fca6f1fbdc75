"""What every sampler's value has: the base class of those in `spec`."""

import abc
import dataclasses
from typing import Any, ClassVar

from powerjax.sample import inputs, mh


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler(abc.ABC):
    """What all samplers have in common.

    Attributes:
      max_new_tokens: the most tokens that a completion has, EOS counted.
      top_k: only the k likeliest tokens can be drawn (ties with the k-th too); None: all tokens.
    """

    name: ClassVar[str]  # in records, and of the function in `powerjax.sample`

    max_new_tokens: int = 3072
    top_k: int | None = None

    def __post_init__(self) -> None:
        most = mh.MAX_NEW_TOKENS
        self._set("max_new_tokens", inputs.whole("max_new_tokens", self.max_new_tokens, 1, most))
        self._set("top_k", inputs.whole_or_none("top_k", self.top_k, 1))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen

    @abc.abstractmethod
    def kernel_settings(self, stop_ids: tuple[int, ...]) -> mh.Settings:
        """The kernel's settings for a model with these stop tokens."""

    @abc.abstractmethod
    def record_fields(self) -> dict[str, Any]:
        """The fields of a record that state this sampler, in plain values of JSON.

        "sampler", "alpha" and "temperature" are among them. A setting that decides the law has its
        name in `records.identity.LAW`: records keep the fields of that list, and hash them into
        their ids.
        """

    @abc.abstractmethod
    def describe_law(self) -> str:
        """The law of the completions, as a phrase for readers."""

    @abc.abstractmethod
    def forward_tokens(self, length: float) -> float:
        """The mean number of tokens that a chain feeds to the model.

        length: tokens of its completion.
        """

    def proposal_forward_tokens(self, length: float) -> float:
        """The mean number of tokens that a chain feeds to a proposal model, 0 without one."""
        return 0.0

    @property
    def most_moves(self) -> int:
        """The most MH moves that a chain makes."""
        return 0

    @property
    def steps_together(self) -> bool:
        """Whether a proposal model steps beside the base in every slot."""
        return False

    @property
    def slots_per_chain(self) -> int:
        """How many slots a chain can use at a time."""
        return 1

    def _among(self) -> str:
        return "" if self.top_k is None else f", of the {self.top_k} likeliest tokens"
