"""The flags that several launchers have: one definition and one help text for each.

A launcher calls a function of this module for each flag that it wants, and then owns the flag as if
it had called absl itself: `--help` lists the flag under the launcher. Importing this module defines
no flag. The definitions are not in `powerjax.cli`, because their texts speak about launchers.

absl prints every default except None. Where the default is None, the help text says what is used.
"""

from typing import Any

from absl import flags

from powerjax.evaluation import paper
from powerjax.tasks import registry

Holder = flags.FlagHolder

flags.disclaim_key_flags()  # a flag belongs to the launcher that calls the function below

TASK_NAMES = ", ".join(registry.NAMES)
_LARGEST_KEY = 2**32 - 1  # the largest seed of a JAX key
CHAT_NAME = (  # what `tasks.base.chat_word` looks for
    "its name (the last part of its id or path) has instruct, chat or it as a whole word, such as"
    " Qwen2.5-7B-Instruct or gemma-2b-it (the word `it` counts only after another word)"
)


# --- the model ---


def define_model() -> Holder[str]:
    """Defines --model, the embedded model by default."""
    return flags.DEFINE_string(
        "model",
        "tiny",
        "The model: tiny (the one that comes with the project), a Hugging Face id, a folder in"
        " Hugging Face's format, or a GGUF file (model.gguf).",
    )


def define_revision() -> Holder[str | None]:
    """Defines --revision."""
    return flags.DEFINE_string(
        "revision",
        None,
        "The branch, tag or commit to load where --model is a Hugging Face id. Default: its main"
        " branch.",
    )


def define_random_weights() -> Holder[bool]:
    """Defines --random_weights."""
    return flags.DEFINE_bool(
        "random_weights",
        False,
        "Give the model random weights: its architecture without what it has learnt, which the"
        " paper calls RandW.",
    )


def define_adapter(use: str) -> Holder[str | None]:
    """Defines --adapter.

    use: a sentence on what is done with the adapter.
    """
    return flags.DEFINE_string(
        "adapter",
        None,
        "A folder with a LoRA adapter in PEFT's format, such as experiments.distill writes."
        f" {use} Default: no adapter.",
    )


def define_model_axis(note: str = "") -> Holder[int]:
    """Defines --model_axis.

    note: a further sentence, with a space before it.
    """
    return flags.DEFINE_integer(
        "model_axis",
        1,
        "How many devices share one copy of the model: the weights of each layer are split over"
        f" them.{note}",
        lower_bound=1,
    )


def define_data_axis(use: str) -> Holder[int | None]:
    """Defines --data_axis.

    use: a sentence on what the copies of the model do.
    """
    return flags.DEFINE_integer(
        "data_axis",
        None,
        "How many copies of the model there are, over all processes. A copy takes --model_axis"
        f" devices. {use} Default: the number of devices divided by --model_axis.",
        lower_bound=1,
    )


# --- the problems ---


def define_task(rows: str) -> Holder[str]:
    """Defines --task, by default the word problems of the embedded model.

    rows: what a row (a line) of a user's own JSONL file holds.
    """
    return flags.DEFINE_string(
        "task",
        "arithmetic",
        f"The problems: {TASK_NAMES}, or the path of a JSONL file whose rows hold {rows}.",
    )


def define_setup(default: str, names: list[str]) -> Holder[str]:
    """Defines --task for the paper's pairs of a test set and a training set.

    names: the keys of `runs.setups.SETUPS`.
    """
    return flags.DEFINE_enum(
        "task",
        default,
        names,
        "The test problems, which the models answer, and the training problems, from which the"
        " student learns. math: test on MATH500, train on 500 of MATH's other problems. code: test"
        " on HumanEval, train on MBPP. gpqa: test on GPQA-Diamond, train on the other questions of"
        " GPQA's main set. arithmetic: test and train on two separate sets of word problems that"
        " are made for the model tiny.",
    )


def define_data_dir() -> Holder[str | None]:
    """Defines --data_dir."""
    return flags.DEFINE_string(
        "data_dir",
        None,
        "The folder that holds the task's files as they were published. Default: they are"
        " downloaded from the Hugging Face Hub.",
    )


def define_limit(text: str, default: int | None = None, *, lower_bound: int = 1) -> Holder[Any]:
    """Defines --limit.

    text: the whole help text.
    """
    return flags.DEFINE_integer("limit", default, text, lower_bound=lower_bound)


def define_chat_template(
    what: str = "Whether each problem is put into the model's chat template",
) -> Holder[str]:
    """Defines --chat_template.

    what: the question that on and off answer, without a full stop.
    """
    return flags.DEFINE_enum(
        "chat_template",
        "auto",
        ["auto", "on", "off"],
        f"{what}. on: always. off: never. auto, as in the paper: if the model has a template and"
        f" {CHAT_NAME}; but never for code tasks and GPQA.",
    )


def define_unsafe_exec() -> Holder[bool]:
    """Defines --unsafe_exec."""
    return flags.DEFINE_bool(
        "unsafe_exec",
        False,
        "Run the programs that the model wrote outside the bubblewrap sandbox. Then only limits on"
        " their time and memory protect this machine, so use it for programs that you trust.",
    )


# --- what is drawn ---


