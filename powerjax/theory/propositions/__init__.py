"""Propositions 1, 2, 4, 5 and Corollary 1, each as a function that returns its two sides.

Put in a model, a proposal or a reward of your own: `.deviation` of what a function returns is how
far the two sides are apart. Proposition 3 and Lemma 1 are in `theory.sharpening`.

    `prop1_and_2`                               `prop4_and_5`
    next_token_conditionals   Eq. 6             prop4_derivative        Prop. 4, Eq. 18
    prefix_totals             Eq. 8             prop4_affine            Eq. 19
    prop1_log_odds            Prop. 1, Eq. 7    regularised_objective   Eq. 11
    log_incremental_weights   Eq. 9             regularised_optimum     Eq. 12
    prop2_moments             Prop. 2           prop5_objective         Prop. 5, Eq. 11 and 12
    prop2_minimiser           Prop. 2, Eq. 10   cor1_optimum            Cor. 1, Eq. 13
    prop2_product             Eq. 23            eq14_reverse_kl         Eq. 14
                                                eq15_forward_kl         Eq. 15
                                                eq16_stationary         Eq. 16
"""

from powerjax.theory.propositions.prop1_and_2 import (
    log_incremental_weights,
    next_token_conditionals,
    prefix_totals,
    prop1_log_odds,
    prop2_minimiser,
    prop2_moments,
    prop2_product,
)
from powerjax.theory.propositions.prop4_and_5 import (
    cor1_optimum,
    eq14_reverse_kl,
    eq15_forward_kl,
    eq16_stationary,
    expected_reward_gradient,
    prop4_affine,
    prop4_derivative,
    prop5_objective,
    regularised_objective,
    regularised_optimum,
)
from powerjax.theory.propositions.sides import PairSides, Sides

__all__ = [
    "PairSides",
    "Sides",
    "cor1_optimum",
    "eq14_reverse_kl",
    "eq15_forward_kl",
    "eq16_stationary",
    "expected_reward_gradient",
    "log_incremental_weights",
    "next_token_conditionals",
    "prefix_totals",
    "prop1_log_odds",
    "prop2_minimiser",
    "prop2_moments",
    "prop2_product",
    "prop4_affine",
    "prop4_derivative",
    "prop5_objective",
    "regularised_objective",
    "regularised_optimum",
]
