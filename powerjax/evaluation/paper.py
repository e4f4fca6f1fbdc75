"""The paper's numbers, for comparison.

They are from Tomihari & Sato, "Power Distribution Bridges Sampling, Self-Reward RL, and
Self-Distillation" (arXiv 2605.04542, May 2026): its tables on MATH500, HumanEval and GPQA-Diamond,
and the settings and learning rates of its experiments.

Of Qwen2.5-Math-7B on MATH500 every row is here, with its standard deviations. Of the other models
and tasks there are standard and power sampling of the base, and standard and temperature sampling
of the student, without the standard deviations of self-rewards. `None` stands for a number that was
not copied here.
"""

from __future__ import annotations

from typing import NamedTuple

MATH_7B, QWEN_7B, PHI = "Qwen2.5-Math-7B", "Qwen2.5-7B", "Phi-3.5-mini-instruct"
MODELS = (MATH_7B, QWEN_7B, PHI)
NUM_SEEDS = 4

# Power sampling of every model and task. The proposal is the base at temperature 1/alpha.
ALPHA, MAX_NEW_TOKENS, BLOCK_SIZE, NUM_MCMC_STEPS = 4.0, 3072, 192, 10
# Power sampling of a model with random weights (RandW).
RANDW_MAX_NEW_TOKENS, RANDW_NUM_MCMC_STEPS = 1024, 2

# Task -> number of problems (evaluated on, learnt from).
NUM_PROBLEMS = {"math": (500, 500), "code": (164, 420), "gpqa": (198, 250)}

# Task -> model -> the student's peak learning rate.
LEARNING_RATES = {
    "math": {MATH_7B: 1e-5, QWEN_7B: 1e-5, PHI: 1e-3},
    "code": {MATH_7B: 1e-5, QWEN_7B: 1e-5, PHI: 5e-4},
    "gpqa": {MATH_7B: 1e-4, QWEN_7B: 1e-5, PHI: 2e-4},
}


class Row(NamedTuple):
    """One row of the paper's tables.

    Attributes:
      accuracy: r* of one completion, the share of right answers.
      self_reward: r_self of one completion, nats per token.
      accuracy_std, self_reward_std: standard deviation over the paper's four seeds; None where it
        is not here. The paper gives none for Best-of-4.
      best_accuracy, best_self_reward: r* and r_self of Best-of-4 by self-reward.
    """

    accuracy: float
    accuracy_std: float | None
    self_reward: float
    self_reward_std: float | None
    best_accuracy: float
    best_self_reward: float


