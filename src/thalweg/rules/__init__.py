"""Rules: the formulas of optimizers, each written once as pure functions."""

from thalweg.rules.adagrad import AdaGrad
from thalweg.rules.adam import Adam
from thalweg.rules.adamw import AdamW
from thalweg.rules.explain import Explanation, explain
from thalweg.rules.hyper import Hyper, Range, hyper, switch
from thalweg.rules.reductions import Mean, Sum
from thalweg.rules.rmsprop import RMSprop
from thalweg.rules.roots import root
from thalweg.rules.rows import row
from thalweg.rules.rule import Rule, like_param, steps
from thalweg.rules.sgd import SGD

__all__ = [
    "SGD",
    "AdaGrad",
    "Adam",
    "AdamW",
    "Explanation",
    "Hyper",
    "Mean",
    "RMSprop",
    "Range",
    "Rule",
    "Sum",
    "explain",
    "hyper",
    "like_param",
    "root",
    "row",
    "steps",
    "switch",
]
