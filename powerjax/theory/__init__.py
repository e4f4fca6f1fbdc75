"""The paper's theory by exact enumeration in float64, on models small enough to write down.

Which file computes which equation:

    exact         Eq. 1 (self-reward), 4 and 6 (pi_alpha), 5 (token temperature), 8 (g_t)
    laws          Eq. 2 (modes), 4 and 5 (powers); Renyi entropy (Prop. 1), Hellinger (Lemma 1)
    propositions  Prop. 1, 2, 4, 5, Cor. 1 and Eq. 6 to 16, 18, 19, 23, as pairs of sides
    sharpening    Eq. 3, Prop. 3 (Eq. 17), Lemma 1
    sis           CV^2 and ESS of importance weights (Prop. 2)
    transitions   Eq. 20 as a matrix of Metropolis-Hastings moves
    learning      Eq. 11 by gradient ascent, Eq. 16 and Algorithm 1 by maximum likelihood

`checks` runs all of it over random models; `figures` and `bridge` draw it.
"""

from powerjax.theory import laws, propositions, sharpening, sis, zipf
from powerjax.theory.exact import TabularModel

__all__ = ["TabularModel", "laws", "propositions", "sharpening", "sis", "zipf"]
