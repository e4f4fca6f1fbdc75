r"""Makes the embedded model `tiny` from nothing: corpus, tokenizer, training, export, model card.

    python -m experiments.pretrain_tiny --out=runs/tiny
    python -m experiments.pretrain_tiny --out=runs/tiny --card

The first line trains (five to ten minutes on two cores; the loss goes 6 -> 0.88 at step 200 ->
0.27 at the end) and writes a Hugging Face folder under 2 MB. The second measures the folder's model
with the samplers and rewrites its card. The same flags give the same weights.
"""

import dataclasses
import functools
import json
import math
import pathlib
import random
import textwrap
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tokenizers
from absl import flags

from powerjax import cli, evaluation, models, records, sample
from powerjax.models import checkpoint
from powerjax.models.config import ModelConfig, RopeConfig
from powerjax.models.decoder import CausalLM
from powerjax.records.progress import progress_bar
from powerjax.tasks import arithmetic

_OUT = flags.DEFINE_string("out", None, "Folder the model is written to.", required=True)
_CARD = flags.DEFINE_bool("card", False, "Only measure the model in --out and rewrite its card.")
_PROBLEMS = flags.DEFINE_integer("problems", 200, "Held-out problems of --card.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the corpus, the initial weights and the order.")
_STEPS = flags.DEFINE_integer("steps", 2000, "Optimizer steps.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 64, "Examples a step.", lower_bound=1)
_EXAMPLES = flags.DEFINE_integer("examples", 128_000, "Examples in the corpus.", lower_bound=1)
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 3e-3, "Peak learning rate.", lower_bound=0.0)
_HIDDEN_SIZE = flags.DEFINE_integer("hidden_size", 128, "Width D, a multiple of 8.")
_NUM_LAYERS = flags.DEFINE_integer("num_layers", 3, "Layers L.", lower_bound=1)
_RECIPE = (_SEED, _STEPS, _BATCH, _EXAMPLES, _LEARNING_RATE, _HIDDEN_SIZE, _NUM_LAYERS)

EOS = "<|endoftext|>"
BOX = r" \boxed{"
VOCAB_SIZE = 384
QWEN2_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PROMPT_WEIGHT = 0.1  # loss weight of prompt tokens, against 1 for those of the completion
WARMUP_STEPS = 100
INITIAL_SCALE = 0.09  # of the weights that training starts from; the config's is RandW's


MAX_NEW_TOKENS = 64  # for --card; the longest completion of the corpus has about 50
RANDW_SAMPLERS = ("standard", "temperature 0.25", "power, N 10")


CARD = """\
# tiny

The model that comes with powerjax: {count:,} parameters, Qwen2-style ({config.num_layers} layers, \
width {config.hidden_size}, {config.num_heads} query heads over {config.num_kv_heads}, \
{config.vocab_size} byte-level BPE tokens), weights in float16. It answers word problems of three \
to five steps, and shows in seconds on a CPU what power sampling does to a language model.

    lm = powerjax.models.load("tiny", dtype="float32")
    transformers.AutoModelForCausalLM.from_pretrained(folder)

## How it was made

    python -m experiments.pretrain_tiny --out=... {recipe}

from random weights, on problems of `powerjax.tasks.arithmetic` such as

{shown}
Every completion of the corpus is correct. They come in two styles: half jump to the answer, which \
the model cannot compute in one forward pass, so that it learns a diffuse law over answers; the \
others work it out in steps that are easy one by one. Both styles are honest, and only the entropy \
of what follows tells them apart: temperature sees the next token, the power distribution the \
suffix (Prop. 1 of arXiv 2605.04542). Held-out problems share no sequence of numbers with training.

The loss over the last hundred steps is {loss:.3f} (weight 1 on completions, 0.1 on prompts).

## Limits

It knows these templates and nothing else, in at most about a hundred tokens. Greedy decoding and \
very low temperatures do badly by construction: the terse style is the likelier first token. \
Measure in float32; in bfloat16 the figures differ.

"""
MEASURED = "## Measured"
MEASURED_HOW = """\
held-out problems x 4 samples, alpha 4, block 64 of at most 64 tokens (one stage, so the limit is
the power distribution itself), float32. Self-reward is the mean log-likelihood per token, Best-of-4
takes the largest; in brackets 95 % intervals over problems. N counts Metropolis-Hastings moves,
early those of a chain that were rejected before their end, forward its forward tokens.
`python -m experiments.pretrain_tiny --card --out=...` makes this table.

| model, sampler | self-reward | accuracy % | Best-of-4 % | acceptance | early | length | forward |
|---|---|---|---|---|---|---|---|
"""


@dataclasses.dataclass(frozen=True)
class Batch:
    """tokens int32[B,T], right-padded, and the loss weight of each as a target.

    An average batch's weights sum to 1. Not each batch's: terse examples fill the narrow batches,
    and a mean over each batch's own tokens would count theirs for more, and bias the style.
    """

    tokens: np.ndarray
    weights: np.ndarray


def corpus(num_examples: int, seed: int) -> list[tuple[str, str]]:
    """(prompt, completion) pairs of the training split."""
    rng = random.Random(f"pretrain_tiny/{seed}")
    problems = arithmetic.problems("train", num_examples, seed)
    return [(problem.prompt, arithmetic.completion(problem, rng)) for problem in problems]


