r"""Trains the model `tiny`, which comes with the project, from random weights.

    python -m experiments.pretrain_tiny --out=runs/tiny
    python -m experiments.pretrain_tiny --out=runs/tiny --card

The first command makes a corpus of word problems, trains a tokenizer and the model on it, and
writes both as a Hugging Face folder of less than 2 MB, with a model card. It takes five to ten
minutes on two cores; the loss falls from 6 to 0.88 at step 200 and 0.27 at the end. The second
command measures the folder's model with the samplers and adds the figures to its model card. The
same flags give the same weights.
"""

import dataclasses
import functools
import json
import pathlib
import random
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tokenizers
from absl import flags

from experiments import flags as shared
from powerjax import cli, records
from powerjax.models import checkpoint
from powerjax.models.config import ModelConfig, RopeConfig
from powerjax.models.decoder import CausalLM
from powerjax.records.progress import progress_bar
from powerjax.report import model_card
from powerjax.tasks import arithmetic

_OUT = flags.DEFINE_string("out", None, "The folder that the model is written to.", required=True)
_CARD = flags.DEFINE_bool(
    "card",
    False,
    "Do not train. Measure the model in --out and write the figures to its model card, README.md.",
)
_PROBLEMS = flags.DEFINE_integer(
    "problems", 200, "How many held-out problems --card measures the model on.", lower_bound=1
)
_SEED = shared.define_seed(
    "all random numbers: the corpus, the initial weights and the order of the examples"
)
_STEPS = flags.DEFINE_integer("steps", 2000, "How many optimizer steps to train.", lower_bound=1)
_BATCH = flags.DEFINE_integer(
    "batch", 64, "How many examples an optimizer step learns from.", lower_bound=1
)
_EXAMPLES = flags.DEFINE_integer(
    "examples", 128_000, "How many examples the corpus has.", lower_bound=1
)
_LEARNING_RATE = flags.DEFINE_float(
    "learning_rate", 3e-3, "The highest learning rate, reached after the warm-up.", lower_bound=0.0
)
_HIDDEN_SIZE = flags.DEFINE_integer(
    "hidden_size",
    128,
    "The model's width: how many numbers represent a token between layers. A multiple of 8.",
)
_NUM_LAYERS = flags.DEFINE_integer(
    "num_layers", 3, "The number of layers of the model.", lower_bound=1
)
_RECIPE = (_SEED, _STEPS, _BATCH, _EXAMPLES, _LEARNING_RATE, _HIDDEN_SIZE, _NUM_LAYERS)

EOS = "<|endoftext|>"
BOX = r" \boxed{"
VOCAB_SIZE = 384
QWEN2_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PROMPT_WEIGHT = 0.1  # the loss weight of prompt tokens; a completion's tokens have weight 1
WARMUP_STEPS = 100
# Standard deviation of the weights that training starts from. The config's own scale is that of the
# random weights which are measured (RandW).
INITIAL_SCALE = 0.09


@dataclasses.dataclass(frozen=True)
class Batch:
    """Examples of about one length.

    The weights of an average batch sum to 1, but not those of each batch. Terse examples fill the
    narrow batches: if each batch were a mean over its own tokens, theirs would count for more, and
    the model would prefer the terse style.

    Attributes:
      tokens: int32[B,T], right-padded.
      weights: float32[B,T], the loss weight of each token as a target.
    """

    tokens: np.ndarray
    weights: np.ndarray


def corpus(num_examples: int, seed: int) -> list[tuple[str, str]]:
    """Returns (prompt, completion) pairs of the training split."""
    rng = random.Random(f"pretrain_tiny/{seed}")
    problems = arithmetic.problems("train", num_examples, seed)
    return [(problem.prompt, arithmetic.completion(problem, rng)) for problem in problems]


def train_tokenizer(texts: list[str]) -> tokenizers.Tokenizer:
    r"""Returns a byte-level BPE like Qwen2's, with single digits and ` \boxed{` as one added token.

    A worked completion begins with a lone space and a terse one with ` \boxed{`. So one token
    decides the style, and temperature sharpens the choice by that one token's probability.
    """
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    # The normalizer and pre-tokenizer are Qwen2's own, because AutoTokenizer of transformers 5 puts
    # these into the tokenizer of any qwen2 folder.
    tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(QWEN2_PIECES), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - 1,
        special_tokens=[EOS],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text.replace(BOX, " ") for text in texts), trainer)
    tokenizer.add_tokens([tokenizers.AddedToken(BOX, normalized=False)])
    return tokenizer


