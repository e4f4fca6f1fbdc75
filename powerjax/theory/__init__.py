"""The paper's theory by exact enumeration in float64, on models small enough to write down."""

from powerjax.theory import laws, propositions, sharpening, sis, zipf
from powerjax.theory.exact import TabularModel

__all__ = ["TabularModel", "laws", "propositions", "sharpening", "sis", "zipf"]
