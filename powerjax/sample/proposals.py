"""Loading a proposal model, which models can propose for which, and what records say of it."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from powerjax.models import language_model
from powerjax.models.language_model import LM
from powerjax.records import identity


def load(
    lm: LM, model: str | None = None, adapter: str | None = None, *, revision: str | None = None
) -> LM:
    """Loads a proposal model for `lm`, in its dtype and on its devices.

    Where the proposal model is `lm`'s own, with or without an adapter, both are one copy of the
    weights. An adapter that `lm` has is not the proposal model's.

    Args:
      lm: the base, as `models.load` returns it.
      model: a name or folder as for `models.load`; None: `lm`'s.
      adapter: the folder of a LoRA adapter of that model; None: no adapter.
      revision: branch, tag or commit, where the model is a Hugging Face id.

    Raises FileNotFoundError or ValueError, in one line, as `models.load`.
    """
    is_random = lm.weights is not None
    if model is None or (model == lm.name and not is_random and lm.origin is None):
        if adapter is not None:
            return language_model.adapted(lm, adapter, revision=revision)
        return dataclasses.replace(lm, adapter=None, adapter_name=None)
    return language_model.load(
        model, dtype=lm.dtype.name, mesh=lm.mesh, adapter=adapter, revision=revision
    )


def over_one_vocabulary(lm: LM, proposal: LM) -> tuple[LM, LM]:
    """Returns both models over the same token ids.

    Models of one tokenizer may have vocabularies that are padded to different sizes, as Qwen2.5's
    151,936 and 152,064. Both are then restricted to the tokenizer's own ids.

    Raises ValueError where the two have different tokenizers.
    """
    size = _common_size(lm, proposal)
    if size is None:
        return lm, proposal
    return lm.with_vocabulary(size), proposal.with_vocabulary(size)


def _common_size(lm: LM, proposal: LM) -> int | None:
    """The number of ids that both models are restricted to; None where they need not be."""
    names = f"{proposal.name or 'the proposal model'} cannot propose for {lm.name or 'the model'}"
    sizes = lm.config.vocab_size, proposal.config.vocab_size
    if lm.tokenizer is None or proposal.tokenizer is None:
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"{names}: their vocabularies have {sizes[1]} and {sizes[0]} tokens, and a model"
                " without a tokenizer cannot say which are the same"
            )
        return None
    if lm.tokenizer is proposal.tokenizer and sizes[0] == sizes[1]:
        return None
    ids = lm.tokenizer.get_vocab()
    if ids != proposal.tokenizer.get_vocab():
        raise ValueError(f"{names}: their tokenizers differ, and one text would have two meanings")
    size = max(ids.values()) + 1
    if size > min(sizes):
        raise ValueError(
            f"{names}: their tokenizer has {size} ids, and the smaller vocabulary {min(sizes)}"
        )
    return None if sizes[0] == sizes[1] else size


def stated(lm: LM, proposal: LM) -> dict[str, Any]:
    """What a record states of the models' part in it.

    proposal: the name of the proposal model.
    proposal_hash: names its weights, its adapter's and their dtype.
    vocab_size: the ids that both models are restricted to; absent where they are not.
    """
    name = proposal.name
    if Path(name).is_dir():  # a run's folder may be moved, and its records keep their law
        name = Path(name).resolve().name
    if proposal.adapter_name:
        name = f"{name}+{identity.adapter_label(proposal.adapter_name)}"
    weights = {k: v for k, v in proposal.identity.items() if k != "adapter"}
    text = json.dumps(weights, sort_keys=True)
    fields = {
        "proposal": name,
        "proposal_hash": hashlib.sha256(text.encode()).hexdigest()[:8],
    }
    size = _common_size(lm, proposal)
    return fields if size is None else fields | {"vocab_size": size}
