r"""The paper's two figures of self-reward as a reward: the temperature sweep, and Prop. 4 at work.

    python -m experiments.rewards --out=runs/rewards

samples problems at exponents alpha from 1 to 4, from pi^alpha and by token temperature 1/alpha, and
draws

    sweep       r* and r_self against tau = 1/alpha, for both
    synthetic   rewards that agree with self-reward to a chosen degree lambda: what power sampling
                gains of each, against its covariance with self-reward on standard completions. The
                fitted slope is held against Prop. 4's: the integral over alpha of the variance of
                the sum log-likelihood. For that chains must be near their limit, so there are many
                moves.

into --out, as PNG and PDF, with rewards.md, rewards.json and a record for each completion. On two
cores the embedded model takes about three minutes. Killed, the same command takes up where it
stopped.
"""

import dataclasses
import json
from pathlib import Path

from absl import flags

from powerjax import cli, evaluation, models, records, report, runs
from powerjax.evaluation import paper, proposition4
from powerjax.parallel import mesh
from powerjax.report import reward_figures
from powerjax.runs import Row
from powerjax.tasks import registry, sandbox

cli.define_dtype("auto")
_MODEL = flags.DEFINE_string(
    "model", "tiny", "tiny (comes with the project), a Hugging Face id, or a folder."
)
_TASK = flags.DEFINE_string(
    "task", "arithmetic", f"{', '.join(registry.NAMES)}, or a JSONL file with answers."
)
_REVISION = flags.DEFINE_string("revision", None, "Branch, tag or commit of a Hugging Face id.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "A folder that holds the task's published files; else the hub is asked."
)
_LIMIT = flags.DEFINE_integer(
    "limit", 100, "Only the first so many problems; 0: all.", lower_bound=0
)
_OUT = flags.DEFINE_string("out", "runs/rewards", "The run folder.")
_NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", 8, "Completions a problem, for variances within problems.", lower_bound=2
)
_SEED = flags.DEFINE_integer("seed", 0, "Of every draw.")
_ALPHA = flags.DEFINE_float("alpha", paper.ALPHA, "The largest exponent.", lower_bound=1.01)
_NUM_ALPHAS = flags.DEFINE_integer(
    "num_alphas", 7, "Exponents from 1 to it; odd, for Simpson's rule.", lower_bound=3
)
_NUM_MCMC_STEPS = flags.DEFINE_integer("num_mcmc_steps", 100, "Moves a stage.", lower_bound=1)
_MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", None, "The longest completion; 3072, for arithmetic 64.", lower_bound=1
)
_BLOCK_SIZE = flags.DEFINE_integer(
    "block_size", None, "Tokens a stage adds; 192, for arithmetic 64.", lower_bound=1
)
_STOP = flags.DEFINE_enum("stop", "eos", ["eos", "horizon"], "As for experiments.sample.")
_CHAT_TEMPLATE = flags.DEFINE_enum(
    "chat_template", "auto", ["auto", "on", "off"], "As for experiments.sample."
)
_UNSAFE_EXEC = flags.DEFINE_bool(
    "unsafe_exec", False, "Run model-written programs without bubblewrap, under rlimits only."
)
_NUM_SLOTS = flags.DEFINE_integer(
    "num_slots", None, "Chains at a time; by free device memory if not given.", lower_bound=1
)
_PROGRESS = flags.DEFINE_bool("progress", True, "Show progress bars.")

_OF_THE_RUN = (
    *(_MODEL, _TASK, _REVISION, _LIMIT, _NUM_SAMPLES, _SEED, _ALPHA, _NUM_ALPHAS),
    *(_NUM_MCMC_STEPS, _MAX_NEW_TOKENS, _BLOCK_SIZE, _STOP, _CHAT_TEMPLATE),
)
POWER, TEMPERATURE = "Power sampling", "Token temperature"

flags.adopt_module_key_flags(cli)


def main(_) -> None:
    task = registry.get(_TASK.value)
    if not task.quick:
        sandbox.require(_UNSAFE_EXEC.value)
    problems = task.load_for(_MODEL.value, data_dir=_DATA_DIR.value, limit=_LIMIT.value or None)
    rows = make_rows(task)
    made_with = {flag.name: flag.value for flag in _OF_THE_RUN} | {"dtype": cli.dtype()}
    folder = records.open_run(_OUT.value, made_with)
    lm = models.load(
        _MODEL.value, dtype=cli.dtype(), mesh=mesh.local_mesh(), revision=_REVISION.value
    )
    problems = runs.asked(lm, task, problems, _CHAT_TEMPLATE.value)
    runs.note_prompts(folder, lm, [task], _CHAT_TEMPLATE.value)
    print(f"{lm}\n{len(problems)} problems x {_NUM_SAMPLES.value} completions\n")
    results = {}
    for key, row in rows.items():
        results[key], _ = runs.measure(
            lm,
            problems,
            row,
            folder,
            task=task,
            unsafe_exec=_UNSAFE_EXEC.value,
            progress=_PROGRESS.value,
        )
        s = results[key].summary
        accuracy, reward = report.spread(s.accuracy), report.spread(s.self_reward)
        print(f"{row.name:26} r* {accuracy:16} r_self {reward}", flush=True)
    text = write(folder, task.name, rows, results)
    print(f"\n{text}\n{folder / 'rewards.md'}")


