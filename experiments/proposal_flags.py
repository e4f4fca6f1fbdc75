"""The flags of a proposal model: what they are, which go together, and the model that they name.

As in `experiments.flags`, the launcher that calls `define` owns the flags.
"""

from typing import Any, NamedTuple

from absl import flags

from experiments.flags import Holder
from powerjax import models
from powerjax.sample import proposals, spec

flags.disclaim_key_flags()


class ProposalFlags(NamedTuple):
    """The flags of one launcher."""

    adapter: Holder[str | None]
    model: Holder[str | None]
    move: Holder[str | None]
    temperature: Holder[float]
    mixture: Holder[list[str] | None]

    @property
    def of_sampler(self) -> tuple[Holder[Any], ...]:
        """Those that are settings of a sampler."""
        return self.move, self.temperature, self.mixture

    @property
    def is_given(self) -> bool:
        """Whether there is a proposal model."""
        return self.model.value is not None or self.adapter.value is not None

    def check(self, sampler: str, *, merges: bool) -> None:
        """Raises ValueError where the flags do not go with each other or with the sampler.

        merges: whether --merge_adapter was given.
        """
        if not self.is_given:
            for flag in self.of_sampler:
                if flag.present:
                    raise ValueError(
                        f"--{flag.name} needs a proposal model: give --proposal_adapter or"
                        " --proposal_model"
                    )
            return
        if sampler != "power":
            raise ValueError(
                f"--sampler={sampler} takes no proposal model: leave out --proposal_adapter and"
                " --proposal_model, or take --sampler=power"
            )
        if merges:
            raise ValueError(
                "--merge_adapter changes the weights, which a proposal model may share: leave it"
                " out"
            )
        if self.mixture.present and self.move.value != "mixture":
            raise ValueError(
                "--mixture is for --move=mixture: give that too, or leave out --mixture"
            )

    def completed(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Returns power sampling's settings with the defaults of a run with a proposal model.

        settings: a block_size and a num_mcmc_steps of None take these defaults.

        Raises ValueError for settings that are out of range or do not go together.
        """
        settings = settings | {"move": self.move.value or "restart"}
        if self.mixture.value is not None:
            try:
                settings["mixture"] = [float(share) for share in self.mixture.value]
            except ValueError:
                shares = ",".join(self.mixture.value)
                raise ValueError(
                    f"--mixture={shares}: give three numbers, such as .4,.3,.3"
                ) from None
        power = spec.of("power", settings)
        assert isinstance(power, spec.Power)
        settings |= {name: getattr(power, name) for name in ("block_size", "num_mcmc_steps")}
        return settings | {"mixture": power.mixture and list(power.mixture)}

    def load(self, lm: models.LM, revision: str | None) -> models.LM:
        """Loads the proposal model for `lm`, over the same weights where it has the same."""
        return proposals.load(lm, self.model.value, self.adapter.value, revision=revision)


def define() -> ProposalFlags:
    """Defines --proposal_adapter, --proposal_model, --move, --proposal_temperature, --mixture."""
    adapter = flags.DEFINE_string(
        "proposal_adapter",
        None,
        "A folder with a LoRA adapter of --model, such as the student that experiments.distill"
        " trains. The model with this adapter is the proposal model: with --sampler=power it draws"
        " the moves. The samples come from pi^alpha of --model as before, with fewer moves if the"
        " adapter was trained on such samples. Both models use one copy of the weights. With"
        " --proposal_model, the adapter is one of that model. Default: no adapter.",
    )
    model = flags.DEFINE_string(
        "proposal_model",
        None,
        "A model of its own as the proposal model (see --proposal_adapter), named as --model is. It"
        " must have the tokenizer of --model. --dtype, --revision and --model_axis apply to it too."
        " Default: --model, if there is a --proposal_adapter.",
    )
    move = flags.DEFINE_enum(
        "move",
        None,
        ["restart", "suffix", "mixture"],
        "What the proposal model draws in an MH move. restart: a whole completion; all completions"
        " of a chain are drawn at once, and --model scores them. suffix: the completion's end, from"
        " a random position on; the two models decode side by side. mixture: each move is one of"
        " three kinds, by the shares of --mixture. Default: restart, with a proposal model.",
    )
    temperature = flags.DEFINE_float(
        "proposal_temperature",
        1.0,
        "The temperature at which the proposal model draws. It changes how fast chains mix, and not"
        " what they tend to.",
    )
    flags.register_validator(temperature, lambda value: value > 0, message="must be above 0")
    mixture = flags.DEFINE_list(
        "mixture",
        None,
        "With --move=mixture: the shares, among the moves, of the proposal model's whole"
        " completions, of the ends that the proposal model draws, and of the ends that --model"
        " draws at --temperature. Three numbers that sum to 1. With a share of the last kind, a"
        " proposal model that is far from pi^alpha slows the chains but cannot hold them. Default:"
        " .4,.3,.3.",
    )
    return ProposalFlags(adapter, model, move, temperature, mixture)
