"""Three roads to pi_alpha on one enumerable model: sampling, self-reward RL, self-distillation.

Every curve is the total-variation distance of a law over completions to the enumerated target.
Lines are exact laws (transition matrices, the exact law of importance resampling); marks are what
was measured with `powerjax.sample.mh` itself.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from powerjax.sample import mh
from powerjax.theory import laws, learning, sis, transitions
from powerjax.theory.exact import TabularModel

ALPHA = 4.0
NUM_STEPS = 96
NUM_CHAINS = 40_000
PARTICLES = tuple(int(n) for n in np.unique(np.round(np.geomspace(1, 300, 20))))
SAMPLE_SIZES = tuple(int(n) for n in np.round(np.geomspace(10, 1e6, 16)))
TRAINING_STEPS = 1000
BATCH_SIZES = (16, 256)
TEACHER_STEPS = 16


class Curve(NamedTuple):
    """One line of the figure: distance to pi_alpha against what it costs."""

    road: str
    """"sampling", "rl" or "distillation"."""
    method: str
    is_exact: bool
    """The law is exact; otherwise it was estimated from draws."""
    steps: np.ndarray
    """MH steps, particles, gradient steps or training completions."""
    tokens_per_completion: np.ndarray
    """Tokens drawn for each finished completion (sampling); nan elsewhere."""
    completions_drawn: np.ndarray
    """Completions drawn in training (rl, distillation); nan elsewhere."""
    distance: np.ndarray


def example_model() -> TabularModel:
    """Three letters and EOS, at most five tokens, N(0, 1.5^2) logits: 364 completions.

    Seed 1 of the first few was chosen to show all roads on one scale: temperature sampling is
    far from pi_alpha, and the chain mixes within the steps drawn. On other seeds the floor lies
    anywhere between 0.01 and 0.95, and a chain may need many more steps.
    """
    return TabularModel.random(np.random.default_rng(1), 4, 5, eos=True, scale=1.5)


def run_chains(
    model: TabularModel,
    alpha: float,
    num_steps: int,
    num_chains: int,
    kernel: mh.Kernel = "exact",
    seed: int = 0,
    temperature: float | None = None,
) -> np.ndarray:
    """`mh.advance` vmapped over chains of one stage: each chain's string after 0..num_steps moves.

    Returns int [num_steps+1, num_chains, T+1]: tokens, -1 after the end, then the length.
    """
    if not model.eos:
        raise ValueError("the sampler's chain needs a model with EOS")
    length, live = model.length, model.num_live
    logits = jnp.asarray(learning.stacked_logits(model), jnp.float32)
    offsets = jnp.asarray(learning.row_offsets(model), jnp.int32)
    config = mh.settings(
        alpha,
        temperature,
        block_size=length,
        num_mcmc_steps=num_steps,
        max_new_tokens=length,
        stop_ids=(model.vocab_size - 1,),
        stop="horizon",
        kernel=kernel,
    )

    def one_token(chain, draws, trace):
        index = jnp.arange(length)
        working = jnp.where(index < chain.cut, chain.state.tokens, chain.proposal.tokens)
        before = index < chain.position
        place = jnp.where(before, live ** jnp.maximum(chain.position - 1 - index, 0), 0)
        row = offsets[chain.position] + jnp.sum(place * working)
        step = chain.step
        chain, info = mh.advance(chain, logits[row], draws, config)
        ended = jnp.where(index < chain.length, chain.state.tokens, -1)
        entry = jnp.concatenate([ended, chain.length[None]]).astype(jnp.int8)
        return chain, trace.at[step].set(jnp.where(info.finished, entry, trace[step]))

    def body(carry):
        chains, traces, key = carry
        key, *keys = jax.random.split(key, 4)
        draws = mh.Draws(
            token=jax.random.uniform(keys[0], (num_chains, 2)),
            cut=jax.random.bits(keys[1], (num_chains,), jnp.uint32),
            log_u=jnp.log1p(-jax.random.uniform(keys[2], (num_chains,))),
        )
        return *jax.vmap(one_token)(chains, draws, traces), key

    @jax.jit
    def run(key):
        chains = jax.vmap(lambda _: mh.init(config))(jnp.arange(num_chains))
        traces = jnp.zeros((num_chains, num_steps + 1, length + 1), jnp.int8)
        carry = (chains, traces, key)
        return jax.lax.while_loop(lambda c: ~jnp.all(c[0].done), body, carry)[1]

    return np.moveaxis(np.asarray(run(jax.random.key(seed))), 1, 0).astype(int)


def string_index(model: TabularModel, strings: np.ndarray) -> np.ndarray:
    """Which of `transitions.strings` each of the strings [.., chains, T+1] is."""
    known = transitions.strings(model)
    base = model.vocab_size + 1
    digits = base ** np.arange(model.length)
    codes = (known.tokens + 1) @ digits
    order = np.argsort(codes)
    found = np.searchsorted(codes[order], (strings[..., :-1] + 1) @ digits)
    return order[found]


def empirical_laws(model: TabularModel, strings: np.ndarray) -> np.ndarray:
    """Frequencies [.., Y+U] over `transitions.strings` of the strings [.., chains, T+1]."""
    index = string_index(model, strings)
    num_strings = len(transitions.strings(model).lengths)
    counts = [np.bincount(row, minlength=num_strings) for row in index.reshape(-1, index.shape[-1])]
    return np.array(counts).reshape(*index.shape[:-1], -1) / index.shape[-1]


def mean_length(model: TabularModel, policy: TabularModel) -> float:
    """Expected tokens of one completion drawn from a policy, EOS counted."""
    return float(np.exp(policy.log_joint()) @ model.completions()[1])


def sampling_curves(
    model: TabularModel, alpha: float, num_steps: int, num_chains: int, seed: int = 0
) -> list[Curve]:
    """Road (a): Metropolis-Hastings, token temperature, importance resampling."""
    log_target = laws.power(model.log_joint(), alpha)
    proposal = model.tempered(alpha)
    start, tokens_at_start = np.exp(proposal.log_joint()), mean_length(model, proposal)
    curves = []
    checkpoints = np.unique(np.round(np.geomspace(1, num_steps + 1, 14)).astype(int)) - 1
    for name, rule in (("MH, exact kernel", "exact"), ("MH, published rule", "karan2026")):
        step = transitions.kernel(model, proposal, alpha, rule)
        chain_laws, tokens = transitions.laws_of_chain(step, start, num_steps)
        tokens = tokens + tokens_at_start
        steps = np.arange(num_steps + 1)
        none = np.full(num_steps + 1, np.nan)
        exact = transitions.distance_to(log_target, chain_laws)
        curves.append(Curve("sampling", name, True, steps, tokens, none, exact))
        strings = run_chains(model, alpha, num_steps, num_chains, rule, seed)[checkpoints]
        seen = transitions.distance_to(log_target, empirical_laws(model, strings))
        at = checkpoints
        curves.append(Curve("sampling", name, False, at, tokens[at], none[at], seen))
    policies = {"base": model, "temperature": proposal, "oracle": model.powered(alpha)}
    particles = np.array(PARTICLES)
    none = np.full(len(particles), np.nan)
    for name, policy in policies.items():
        log_q = policy.log_joint()
        seen = [
            laws.total_variation(sis.resampled_law(log_target, log_q, n), log_target)
            for n in PARTICLES
        ]
        tokens = particles * mean_length(model, policy)
        curves.append(
            Curve(
                "sampling", f"SIS, {name} proposal", True, particles, tokens, none, np.array(seen)
            )
        )
    floor = laws.total_variation(proposal.log_joint(), log_target)
    one = np.array([1])
    tokens = np.array([tokens_at_start])
    curves.append(Curve("sampling", "token temperature", True, one, tokens, none[:1], floor[None]))
    return curves


def rl_curves(model: TabularModel, alpha: float, num_steps: int, seed: int = 0) -> list[Curve]:
    """Road (b): self-reward KL-regularised RL at beta = 1/(alpha - 1) (Cor. 1)."""
    if alpha <= 1:
        raise ValueError(f"the RL road needs alpha > 1 (beta = 1/(alpha - 1)), got {alpha:g}")
    beta = 1 / (alpha - 1)
    log_target = laws.power(model.log_joint(), alpha)
    steps = np.arange(num_steps + 1)
    none = np.full(num_steps + 1, np.nan)
    policies = learning.gradient_ascent(model, beta, num_steps, 0.1)
    distance = laws.total_variation(policies, log_target)
    curves = [Curve("rl", "exact gradient of Eq. 11", True, steps, none, none, distance)]
    for batch in BATCH_SIZES:
        policies = learning.reinforce(model, beta, num_steps, batch, 0.1, seed)
        distance = laws.total_variation(policies, log_target)
        name = f"REINFORCE, {batch} completions a step"
        curves.append(Curve("rl", name, False, steps, none, steps * batch, distance))
    return curves


def distillation_curves(
    model: TabularModel, alpha: float, num_chains: int, seed: int = 0
) -> list[Curve]:
    """Road (c): maximum likelihood on n completions of pi_alpha, and of short `mh` chains."""
    log_target = laws.power(model.log_joint(), alpha)
    proposal = model.tempered(alpha)
    step = transitions.kernel(model, proposal, alpha)
    path, _ = transitions.laws_of_chain(step, np.exp(proposal.log_joint()), TEACHER_STEPS)
    short = laws.log_of(np.maximum(path[-1][: model.num_completions], 0))
    teachers = {
        "MLE on exact samples": log_target,
        f"MLE on MH samples, {TEACHER_STEPS} steps": short,
    }
    rng = np.random.default_rng(seed)
    strings = run_chains(model, alpha, TEACHER_STEPS, num_chains, seed=seed)[-1]
    pools = [laws.draw(rng, log_target, SAMPLE_SIZES[-1]), string_index(model, strings)]
    curves = []
    for (name, log_teacher), pool in zip(teachers.items(), pools, strict=True):
        mean = [learning.expected_distance(log_target, log_teacher, n) for n in SAMPLE_SIZES]
        sizes = np.array(SAMPLE_SIZES)
        none = np.full(len(sizes), np.nan)
        curves.append(Curve("distillation", name, True, sizes, none, sizes, np.array(mean)))
        sizes = sizes[sizes <= len(pool)]
        fits = [learning.distil(model, rng.choice(pool, n, replace=False)) for n in sizes]
        seen = np.array([laws.total_variation(fit.log_joint(), log_target) for fit in fits])
        none = none[: len(sizes)]
        curves.append(Curve("distillation", name, False, sizes, none, sizes, seen))
    return curves


def measure(
    alpha: float = ALPHA,
    model: TabularModel | None = None,
    num_steps: int = NUM_STEPS,
    num_chains: int = NUM_CHAINS,
    training_steps: int = TRAINING_STEPS,
    seed: int = 0,
) -> list[Curve]:
    """All three roads to pi_alpha on one model."""
    model = example_model() if model is None else model
    return [
        *sampling_curves(model, alpha, num_steps, num_chains, seed),
        *rl_curves(model, alpha, training_steps, seed),
        *distillation_curves(model, alpha, num_chains, seed),
    ]


def find(curves: list[Curve], method: str, is_exact: bool = True) -> Curve:
    """The curve whose method begins so."""
    for curve in curves:
        if curve.method.startswith(method) and curve.is_exact == is_exact:
            return curve
    raise ValueError(f"no curve named {method!r}")


def lessons(curves: list[Curve]) -> str:
    """What the figure teaches, in three sentences, from its own numbers."""
    exact, published = find(curves, "MH, exact"), find(curves, "MH, published")
    floor = float(find(curves, "token temperature").distance[0])
    below = exact.distance < floor / 10
    tenth = f"{exact.steps[np.argmax(below)]} steps" if below.any() else "more steps than drawn"
    budget = exact.tokens_per_completion[-1]
    base, tempered = (find(curves, f"SIS, {name}") for name in ("base", "temperature"))
    resampled = [np.interp(budget, c.tokens_per_completion, c.distance) for c in (base, tempered)]
    ascent = find(curves, "exact gradient")
    noisy = [c for c in curves if c.method.startswith("REINFORCE")][-1]
    fit, inherited = (find(curves, f"MLE on {teacher}") for teacher in ("exact", "MH"))
    return (
        f"Sampling: token temperature stays at {floor:.3f} however many are drawn, the exact "
        f"kernel started there needs {tenth} for a tenth of that and {exact.steps[-1]} steps "
        f"({budget:.0f} tokens a completion, for which SIS gives {resampled[0]:.1e} from the base "
        f"and {resampled[1]:.1e} from temperature) for {exact.distance[-1]:.1e}, and the "
        f"published rule ends at {published.distance[-1]:.2f}, further off than it began.\n"
        f"RL: ascent on Eq. 11 at beta = 1/(alpha - 1) arrives at the same law without one sample "
        f"of it ({ascent.distance[-1]:.1e} after {ascent.steps[-1]} exact steps), and REINFORCE "
        f"follows it down to {noisy.distance[-1]:.1e} for {noisy.completions_drawn[-1]:,.0f} "
        f"completions of its own, as its noise fades where every return is the same.\n"
        f"Distillation: the student's error falls as n^-1/2 ({fit.distance[-1]:.1e} at n = "
        f"{fit.steps[-1]:,}) and its completions then cost one draw each, but it inherits its "
        f"teacher's error: taught by {TEACHER_STEPS} MH steps it stops at "
        f"{inherited.distance[-1]:.3f}."
    )


def table(curves: list[Curve]) -> str:
    """The end of every curve, one a line; the CSV holds the whole."""
    head = f"{'road':<13} {'method':<35} {'law':<9} {'steps':>9} {'cost':>24} {'TV':>8}"
    lines = [head, "-" * len(head)]
    for curve in curves:
        tokens, drawn = curve.tokens_per_completion[-1], curve.completions_drawn[-1]
        if np.isfinite(tokens):
            cost = f"{tokens:,.0f} tokens/completion"
        else:
            cost = f"{drawn:,.0f} completions" if np.isfinite(drawn) else "no samples"
        law = "exact" if curve.is_exact else "measured"
        lines.append(
            f"{curve.road:<13} {curve.method:<35} {law:<9} {curve.steps[-1]:>9,} {cost:>24} "
            f"{curve.distance[-1]:>8.1e}"
        )
    return "\n".join(lines)
