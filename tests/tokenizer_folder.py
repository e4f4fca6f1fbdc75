"""A small tokenizer of single characters, for tests of special tokens and chat templates."""

import json
import string
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

BOS, EOS = "<s>", "</s>"
CHARACTERS = string.printable[:95]
VOCABULARY = [BOS, EOS, *CHARACTERS]  # 97 tokens, as many as the model of the fixture tiny_qwen


def write(folder: Path, *, chat_template=None, adds_bos: bool = True) -> Path:
    """Writes the tokenizer's files into `folder`, and returns it.

    chat_template: the entry of that name in tokenizer_config.json, a text or a list of named texts;
      None leaves the entry out.
    adds_bos: whether encoding puts BOS before a text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ids = {token: i for i, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([BOS, EOS])
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, ids[BOS])]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": BOS, "eos_token": EOS, "clean_up_tokenization_spaces": False}
    if chat_template is not None:
        config["chat_template"] = chat_template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
