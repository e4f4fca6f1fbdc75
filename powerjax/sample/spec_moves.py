"""The samplers that make MH moves, as values: Power and PowerInf."""

import dataclasses
import math
from typing import Any, ClassVar, Literal

import numpy as np

from powerjax.sample import inputs, mh
from powerjax.sample.spec_base import Sampler

Stop = Literal["eos", "horizon"]
Move = Literal["restart", "suffix", "mixture"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _WithMoves(Sampler):
    """A sampler that extends its completion stage by stage, and makes MH moves in each stage.

    Attributes:
      block_size: tokens that a stage adds; the last stage adds fewer where it does not divide.
      num_mcmc_steps: MH moves per stage.
      stop: "eos" ends a chain at the first stage whose state ends in EOS; "horizon" runs all.
      early_rejection: a move ends as soon as its rejection is certain. It changes no draw.
    """

    block_size: int = 192
    num_mcmc_steps: int = 10
    stop: Stop = "eos"
    early_rejection: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("block_size", inputs.whole("block_size", self.block_size, 1))
        self._set("num_mcmc_steps", inputs.whole("num_mcmc_steps", self.num_mcmc_steps, 0))
        if self.stop not in ("eos", "horizon"):
            raise ValueError(f"stop must be 'eos' or 'horizon', not {self.stop!r}")

    @property
    def most_moves(self) -> int:
        return self.num_mcmc_steps * math.ceil(self.max_new_tokens / self.block_size)

    def _kernel_settings(
        self,
        alpha: float,
        temperature: float | None,
        kernel: mh.Kernel,
        stop_ids: tuple[int, ...],
        **of_proposal: Any,
    ) -> mh.Settings:
        return mh.settings(
            alpha,
            temperature,
            block_size=min(self.block_size, self.max_new_tokens),
            num_mcmc_steps=self.num_mcmc_steps,
            max_new_tokens=self.max_new_tokens,
            stop_ids=stop_ids,
            stop=self.stop,
            early_rejection=self.early_rejection,
            kernel=kernel,
            top_k=self.top_k,
            **of_proposal,
        )

    def _record_fields(
        self, alpha: float | str, temperature: float, kernel: mh.Kernel
    ) -> dict[str, Any]:
        return {
            "sampler": self.name,
            "alpha": alpha,
            "temperature": temperature,
            "block_size": self.block_size,
            "num_mcmc_steps": self.num_mcmc_steps,
            "stop": self.stop,
            "kernel": kernel,
            "max_new_tokens": self.max_new_tokens,
            "top_k": self.top_k,
        }

    def forward_tokens(self, length: float) -> float:
        """The mean number of tokens that a chain feeds to the model (Algorithm 2).

        They are `length` for the extensions, and (n + 1) / 2 for each move at a length of n,
        because cuts are uniform. Early rejection, which is not counted, makes the mean smaller.
        """
        length = min(length, self.max_new_tokens)
        reached = self.max_new_tokens if self.stop == "horizon" else length
        ends = np.arange(1, math.ceil(reached / self.block_size) + 1) * self.block_size
        proposed = (np.minimum(ends, length) + 1) / 2
        return length + self.num_mcmc_steps * float(proposed.sum())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Power(_WithMoves):
    """Power sampling: pi(y|x)^alpha (Eq. 4) by Metropolis-Hastings (Algorithm 2).

    Attributes:
      alpha: the exponent, from 1 up.
      temperature: of the base's proposal; None: 1 / alpha.
      kernel: "exact", or "karan2026", the acceptance rule of the published code.
      move: what a proposal model draws: "restart", whole completions; "suffix", completions from a
        cut on; "mixture", both, and the base draws suffixes too. None: there is no proposal model.
      proposal_temperature: tau_q, of the proposal model.
      mixture: the shares of the proposal model's restarts, its suffixes and the base's suffixes
        among the moves of a mixture; None: (.4, .3, .3).
    """

    name: ClassVar[str] = "power"

    alpha: float = 4.0
    temperature: float | None = None
    kernel: Literal["exact", "karan2026"] = "exact"
    move: Move | None = None
    proposal_temperature: float = 1.0
    mixture: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        alpha, temperature = inputs.power(self.alpha, self.temperature)
        self._set("alpha", alpha)
        self._set("temperature", temperature)
        if self.kernel not in ("exact", "karan2026"):
            raise ValueError(f"kernel must be 'exact' or 'karan2026', not {self.kernel!r}")
        super().__post_init__()
        tau_q = inputs.positive(self.proposal_temperature, "proposal_temperature")
        self._set("proposal_temperature", tau_q)
        self._check_move()

    def _check_move(self) -> None:
        if self.move not in (None, "restart", "suffix", "mixture"):
            raise ValueError(f"move must be 'restart', 'suffix' or 'mixture', not {self.move!r}")
        if self.mixture is not None and self.move != "mixture":
            raise ValueError("mixture is for move='mixture' alone")
        if self.move is None:
            if self.proposal_temperature != 1:
                raise ValueError("proposal_temperature needs a proposal model: give proposal")
            return
        if self.move == "mixture":
            self._set("mixture", inputs.shares("mixture", self.mixture or (0.4, 0.3, 0.3)))
        if self.kernel != "exact":
            raise ValueError(f"kernel={self.kernel!r} takes no proposal model: its rule has none")
        if self.temperature is not None and not self._shares[2]:
            raise ValueError(
                "temperature is the base's, and no move here is the base's: give"
                " proposal_temperature, or a mixture with a share of base moves"
            )
        if self.move == "restart" and self.block_size < self.max_new_tokens:
            raise ValueError(
                f"restart moves draw whole completions: block_size {self.block_size} must be"
                f" max_new_tokens, {self.max_new_tokens}, or more"
            )

    @property
    def _shares(self) -> tuple[float, float, float]:
        """The shares of restarts, suffixes and the base's suffixes among the moves."""
        fixed = {None: (0.0, 0.0, 1.0), "restart": (1.0, 0.0, 0.0), "suffix": (0.0, 1.0, 0.0)}
        return self.mixture or fixed[self.move]

    def kernel_settings(self, stop_ids: tuple[int, ...]) -> mh.Settings:
        of_proposal: dict[str, Any] = {}
        if self.move is not None:
            of_proposal = {
                "shares": self._shares,
                "proposal_temperature": self.proposal_temperature,
            }
        return self._kernel_settings(
            self.alpha, self.temperature, self.kernel, stop_ids, **of_proposal
        )

    def record_fields(self) -> dict[str, Any]:
        # `mh.settings` takes a temperature that is 1 / alpha but for rounding as 1 / alpha.
        kernel = self.kernel_settings(())
        temperature = self.temperature
        if temperature is None or kernel.inv_temperature == kernel.alpha:
            temperature = 1 / self.alpha
        if not self._shares[2]:
            temperature = self.proposal_temperature
        fields = self._record_fields(self.alpha, temperature, self.kernel)
        if self.move is not None:
            fields["move"] = self.move
            fields["proposal_temperature"] = self.proposal_temperature
        if self.mixture is not None:
            fields["mixture"] = list(self.mixture)
        return fields

    def describe_law(self) -> str:
        steps = f"{self.num_mcmc_steps} moves per stage"
        if self.kernel == "karan2026":
            return f"kernel=karan2026, the published code's rule: not pi^alpha ({steps})"
        if self.move is not None:
            steps += f", {self.move} moves of a proposal model"
        target = f"pi^{self.alpha:g}{self._among()}"
        if self.block_size >= self.max_new_tokens:
            return f"{target}; one stage: exact as moves grow ({steps})"
        if self.stop == "horizon":
            return f"{target}; stop=horizon: exact as moves grow ({steps})"
        return f"stop=eos, the published schedule: not {target}, even in the limit ({steps})"

    def forward_tokens(self, length: float) -> float:
        """The mean number of tokens that a chain feeds to the base, drawn or scored.

        A restart draws a whole completion; otherwise see `_WithMoves`.
        """
        length, restarts = min(length, self.max_new_tokens), self._shares[0]
        whole = length * (1 + self.most_moves)
        return restarts * whole + (1 - restarts) * super().forward_tokens(length)

    def proposal_forward_tokens(self, length: float) -> float:
        return 0.0 if self.move is None else self.forward_tokens(length)

    @property
    def steps_together(self) -> bool:
        return self.move in ("suffix", "mixture") or (
            self.move is not None and self.top_k is not None
        )

    @property
    def slots_per_chain(self) -> int:
        return self.num_mcmc_steps + 1 if self.move == "restart" else 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class PowerInf(_WithMoves):
    """Power(inf): a move is accepted iff log pi of the whole completion strictly rises.

    Attributes:
      temperature: of the proposal.
    """

    name: ClassVar[str] = "power_inf"

    temperature: float = 0.25

    def __post_init__(self) -> None:
        self._set("temperature", inputs.positive(self.temperature))
        super().__post_init__()

    def kernel_settings(self, stop_ids: tuple[int, ...]) -> mh.Settings:
        return self._kernel_settings(1 / self.temperature, self.temperature, "power_inf", stop_ids)

    def record_fields(self) -> dict[str, Any]:
        return self._record_fields("inf", self.temperature, "power_inf")  # JSON has no infinity

    def describe_law(self) -> str:
        return f"none, an ascent of the likelihood ({self.num_mcmc_steps} moves per stage)"
