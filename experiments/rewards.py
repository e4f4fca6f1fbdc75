r"""Draws the paper's two figures on self-reward: the temperature sweep, and a test of Prop. 4.

    python -m experiments.rewards --out=runs/rewards

The program samples problems at exponents alpha from 1 to 4 in two ways: by power sampling, from
pi^alpha, and by temperature sampling, with the temperature 1/alpha. It writes two figures to --out,
as PNG and PDF:

    sweep       r* (accuracy) and r_self (self-reward) against tau = 1/alpha, for both samplers.
    synthetic   Each point is a made-up reward that agrees with self-reward to a chosen degree
                lambda. The vertical axis is how much more of it power sampling gets than standard
                sampling; the horizontal axis is its covariance with self-reward on standard
                completions. The slope fitted to the points is compared with the slope that Prop. 4
                predicts from the integral over alpha of the variance of the sum log-likelihood.
                The prediction is about pi^alpha itself, so --num_mcmc_steps is large by default.

It also writes rewards.md, rewards.json and a record of each completion. With the model tiny it
takes about three minutes on two cores. If the program is killed, the same command goes on where it
stopped.
"""

import dataclasses
import json
from pathlib import Path

from absl import flags

from experiments import chat_flags
from experiments import flags as shared
from powerjax import cli, evaluation, models, records, report, runs
from powerjax.evaluation import proposition4
from powerjax.parallel import mesh
from powerjax.records import lock
from powerjax.report import reward_figures
from powerjax.runs import Row
from powerjax.tasks import registry, sandbox

cli.define_dtype("auto")
_MODEL = shared.define_model()
_TASK = shared.define_task("a prompt and an answer")
_REVISION = shared.define_revision()
_DATA_DIR = shared.define_data_dir()
_LIMIT = shared.define_limit(
    "How many problems to sample, counted from the task's first. 0 takes all.", 100, lower_bound=0
)
_OUT = shared.define_out("runs/rewards")
_NUM_SAMPLES = shared.define_num_samples(
    8, " At least two, because variances within a problem are computed.", lower_bound=2
)
_SEED = shared.define_seed()
_ALPHA = shared.define_alpha(
    "The largest exponent alpha. Power sampling draws from pi^alpha, where pi is the model's own"
    " distribution of completions; temperature sampling has the temperature 1/alpha.",
    lower_bound=1.01,
)
_NUM_ALPHAS = flags.DEFINE_integer(
    "num_alphas",
    7,
    "How many exponents alpha are sampled, from 1 to --alpha. It must be an odd number, because the"
    " prediction of Prop. 4 is an integral over alpha, which is computed by Simpson's rule.",
    lower_bound=3,
)
_NUM_MCMC_STEPS = shared.define_num_mcmc_steps(100)
_MAX_NEW_TOKENS = shared.define_max_new_tokens()
_BLOCK_SIZE = shared.define_block_size()
_STOP = shared.define_stop()
_CHAT = chat_flags.define()
_UNSAFE_EXEC = shared.define_unsafe_exec()
_NUM_SLOTS = shared.define_num_slots()
_PROGRESS = shared.define_progress()

_OF_THE_RUN = (
    *(_MODEL, _TASK, _REVISION, _LIMIT, _NUM_SAMPLES, _SEED, _ALPHA, _NUM_ALPHAS),
    *(_NUM_MCMC_STEPS, _MAX_NEW_TOKENS, _BLOCK_SIZE, _STOP, *_CHAT),
)
POWER, TEMPERATURE = "Power sampling", "Token temperature"

flags.adopt_module_key_flags(cli)


def main(_) -> None:
    """Samples what the run folder lacks, prints a line per row, and writes figures and report."""
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
    problems = runs.prompted(lm, task, problems, _CHAT.value)
    runs.note_prompts(folder, lm, [task], _CHAT.value)
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
    """Returns (series, alpha) -> row, with the rows in the order they are sampled.

    At alpha = 1 both series are standard sampling; that row stands under POWER.
    """
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


def write(
    folder: Path,
    task: str,
    rows: dict[tuple[str, float], Row],
    results: dict[tuple[str, float], evaluation.Result],
) -> str:
    """Writes the figures, rewards.json and rewards.md; returns the text of rewards.md."""
    where = f"{_MODEL.value} on {task}"
    standard = results[POWER, 1.0].summary
    series = {
        name: {1.0: standard}
        | {alpha: r.summary for (kind, alpha), r in results.items() if kind == name}
        for name in (POWER, TEMPERATURE)
    }
    figure = reward_figures.sweep(series, f"Sharpening by power and by temperature: {where}")
    _save(figure, folder, "sweep")
    gains = proposition4.synthetic(
        {
            alpha: proposition4.samples(result.records)
            for (kind, alpha), result in results.items()
            if kind == POWER
        }
    )
    figure = reward_figures.gain_against_covariance(gains, f"What power sampling adds: {where}")
    _save(figure, folder, "synthetic")
    numbers = {
        name: value.tolist() if hasattr(value, "tolist") else value
        for name, value in dataclasses.asdict(gains).items()
    }
    lock.replace_file(
        folder / "rewards.json", json.dumps(numbers | {"agrees": gains.agrees}, indent=1)
    )
    last = max(rows, key=lambda key: (key[0] == POWER, key[1]))
    text = REPORT.format(
        where=where,
        num_problems=standard.num_problems,
        num_samples=standard.num_passes,
        table=report.markdown(_table(results)),
        law=report.law("power", {"kernel": "exact", **rows[last].settings}),
        slope=_interval(gains.slope),
        predicted=_interval(gains.predicted),
        difference=_interval(gains.difference),
        verdict="lies in" if gains.agrees else "lies OUTSIDE",
        alpha=f"{_ALPHA.value:g}",
        rise=_interval(gains.rise[-1]),
        rise_predicted=_interval(gains.rise_predicted[-1]),
    )
    lock.replace_file(folder / "rewards.md", text)
    return text


def _table(results: dict[tuple[str, float], evaluation.Result]) -> list[list[str]]:
    """Returns the cells of the report's table, its head first."""
    table = [["sampler", "tau", "r*", "r_self", "accepted"]]
    for (kind, alpha), result in results.items():
        s = result.summary
        table.append(
            [
                "Standard" if alpha == 1 else kind,
                f"{1 / alpha:.3f}",
                f"{report.spread(s.accuracy)} {report.interval(s.accuracy)}",
                f"{report.spread(s.self_reward)} {report.interval(s.self_reward)}",
                "-" if s.acceptance_rate is None else f"{s.acceptance_rate:.3f}",
            ]
        )
    return table


def _save(figure, folder: Path, name: str) -> None:
    """Writes a figure as PNG and PDF."""
    for kind in ("png", "pdf"):
        figure.savefig(folder / f"{name}.{kind}")


def _interval(interval: proposition4.Interval) -> str:
    """Returns `1.234 [1.100, 1.360]`."""
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