def define_num_samples(default: int, why: str = "", *, lower_bound: int = 1) -> Holder[int]:
    """Defines --num_samples.

    why: a further sentence, with a space before it.
    """
    return flags.DEFINE_integer(
        "num_samples",
        default,
        f"How many completions of each problem are drawn.{why}",
        lower_bound=lower_bound,
    )


def define_seed(of: str = "all random draws", *, makes_a_key: bool = False) -> Holder[int]:
    """Defines --seed.

    Args:
      of: what the seed decides, as the end of "The seed of ...".
      makes_a_key: whether a student is trained with the seed. Its initial adapter comes from a JAX
        key, for which the seed has to be between 0 and 2**32 - 1.
    """
    bounds = {"lower_bound": 0, "upper_bound": _LARGEST_KEY} if makes_a_key else {}
    return flags.DEFINE_integer("seed", 0, f"The seed of {of}.", **bounds)


def define_max_new_tokens(note: str = "") -> Holder[int | None]:
    """Defines --max_new_tokens.

    note: a further sentence on defaults, with a space before it.
    """
    return flags.DEFINE_integer(
        "max_new_tokens",
        None,
        "The length in tokens at which a completion is cut off. Default: 3072, or 64 for the"
        f" arithmetic task.{note}",
        lower_bound=1,
    )


def define_alpha(
    text: str = "The exponent alpha of pi^alpha, the distribution that power sampling draws from;"
    " pi is the model's own distribution of completions.",
    *,
    lower_bound: float = 1.0,
) -> Holder[Any]:
    """Defines --alpha, the paper's by default."""
    return flags.DEFINE_float("alpha", paper.ALPHA, text, lower_bound=lower_bound)


def define_num_mcmc_steps(
    default: int | None, note: str = "", *, lower_bound: int = 1
) -> Holder[Any]:
    """Defines --num_mcmc_steps.

    note: a further sentence, with a space before it.
    """
    return flags.DEFINE_integer(
        "num_mcmc_steps",
        default,
        "How many Metropolis-Hastings (MH) moves power sampling makes in each stage. A stage first"
        " adds a block of tokens to the completion. A move then draws the completion's end anew,"
        f" from a random position on, and accepts or rejects the new end.{note}",
        lower_bound=lower_bound,
    )


def define_block_size(note: str = "") -> Holder[int | None]:
    """Defines --block_size.

    note: a further sentence on defaults, with a space before it.
    """
    return flags.DEFINE_integer(
        "block_size",
        None,
        "The length of a stage in tokens. Power sampling draws a completion in stages; each adds at"
        " most this many tokens and then makes --num_mcmc_steps moves. With --max_new_tokens or"
        " more there is one stage, and --stop makes no difference. Default: 192, or 64 for the"
        f" arithmetic task.{note}",
        lower_bound=1,
    )


def define_stop() -> Holder[str]:
    """Defines --stop."""
    return flags.DEFINE_enum(
        "stop",
        "eos",
        ["eos", "horizon"],
        "When power sampling ends a completion. eos, as published: after the first stage (see"
        " --block_size) that leaves an EOS token, the end of a sequence, as the last token. This"
        " costs less, but with several stages the samples do not come from pi^alpha, however many"
        " moves are made. horizon: after the stage that reaches --max_new_tokens. More moves then"
        " bring the samples ever closer to pi^alpha.",
    )


# --- how the work is done ---


def define_num_slots() -> Holder[int | None]:
    """Defines --num_slots."""
    return flags.DEFINE_integer(
        "num_slots",
        None,
        "How many completions each process works on at the same time. Default: as many as its"
        " devices' free memory holds, but no more than there are to draw, and at most 256 per copy"
        " of the model (64 on a CPU). A device that does not report its free memory gets 8.",
        lower_bound=1,
    )


def define_max_length() -> Holder[int]:
    """Defines --max_length."""
    return flags.DEFINE_integer(
        "max_length",
        1024,
        "The largest length of a training example, prompt and completion together, in tokens."
        " Longer examples are cut to it.",
        lower_bound=2,
    )


def define_epochs() -> Holder[int]:
    """Defines --epochs."""
    return flags.DEFINE_integer(
        "epochs", 3, "How many times the student's training goes through all its examples.", 1
    )


def define_out(
    default: str | None, what: str = "The folder of the run", note: str = ""
) -> Holder[Any]:
    """Defines --out.

    what: the subject of the text. note: a further sentence, with a space before it.
    """
    text = f"{what}, which is made if it does not exist.{note}"
    return flags.DEFINE_string("out", default, text)


def define_progress() -> Holder[bool]:
    """Defines --progress."""
    return flags.DEFINE_bool("progress", True, "Show progress bars.")


def define_processes(
    note: str = "",
) -> tuple[Holder[str | None], Holder[int | None], Holder[int | None]]:
    """Defines --coordinator, --num_processes and --process_id of a run on several hosts.

    note: a further sentence on how the three belong together, with a space before it.
    """
    where = "Default: what Slurm, Open MPI, a TPU pod or Kubernetes says; elsewhere"
    return (
        flags.DEFINE_string(
            "coordinator",
            None,
            "HOST:PORT, the address at which the other processes reach process 0. It needs"
            f" --num_processes and --process_id.{note} {where} the run has one process.",
        ),
        flags.DEFINE_integer("num_processes", None, f"How many processes the run has. {where} 1."),
        flags.DEFINE_integer(
            "process_id",
            None,
            f"The number of this process, from 0 to --num_processes - 1. {where} 0.",
        ),
    )
