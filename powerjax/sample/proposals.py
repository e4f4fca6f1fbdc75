"""Which models can propose for which, and what records say of a proposal model."""

import hashlib
import json
from typing import Any

from powerjax.models.language_model import LM
from powerjax.records import identity


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
