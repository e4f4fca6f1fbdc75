"""One definition, with one help text, of each flag that several launchers have.

A launcher owns every flag that it defines through these functions, as if it had called absl itself:
`--help` lists the flag under the launcher. Importing this module defines no flag, so a launcher has
no flag that it does not ask for. The definitions are here rather than in `powerjax.cli`, because
they speak about launchers, and would be most of that file.

Where a default is None, the help text says what is used then; absl itself prints other defaults.
"""

from typing import Any

from absl import flags

from powerjax.evaluation import paper
from powerjax.tasks import registry

Holder = flags.FlagHolder

flags.disclaim_key_flags()  # a flag belongs to the launcher that calls the function below

TASK_NAMES = ", ".join(registry.NAMES)
_LARGEST_KEY = 2**32 - 1  # the largest seed of a JAX key


# --- the model ---


def define_model() -> Holder[str]:
    """Defines --model, the embedded model by default."""
    return flags.DEFINE_string(
        "model",
        "tiny",
        "The model: tiny (the one that comes with the project), a Hugging Face id, or a folder in"
        " Hugging Face's format.",
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

    use: what the adapted model does here, as the end of a sentence.
    """
    return flags.DEFINE_string(
        "adapter",
        None,
        f"A folder with a LoRA adapter in PEFT's format, as experiments.distill writes it, {use}."
        " Default: no adapter.",
    )


def define_model_axis() -> Holder[int]:
    """Defines --model_axis."""
    return flags.DEFINE_integer(
        "model_axis",
        1,
        "How many devices of one process share each copy of the model, by splitting the weights of"
        " every layer.",
        lower_bound=1,
    )


# --- the problems ---


def define_task(rows: str) -> Holder[str]:
    """Defines --task, by default the word problems of the embedded model.

    rows: what a row of a user's own JSONL file holds.
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
        "What the models are tested on, and what the student is trained on. math: MATH500; 500 of"
        " MATH's other problems. code: HumanEval; MBPP. gpqa: GPQA-Diamond; the other questions of"
        " GPQA's main set. arithmetic: word problems for the embedded model; others like them.",
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
    """Defines --limit."""
    return flags.DEFINE_integer("limit", default, text, lower_bound=lower_bound)


def define_chat_template(what: str = "Whether the model is asked") -> Holder[str]:
    """Defines --chat_template.

    what: the subject that the text begins with.
    """
    return flags.DEFINE_enum(
        "chat_template",
        "auto",
        ["auto", "on", "off"],
        f"{what} through the model's chat template. on: always. off: never. auto: as in the paper,"
        " that is for a model that has a template and whose name (of a folder: the folder's name)"
        " contains instruct, chat or -it; and never on code tasks and GPQA.",
    )


def define_unsafe_exec() -> Holder[bool]:
    """Defines --unsafe_exec."""
    return flags.DEFINE_bool(
        "unsafe_exec",
        False,
        "Run the programs that the model wrote without the bubblewrap sandbox: only limits on their"
        " time and memory protect this machine. For programs that you trust.",
    )


# --- what is drawn ---


def define_num_samples(default: int, why: str = "", *, lower_bound: int = 1) -> Holder[int]:
    """Defines --num_samples.

    why: a further sentence, with a space before it.
    """
    return flags.DEFINE_integer(
        "num_samples",
        default,
        f"How many completions are drawn for each problem.{why}",
        lower_bound=lower_bound,
    )


def define_seed(of: str = "all random draws", *, makes_a_key: bool = False) -> Holder[int]:
    """Defines --seed.

    of: what the seed decides. makes_a_key: whether a student is trained with it, whose initial
    adapter comes from a JAX key: the seed is then at most 2**32 - 1, and not negative.
    """
    bounds = {"lower_bound": 0, "upper_bound": _LARGEST_KEY} if makes_a_key else {}
    return flags.DEFINE_integer("seed", 0, f"The seed of {of}.", **bounds)


def define_max_new_tokens(note: str = "") -> Holder[int | None]:
    """Defines --max_new_tokens.

    note: a further sentence, with a space before it.
    """
    return flags.DEFINE_integer(
        "max_new_tokens",
        None,
        "The length in tokens at which a completion is cut off. Default: 3072, and 64 for the"
        f" arithmetic task.{note}",
        lower_bound=1,
    )


def define_alpha(
    text: str = "The exponent alpha of pi^alpha, the distribution that power sampling draws from.",
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
        "How many Metropolis-Hastings (MH) moves are made in each stage. A stage lengthens the"
        " completion by a block of tokens; a move then draws the end of the completion anew, from a"
        f" random position on, and accepts or rejects the new end.{note}",
        lower_bound=lower_bound,
    )


def define_block_size() -> Holder[int | None]:
    """Defines --block_size."""
    return flags.DEFINE_integer(
        "block_size",
        None,
        "How many tokens each stage adds: power sampling lengthens the completion by up to this"
        " many tokens, makes --num_mcmc_steps moves, and so on. If it is --max_new_tokens or more,"
        " there is one stage, and --stop makes no difference. Default: 192, and 64 for the"
        " arithmetic task.",
        lower_bound=1,
    )


def define_stop() -> Holder[str]:
    """Defines --stop."""
    return flags.DEFINE_enum(
        "stop",
        "eos",
        ["eos", "horizon"],
        "When a completion is done. eos, the published schedule: at the first stage that ends with"
        " an EOS token. This is cheap, but where there are several stages, even infinitely many"
        " moves per stage do not lead to pi^alpha. horizon: after the last stage. More moves per"
        " stage then bring the samples as close to pi^alpha as you like.",
    )


# --- how the work is done ---


def define_num_slots() -> Holder[int | None]:
    """Defines --num_slots."""
    return flags.DEFINE_integer(
        "num_slots",
        None,
        "How many completions each process works on at the same time. Default: as many as fit the"
        " free memory of its devices.",
        lower_bound=1,
    )


def define_max_length() -> Holder[int]:
    """Defines --max_length."""
    return flags.DEFINE_integer(
        "max_length",
        1024,
        "The most tokens, of prompt and completion together, that the student sees of an example:"
        " longer ones are cut there.",
        lower_bound=2,
    )


def define_epochs() -> Holder[int]:
    """Defines --epochs."""
    return flags.DEFINE_integer(
        "epochs", 3, "How many times the student's training goes through its examples.", 1
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


def define_processes() -> tuple[Holder[str | None], Holder[int | None], Holder[int | None]]:
    """Defines --coordinator, --num_processes and --process_id of a run on several hosts."""
    where = "Default: found by itself on Slurm, Open MPI, TPU pods and Kubernetes, else"
    return (
        flags.DEFINE_string(
            "coordinator",
            None,
            "HOST:PORT at which process 0 of the run is reached by the others; give it together"
            f" with --num_processes and --process_id. {where} the run has one process.",
        ),
        flags.DEFINE_integer("num_processes", None, f"How many processes the run has. {where} 1."),
        flags.DEFINE_integer(
            "process_id",
            None,
            f"The number of this process among those of the run, from 0. {where} 0.",
        ),
    )