def make_rows(task) -> dict[tuple[str, float], Row]:
    """(series, alpha) -> row; at alpha = 1 both series are standard sampling."""
    longest = _MAX_NEW_TOKENS.value or task.max_new_tokens
    plain = {"max_new_tokens": longest, "seed": _SEED.value, "num_samples": _NUM_SAMPLES.value}
    plain["num_slots"] = _NUM_SLOTS.value
    chain = {
        **plain,
        "block_size": _BLOCK_SIZE.value or task.block_size,
        "num_mcmc_steps": _NUM_MCMC_STEPS.value,
        "stop": _STOP.value,
    }
    rows = {(POWER, 1.0): Row("Base", "Standard", "standard", plain)}
    for alpha in map(float, proposition4.alphas(_ALPHA.value, _NUM_ALPHAS.value)[1:]):
        settings = {**chain, "alpha": alpha}
        rows[POWER, alpha] = Row("Base", f"Power, alpha {alpha:.3f}", "power", settings)
        settings = {**plain, "temperature": 1 / alpha}
        name = f"Temperature, tau {1 / alpha:.3f}"
        rows[TEMPERATURE, alpha] = Row("Base", name, "temperature", settings)
    return rows


def write(folder: Path, task: str, rows: dict, results: dict[tuple[str, float], evaluation.Result]):
    """The figures, rewards.json and rewards.md; returns the text of the last."""
    standard = results[POWER, 1.0]
    series = {
        name: {1.0: standard.summary}
        | {alpha: r.summary for (kind, alpha), r in results.items() if kind == name}
        for name in (POWER, TEMPERATURE)
    }
    where = f"{_MODEL.value} on {task}"
    figure = reward_figures.sweep(series, f"Sharpening by power and by temperature: {where}")
    _save(figure, folder, "sweep")
    found = proposition4.synthetic(
        {
            alpha: proposition4.samples(result.records)
            for (kind, alpha), result in results.items()
            if kind == POWER
        }
    )
    figure = reward_figures.gain_against_covariance(found, f"What power sampling adds: {where}")
    _save(figure, folder, "synthetic")
    table = [["sampler", "tau", "r*", "r_self", "accepted"]]
    for (kind, alpha), result in results.items():
        s = result.summary
        accepted = "-" if s.acceptance_rate is None else f"{s.acceptance_rate:.3f}"
        table.append(
            [
                "Standard" if alpha == 1 else kind,
                f"{1 / alpha:.3f}",
                f"{report.spread(s.accuracy)} {report.interval(s.accuracy)}",
                f"{report.spread(s.self_reward)} {report.interval(s.self_reward)}",
                accepted,
            ]
        )
    last = max(rows, key=lambda key: (key[0] == POWER, key[1]))
    text = REPORT.format(
        where=where,
        num_problems=standard.summary.num_problems,
        num_samples=standard.summary.num_passes,
        table=report.markdown(table),
        law=report.law("power", {"kernel": "exact", **rows[last].settings}),
        slope=_said(found.slope),
        predicted=_said(found.predicted),
        difference=_said(found.difference),
        verdict="lies in" if found.agrees else "lies OUTSIDE",
        alpha=f"{_ALPHA.value:g}",
        rise=_said(found.rise[-1]),
        rise_predicted=_said(found.rise_predicted[-1]),
    )
    numbers = {
        name: value.tolist() if hasattr(value, "tolist") else value
        for name, value in dataclasses.asdict(found).items()
    }
    (folder / "rewards.json").write_text(json.dumps(numbers | {"agrees": found.agrees}, indent=1))
    (folder / "rewards.md").write_text(text, encoding="utf-8")
    return text


def _save(figure, folder: Path, name: str) -> None:
    for kind in ("png", "pdf"):
        figure.savefig(folder / f"{name}.{kind}")


def _said(interval: proposition4.Interval) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


REPORT = """# Self-reward as a reward: {where}

{num_problems} problems x {num_samples} completions. Brackets: 95 % bootstrap intervals over
problems. Power rows: {law}.

## r* and r_self against tau = 1/alpha

{table}

![sweep](sweep.png)

## Synthetic rewards and Prop. 4

r_lambda = lambda z_self + sqrt(1 - lambda^2) z_h + noise of standard deviation 0.5: z-scores of the
sum log-likelihood and of a hash of the text, over standard and power completions (alpha {alpha}).

- slope of gain against covariance, fitted: {slope}
- the same by Prop. 4, the integral of the variance over alpha by the variance at 1: {predicted}
- difference: {difference}; the prediction {verdict} the fitted slope's interval
- mean sum log-likelihood, alpha {alpha} minus standard: {rise}; by the integral: {rise_predicted}

Covariances and variances are within problems, of the *sum* log-likelihood. That the points lie on a
line proves little: gain and covariance are both near-linear in lambda by construction. The slope is
the test, and it holds only as far as chains have reached pi^alpha: too few moves gain too little.

![synthetic](synthetic.png)
"""


if __name__ == "__main__":
    cli.run(main)
