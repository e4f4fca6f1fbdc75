"""The synthetic model has the paper's constants."""

import numpy as np
import pytest

from powerjax.theory import laws, zipf
from powerjax.theory import propositions as props


def test_constants():
    p, q, s = zipf.next_log_law(), zipf.suffix_log_laws(), zipf.suffix_exponents()
    assert p.shape == (64,) and q.shape == (64, 256)
    assert s.min() == pytest.approx(0.45) and s.max() == pytest.approx(1.65)
    assert p[0] - p[9] == pytest.approx(1.05 * np.log(10))
    np.testing.assert_allclose(q[:, 0] - q[:, 99], s * np.log(100))
    turns = np.count_nonzero(np.diff(np.sign(np.diff(s))))
    assert turns == 5
    # The trend: each crest is above the one before.
    crests = [s[:15].max(), s[25:40].max(), s[50:].max()]
    assert crests == sorted(crests)
    assert zipf.ALPHAS == (1.1, 1.5, 2.0, 3.0, 4.0, 8.0)


@pytest.mark.parametrize("alpha", zipf.ALPHAS)
def test_tabular_form(alpha):
    model = zipf.model()
    first = model.powered(alpha).log_p[0][0]
    oracle = zipf.proposals(alpha)["oracle"]
    np.testing.assert_allclose(np.exp(first[:64]), np.exp(oracle), atol=1e-14)
    assert np.isneginf(first[64:]).all()
    pairs = props.prop1_log_odds(model, alpha, depth=0)
    assert len(pairs.left) == 64 * 63 // 2 and pairs.deviation <= 1e-10
    # Straight from the definitions, without a table in sight.
    p, q = np.exp(zipf.next_log_law()), np.exp(zipf.suffix_log_laws())
    by_hand = p**alpha * (q**alpha).sum(axis=1)
    np.testing.assert_allclose(np.exp(oracle), by_hand / by_hand.sum(), rtol=1e-11)


def test_proposals():
    policies = zipf.proposals(4.0)
    assert list(policies) == ["oracle", "base", "temperature", "uniform"]
    for log_q in policies.values():
        laws.check_log_law(log_q)
