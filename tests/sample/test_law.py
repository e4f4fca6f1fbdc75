"""The law of many chains, driven by hand on tabular models and by the engine on a Flax model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats as statistics

from powerjax import sample
from powerjax.sample import draws, mh
from powerjax.sample.weights import inverse_cdf
from tests import tiny
from tests.sample import tabular

pytestmark = pytest.mark.usefixtures("optimized")

CHAINS = 120_000


def settings(alpha, inv_temperature, block, steps, end, stop="horizon", **options):
    return mh.settings(
        alpha,
        1 / inv_temperature,
        block_size=block,
        num_mcmc_steps=steps,
        max_new_tokens=end,
        stop_ids=(tabular.EOS,),
        stop=stop,
        **options,
    )


def chi_square_p(observed, law):
    """Returns the p-value of counts per state. States of an expected count below 5 are pooled."""
    expected = law * observed.sum()
    rare = expected < 5
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    possible = expected > 0
    assert observed[~possible].sum() == 0
    expected = expected[possible] * observed.sum() / expected.sum()
    return statistics.chisquare(observed[possible], expected).pvalue


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_at_alpha_one_every_number_of_steps_gives_the_base_law(steps, record_property):
    """With several stages and real keys, so that a draw that is used twice would show."""
    vocab, end = 3, 5
    logits = tabular.table(vocab, end, seed=3)
    logits[:, tabular.EOS] -= 1  # longer chains: later stages move more, and show a reused key
    ys = tabular.states(vocab, end)
    run = settings(1.0, 1.0, 2, steps, end)
    keys = draws.chain_keys(11 + steps, range(CHAINS), [0] * CHAINS)
    chain = tabular.drive(
        tabular.start(run, CHAINS, end),
        logits.astype(np.float32),
        keys,
        run,
        steps=end + 3 * steps * end,
    )
    assert np.asarray(chain.done).all()
    p = chi_square_p(tabular.counts(chain, ys), tabular.power_law(logits, ys, 1.0))
    record_property(f"chi-square p-value, N = {steps}", p)
    assert p > 1e-4


def test_exact_draws_stay_exact(record_property):
    """Chains that start from pi^alpha stay there, in three steps, with tau other than 1/alpha."""
    vocab, end, alpha = 3, 5, 2.5
    logits = tabular.table(vocab, end, seed=4)
    ys = tabular.states(vocab, end)
    law = tabular.power_law(logits, ys, alpha)
    picked = np.random.default_rng(0).choice(len(ys), CHAINS, p=law)
    forced = np.array([[*y, *[0] * (end - len(y))] for y in ys], np.int32)[picked]
    run = settings(alpha, 1.6, end, 3, end)
    keys = draws.chain_keys(5, range(CHAINS), [0] * CHAINS)
    chain = tabular.drive(
        tabular.start(run, CHAINS, end),
        logits.astype(np.float32),
        keys,
        run,
        steps=4 * end,
        forced=forced,
    )
    assert np.asarray(chain.done).all()
    p = chi_square_p(tabular.counts(chain, ys), law)
    record_property("chi-square p-value", p)
    assert p > 1e-4


@pytest.mark.parametrize(("vocab", "dtype_scale"), [(7, 2.0), (65, 2.0), (150_001, 3.0)])
def test_inverse_cdf_draws_every_token_at_its_rate(vocab, dtype_scale):
    rng = np.random.default_rng(vocab)
    mass = np.exp(dtype_scale * rng.normal(size=vocab)).astype(np.float32)
    mass[rng.random(vocab) < 0.3] = 0
    mass[0] = mass[-1] = 0
    count = 20_000 if vocab > 1000 else 200_000
    draw = jax.jit(
        lambda u: jax.lax.map(lambda x: inverse_cdf(jnp.asarray(mass), x), u, batch_size=256)
    )
    tokens = np.asarray(draw(rng.random((count, 2), np.float32)))
    assert (mass[tokens] > 0).all()
    order = np.argsort(-mass, kind="stable")
    groups = np.minimum(np.arange(vocab) * 50 // vocab, 49)  # 50 bins of tokens by their rank
    rank = np.empty(vocab, int)
    rank[order] = groups
    law = np.bincount(rank, mass.astype(np.float64), 50) / mass.astype(np.float64).sum()
    assert chi_square_p(np.bincount(rank[tokens], minlength=50), law) > 1e-4
    extremes = np.asarray(draw(np.array([[0, 0], [1 - 2**-24] * 2], np.float32)))
    assert (mass[extremes] > 0).all()


def staged_law(logits, run, ys, stop):
    """Returns the law [ys] after the whole staged chain, not its limit, by matrices in numpy."""
    vocab, end = logits.shape[1], int(run.max_new_tokens)
    log_q = tabular.proposal_law(logits, float(run.inv_temperature), None)
    law, out = {(): 1.0}, {}
    block, stage_end = int(run.block_size), 0
    while stage_end < end:
        stage_end = min(stage_end + block, end)
        stage_states = tabular.states(vocab, stage_end)
        place = {y: i for i, y in enumerate(stage_states)}
        vector = np.zeros(len(stage_states))
        for y, mass in law.items():
            if y and y[-1] == tabular.EOS:
                vector[place[y]] += mass
                continue
            for z in stage_states:
                if z[: len(y)] == y and len(z) > len(y):
                    vector[place[z]] += mass * np.exp(
                        tabular.sequence_log_prob(log_q, z, vocab, len(y))
                    )
        matrix = tabular.kernel_matrix(
            logits,
            stage_states,
            float(run.alpha),
            float(run.inv_temperature),
            power_inf=run.kernel == "power_inf",
        )
        vector = vector @ np.linalg.matrix_power(matrix, int(run.num_mcmc_steps))
        law = dict(zip(stage_states, vector, strict=True))
        if stop == "eos" and stage_end < end:
            for y in [y for y in law if y[-1] == tabular.EOS]:
                out[y] = out.get(y, 0) + law.pop(y)
    for y, mass in law.items():
        out[y] = out.get(y, 0) + mass
    return np.array([out.get(y, 0.0) for y in ys])


@pytest.fixture(scope="module")
def small_lm():
    """Returns a one-layer Qwen2 of four tokens, a prompt, and the logits after every prefix.

    Prefixes are completions of up to 3 tokens after the prompt.
    """
    narrow = dict(vocab_size=4, hidden_size=16, intermediate_size=16, num_layers=1)
    heads = dict(num_heads=2, num_kv_heads=1, max_position_embeddings=64)
    free = dict(tie_word_embeddings=False, initializer_range=0.35)
    config = tiny.config(**narrow, **heads, **free)
    lm = tiny.random_lm(config, seed=3, stop_ids=(tabular.EOS,), name="small")
    prompt, end = [1, 2, 3], 4
    logits = np.zeros((tabular.num_codes(4, end), 4))
    prefixes = [p for n in range(end) for p in np.ndindex(*[4] * n)]
    padded = np.array([[*prompt, *p, *[0] * (end - 1 - len(p))] for p in prefixes])
    lengths = np.array([3 + len(p) for p in prefixes])
    values = np.asarray(lm.logits(padded, lengths))
    for p, row, n in zip(prefixes, values, lengths, strict=True):
        logits[tabular.code(p, 4)] = row[n - 1]
    return lm, prompt, logits


@pytest.mark.parametrize(
    ("alpha", "temperature", "block", "steps", "stop", "kernel"),
    [
        (4.0, None, 2, 2, "horizon", "exact"),
        (2.0, 0.8, 4, 3, "eos", "exact"),
        (1.0, None, 2, 1, "eos", "exact"),
        (2.0, 0.5, 3, 2, "horizon", "power_inf"),
    ],
)
def test_engine_follows_the_enumerated_law_of_the_staged_chain(
    small_lm, alpha, temperature, block, steps, stop, kernel, record_property
):
    lm, prompt, logits = small_lm
    count, end = 15_000, 4
    stages = dict(block_size=block, num_mcmc_steps=steps, max_new_tokens=end, stop=stop)
    job = dict(num_samples=count, num_slots=256, seed=7, progress=False)
    if kernel == "power_inf":
        out = sample.power_inf(lm, [prompt], temperature=temperature, **stages, **job)
        inv_temperature = 1 / temperature
    else:
        out = sample.power(lm, [prompt], alpha=alpha, temperature=temperature, **stages, **job)
        inv_temperature = alpha if temperature is None else 1 / temperature
    run = settings(alpha, inv_temperature, block, steps, end, stop, kernel=kernel)
    ys = tabular.states(4, end)
    law = staged_law(logits, run, ys, stop)
    assert abs(law.sum() - 1) < 1e-9
    place = {y: i for i, y in enumerate(ys)}
    observed = np.bincount([place[tuple(c.tokens)] for c in out], minlength=len(ys))
    distance = 0.5 * np.abs(observed / count - law).sum()
    # E|X/n - p| <= sqrt(p (1-p) / n) for each state. The sum exceeds its mean by the second term
    # with a probability of at most 1e-6 (McDiarmid).
    bound = 0.5 * np.sqrt(law * (1 - law) / count).sum() + np.sqrt(np.log(1e6) / (2 * count))
    record_property(
        "total variation, bound, chi-square p",
        (round(distance, 5), round(bound, 5), chi_square_p(observed, law)),
    )
    assert distance < bound
    assert chi_square_p(observed, law) > 1e-4