# (task, model) -> (kind of model, sampler) -> Row
TABLES: dict[tuple[str, str], dict[tuple[str, str], Row]] = {
    ("math", MATH_7B): {
        ("RandW", "Standard"): Row(0.000, 0.000, -13.406, 0.008, 0.000, -13.309),
        ("RandW", "Power"): Row(0.000, 0.000, -12.370, 0.014, 0.000, -12.133),
        ("Base", "Standard"): Row(0.508, 0.016, -0.316, 0.043, 0.680, -0.097),
        ("Base", "Temperature"): Row(0.683, 0.014, -0.061, 0.015, 0.756, -0.036),
        ("Base", "Power"): Row(0.714, 0.006, -0.077, 0.001, 0.742, -0.062),
        ("Base", "Power(inf)"): Row(0.728, 0.012, -0.075, 0.001, 0.736, -0.061),
        ("Distilled", "Standard"): Row(0.643, 0.025, -0.089, 0.005, 0.763, -0.042),
        ("Distilled", "Temperature"): Row(0.722, 0.009, -0.043, 0.001, 0.768, -0.034),
    },
    ("math", QWEN_7B): {
        ("Base", "Standard"): Row(0.410, 0.004, -0.405, None, 0.579, -0.185),
        ("Base", "Power"): Row(0.706, 0.017, -0.093, None, 0.677, -0.080),
        ("Distilled", "Standard"): Row(0.631, 0.013, -0.094, None, 0.682, -0.064),
        ("Distilled", "Temperature"): Row(0.661, 0.006, -0.073, None, 0.676, -0.060),
    },
    ("math", PHI): {
        ("Base", "Standard"): Row(0.449, 0.014, -0.234, None, 0.476, -0.173),
        ("Base", "Power"): Row(0.513, 0.017, -0.175, None, 0.493, -0.155),
        ("Distilled", "Standard"): Row(0.470, 0.000, -0.118, None, 0.481, -0.088),
        ("Distilled", "Temperature"): Row(0.457, 0.014, -0.106, None, 0.461, -0.086),
    },
    ("code", MATH_7B): {
        ("Base", "Standard"): Row(0.320, 0.016, -0.741, None, 0.383, -0.427),
        ("Base", "Power"): Row(0.538, 0.030, -0.144, None, 0.562, -0.106),
        ("Distilled", "Standard"): Row(0.416, 0.023, -0.563, None, 0.452, -0.334),
        ("Distilled", "Temperature"): Row(0.541, 0.005, -0.304, None, 0.566, -0.208),
    },
    ("code", QWEN_7B): {
        ("Base", "Standard"): Row(0.326, 0.025, -0.966, None, 0.376, -0.426),
        ("Base", "Power"): Row(0.573, 0.020, -0.130, None, 0.568, -0.096),
        ("Distilled", "Standard"): Row(0.425, 0.029, -0.849, None, 0.470, -0.325),
        ("Distilled", "Temperature"): Row(0.541, 0.017, -0.479, None, 0.600, -0.235),
    },
    ("code", PHI): {
        ("Base", "Standard"): Row(0.549, 0.021, -0.913, None, 0.562, -0.589),
        ("Base", "Power"): Row(0.712, 0.027, -0.330, None, 0.734, -0.294),
        ("Distilled", "Standard"): Row(0.634, 0.031, -0.730, None, 0.602, -0.473),
        ("Distilled", "Temperature"): Row(0.715, 0.020, -0.627, None, 0.675, -0.447),
    },
    ("gpqa", MATH_7B): {
        ("Base", "Standard"): Row(0.100, 0.025, -0.675, None, 0.103, -0.675),
        ("Base", "Power"): Row(0.277, 0.022, -0.088, None, 0.279, -0.087),
        ("Distilled", "Standard"): Row(0.275, 0.004, -0.165, None, 0.281, -0.113),
        ("Distilled", "Temperature"): Row(0.277, 0.001, -0.149, None, 0.277, -0.109),
    },
    ("gpqa", QWEN_7B): {
        ("Base", "Standard"): Row(0.244, 0.017, -1.531, None, 0.245, -1.527),
        ("Base", "Power"): Row(0.283, 0.033, -0.118, None, 0.287, -0.118),
        ("Distilled", "Standard"): Row(0.280, 0.035, -0.437, None, 0.278, -0.426),
        ("Distilled", "Temperature"): Row(0.285, 0.025, -0.210, None, 0.291, -0.201),
    },
    ("gpqa", PHI): {
        ("Base", "Standard"): Row(0.223, 0.027, -0.802, None, 0.223, -0.800),
        ("Base", "Power"): Row(0.309, 0.019, -0.215, None, 0.309, -0.214),
        ("Distilled", "Standard"): Row(0.268, 0.004, -0.321, None, 0.267, -0.319),
        ("Distilled", "Temperature"): Row(0.292, 0.012, -0.284, None, 0.298, -0.262),
    },
}


def model_of(name: str) -> str | None:
    """Returns the paper's model of that name; None if it is not one of them.

    A Hugging Face id or a folder is known by its last part, in any case.
    """
    last = name.rstrip("/").split("/")[-1].lower()
    return next((model for model in MODELS if model.lower() == last), None)


def row(task: str, model: str | None, kind: str, sampler: str) -> Row | None:
    """Returns the paper's row, or None if it is not here or `model` is None."""
    return None if model is None else TABLES.get((task, model), {}).get((kind, sampler))


def learning_rate(task: str, model: str | None) -> float | None:
    """Returns the paper's learning rate of the student, or None where it gives none."""
    return None if model is None else LEARNING_RATES.get(task, {}).get(model)