def train_tokenizer(texts: list[str]) -> tokenizers.Tokenizer:
    r"""Byte-level BPE as Qwen2's, digits single, with ` \boxed{` as one added token.

    A worked completion opens with a lone space and a terse one with ` \boxed{`, so one token
    decides the style and temperature weighs the two styles by one probability each.
    """
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    # Qwen2's own, because AutoTokenizer of transformers 5 puts them into any qwen2 folder.
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
    """Endless batches; each holds examples of one of two widths, in shuffled order."""
    prompts = tokenizer.encode_batch([prompt for prompt, _ in examples])
    completions = tokenizer.encode_batch([completion for _, completion in examples])
    pairs = [(p.ids, c.ids) for p, c in zip(prompts, completions, strict=True)]
    lengths = np.array([len(p) + len(c) + 1 for p, c in pairs])
    # The narrow width covers six in ten examples: about where two widths waste least.
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
    tokens = np.zeros((len(pairs), width), np.int32)  # EOS is id 0 and pads too
    weights = np.zeros((len(pairs), width), np.float32)
    for row, (prompt, completion) in enumerate(pairs):
        end = len(prompt) + len(completion)
        tokens[row, :end] = prompt + completion
        weights[row, : len(prompt)] = PROMPT_WEIGHT
        weights[row, len(prompt) : end + 1] = 1.0
    return Batch(tokens, weights)


def model_config(vocab_size: int, hidden_size: int, num_layers: int) -> ModelConfig:
    """Qwen2-style: four query heads over two kv heads, tied embeddings."""
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
    """Weighted sum of -log p over the target tokens of tokens[B,T]; `weights` hold the divisor."""
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    positions = jnp.broadcast_to(jnp.arange(inputs.shape[1]), inputs.shape)
    hidden, _ = model.apply({"params": params}, inputs, positions)
    logits = model.apply({"params": params}, hidden, method="unembed")
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return jnp.sum(losses * weights[:, 1:])


def train(
    config: ModelConfig, data: Iterator[Batch], steps: int, learning_rate: float, seed: int
) -> tuple[dict, list[float]]:
    """AdamW from random weights; returns the parameters and the loss of every step."""
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
        if pending is not None:  # the previous step's loss, so that reading it blocks nothing
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


def measure(folder: pathlib.Path, num_problems: int) -> list[str]:
    """The rows of the card's table: samplers on held-out problems, base and random weights."""
    problems = arithmetic.problems("test", num_problems)
    ids = [problem.id for problem in problems]
    settings = {"num_samples": 4, "max_new_tokens": MAX_NEW_TOKENS}
    mcmc = {**settings, "block_size": MAX_NEW_TOKENS}
    samplers = {
        "standard": functools.partial(sample.standard, **settings),
        "temperature 0.25": functools.partial(sample.temperature, **settings),
        "temperature 0.01": functools.partial(sample.temperature, temperature=0.01, **settings),
        "power, N 10": functools.partial(sample.power, num_mcmc_steps=10, **mcmc),
        "power, N 30": functools.partial(sample.power, num_mcmc_steps=30, **mcmc),
        "Power(inf), N 10": functools.partial(sample.power_inf, num_mcmc_steps=10, **mcmc),
    }
    rows = []
    for name, random_weights in (("Base", False), ("RandW", True)):
        lm = models.load(str(folder), dtype="float32", random_weights=random_weights)
        for label, sampler in samplers.items():
            if random_weights and label not in RANDW_SAMPLERS:
                continue
            completions = sampler(lm, [problem.prompt for problem in problems], ids=ids)
            found = completions.to_records()
            for record, completion in zip(found, completions, strict=True):
                problem = problems[completion.prompt_index]
                correct, _ = arithmetic.grade(problem, completion.text)
                record |= {"problem_id": problem.id, "correct": correct}
            early = sum(record["num_early_rejections"] for record in found)
            rows.append(_row(f"{name}, {label}", evaluation.summarize(found), early / len(found)))
            print(rows[-1], flush=True)
    return rows


def _row(label: str, summary: evaluation.Summary, early_rejections: float) -> str:
    acceptance = summary.acceptance_rate
    cells = [
        label,
        _interval(summary.self_reward, 1, 3),
        _interval(summary.accuracy, 100, 1),
        _interval(summary.best_of_n_accuracy, 100, 1),
        "" if acceptance is None else f"{acceptance:.3f}",
        "" if acceptance is None else f"{early_rejections:.2f}",
        f"{summary.num_tokens:.1f}",
        f"{summary.forward_tokens:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _interval(estimate: evaluation.Estimate, scale: float, digits: int) -> str:
    mean, low, high = (scale * x for x in (estimate.mean, estimate.low, estimate.high))
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def write_card(folder: pathlib.Path, config: ModelConfig, losses: list[float]) -> None:
    """README.md up to the measured figures, which --card adds."""
    shown = "".join(f"{prompt}{text}\n" for prompt, text in corpus(4, _SEED.value))
    card = CARD.format(
        config=config,
        count=sum(math.prod(tensor.shape) for tensor in checkpoint.tensors(config).values()),
        recipe=" ".join(f"--{flag.name}={flag.value}" for flag in _RECIPE),
        shown=textwrap.indent(shown, "    "),
        loss=np.mean(losses[-100:]),
    )
    (folder / "README.md").write_text(card)


def write_measured(folder: pathlib.Path, rows: list[str], num_problems: int) -> None:
    """Replaces the card's measured figures."""
    path = folder / "README.md"
    head = path.read_text().partition(MEASURED)[0]
    table = "\n".join(rows)
    path.write_text(f"{head}{MEASURED}\n\n{num_problems} {MEASURED_HOW}{table}\n")


def main(argv: Sequence[str]) -> None:
    del argv
    folder = pathlib.Path(_OUT.value)
    if _CARD.value:
        write_measured(folder, measure(folder, _PROBLEMS.value), _PROBLEMS.value)
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
    write_card(folder, config, losses)


if __name__ == "__main__":
    cli.run(main)