def batches(
    examples: list[tuple[str, str]], tokenizer: tokenizers.Tokenizer, batch_size: int, seed: int
) -> Iterator[Batch]:
    """Yields batches without end, in shuffled order; the examples of one have one of two widths."""
    prompts = tokenizer.encode_batch([prompt for prompt, _ in examples])
    completions = tokenizer.encode_batch([completion for _, completion in examples])
    pairs = [(p.ids, c.ids) for p, c in zip(prompts, completions, strict=True)]
    lengths = np.array([len(p) + len(c) + 1 for p, c in pairs])
    # The narrow width fits six in ten examples: with two widths, this wastes about the least.
    widths = np.array(sorted({int(np.quantile(lengths, 0.6)), int(lengths.max())}))
    bucket = np.searchsorted(widths, lengths)
    rng = np.random.default_rng([seed, len(pairs)])
    divisor = batch_size * np.mean([PROMPT_WEIGHT * (len(p) - 1) + len(c) + 1 for p, c in pairs])
    while True:
        order = rng.permutation(len(pairs))
        groups = []
        for index, width in enumerate(widths):
            members = order[bucket[order] == index]
            members = np.resize(members, -(-len(members) // batch_size) * batch_size)
            groups += [(group, width) for group in members.reshape(-1, batch_size)]
        for index in rng.permutation(len(groups)):
            group, width = groups[index]
            batch = _batch([pairs[i] for i in group], width)
            yield Batch(batch.tokens, batch.weights / np.float32(divisor))


def _batch(pairs: list[tuple[list[int], list[int]]], width: int) -> Batch:
    """Returns (prompt ids, completion ids) pairs as a Batch whose weights are not divided yet."""
    tokens = np.zeros((len(pairs), width), np.int32)  # EOS is id 0, and so is the padding
    weights = np.zeros((len(pairs), width), np.float32)
    for row, (prompt, completion) in enumerate(pairs):
        end = len(prompt) + len(completion)
        tokens[row, :end] = prompt + completion
        weights[row, : len(prompt)] = PROMPT_WEIGHT
        weights[row, len(prompt) : end + 1] = 1.0
    return Batch(tokens, weights)


def model_config(vocab_size: int, hidden_size: int, num_layers: int) -> ModelConfig:
    """Returns a Qwen2-style config: four query heads over two kv heads, tied embeddings.

    Raises ValueError where the width does not divide into four heads of even size.
    """
    if hidden_size < 8 or hidden_size % 8:
        raise ValueError(
            f"--hidden_size={hidden_size}: four heads of even size need a multiple of 8"
        )
    return ModelConfig(
        architecture="Qwen2ForCausalLM",
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_layers=num_layers,
        num_heads=4,
        num_kv_heads=2,
        head_dim=hidden_size // 4,
        rope=RopeConfig(theta=10_000.0),
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )


def loss_fn(params: dict, model: CausalLM, tokens: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns the sum of -log p of tokens[B,T] as targets, weighted by weights[B,T]: float32 []."""
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    positions = jnp.broadcast_to(jnp.arange(inputs.shape[1]), inputs.shape)
    hidden, _ = model.apply({"params": params}, inputs, positions)
    logits = model.apply({"params": params}, hidden, method="unembed")
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return jnp.sum(losses * weights[:, 1:])


def train(
    config: ModelConfig, data: Iterator[Batch], steps: int, learning_rate: float, seed: int
) -> tuple[dict, list[float]]:
    """Trains by AdamW from random weights; returns the parameters and the loss of every step."""
    model = CausalLM(dataclasses.replace(config, initializer_range=INITIAL_SCALE), jnp.float32)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, min(WARMUP_STEPS, steps // 2), steps, 0.02 * learning_rate
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, b1=0.9, b2=0.98, weight_decay=0.05, mask=_is_matrix),
    )
    dummy = jnp.zeros((1, 2), jnp.int32)
    params = model.init(jax.random.key(seed), dummy, jnp.arange(2)[None])["params"]
    opt_state = optimizer.init(params)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, opt_state, tokens, weights):
        loss, grads = jax.value_and_grad(loss_fn)(params, model, tokens, weights)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    losses: list[float] = []
    pending = None
    bar = progress_bar(range(steps), desc="training", unit="step")
    for _ in bar:
        batch = next(data)
        params, opt_state, loss = step(params, opt_state, batch.tokens, batch.weights)
        if pending is not None:  # the loss before this one, for which nothing has to wait
            losses.append(float(pending))
            bar.set_postfix(loss=f"{np.mean(losses[-20:]):.3f}", refresh=False)
        pending = loss
    return params, [*losses, float(pending)]


def _is_matrix(params: dict) -> dict:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def export(folder: pathlib.Path, config: ModelConfig, params: dict, tokenizer) -> None:
    """Writes the model as a Hugging Face folder, weights in float16."""
    eos = tokenizer.token_to_id(EOS)
    params = jax.device_get(params)
    checkpoint.save(folder, config, params, dtype=np.float16, stop_ids=(eos,))
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer_config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": EOS,
        "pad_token": EOS,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.max_position_embeddings,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=2) + "\n")


def main(argv: Sequence[str]) -> None:
    """Makes the model, or with --card measures it."""
    del argv
    folder = pathlib.Path(_OUT.value)
    if _CARD.value:
        model_card.write_measured(folder, _PROBLEMS.value)
        return
    if (folder / "model.safetensors").exists():
        raise ValueError(f"{folder} holds a model: choose another --out, or delete that one")
    config = model_config(VOCAB_SIZE, _HIDDEN_SIZE.value, _NUM_LAYERS.value)
    records.open_run(folder, {flag.name: flag.value for flag in _RECIPE})
    examples = corpus(_EXAMPLES.value, _SEED.value)
    tokenizer = train_tokenizer([prompt + completion for prompt, completion in examples])
    data = batches(examples, tokenizer, _BATCH.value, _SEED.value)
    params, losses = train(config, data, _STEPS.value, _LEARNING_RATE.value, _SEED.value)
    export(folder, config, params, tokenizer)
    recipe = " ".join(f"--{flag.name}={flag.value}" for flag in _RECIPE)
    model_card.write(folder, config, losses, recipe=recipe, examples=corpus(4, _SEED.value))


if __name__ == "__main__":
    cli.run(main)
