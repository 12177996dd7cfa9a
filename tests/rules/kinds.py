"""Kinds of wrappers and rules, for tests of all of them."""

from thalweg import optim, rules
from thalweg.rules import wrappers

TOLERANCE = 1e-11
WRAPPERS = [getattr(wrappers, name) for name in wrappers.__all__]
DECAYS = {rules.CautiousDecay, rules.CoupledDecay, rules.DecoupledDecay, rules.FullyDecoupledDecay}
KINDS = [getattr(rules, name) for name in optim.__all__ if hasattr(rules, name)]
# L-BFGS goes into none: tests/optim/closures/test_lbfgs.py
RULES = [kind for kind in KINDS if kind.declared_traits.needs != "closure"]
