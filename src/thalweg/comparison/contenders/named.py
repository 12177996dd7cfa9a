"""Contenders: those that have a name. Other optimizers compete by what a user writes (`reading`)."""

from dataclasses import replace

from thalweg import rules
from thalweg.comparison.contenders.contender import Contender
from thalweg.registry import RULES

# What goes without saying in a name is pinned: `sgd` has no momentum to search.
_ENTRIES = (
    Contender("gd", rules.SGD(), "gradient descent: plain SGD on the full batch", frozenset({"momentum"}), True),
    Contender("sgd", rules.SGD(), "stochastic gradient descent, no momentum", frozenset({"momentum"})),
    Contender("momentum", rules.SGD(momentum=0.9), "SGD with momentum (heavy ball)"),
    Contender("nesterov", rules.SGD(momentum=0.9, nesterov=True), "SGD with Nesterov's momentum"),
    Contender("adagrad", rules.AdaGrad(), rules.AdaGrad.summary()),
    Contender("rmsprop", rules.RMSprop(), "RMSprop without momentum", frozenset({"momentum"})),
    Contender("amsgrad", rules.Adam(amsgrad=True), "Adam that divides by the largest mean square so far"),
    # Its own search takes the place of a schedule, and the noise of a mini-batch would be taken for curvature.
    Contender(
        "lbfgs",
        rules.LBFGS(line_search_fn="strong_wolfe"),
        "L-BFGS on the full batch, with a line search",
        frozenset({"lr"}),
        full_batch=True,
        schedule="none",
    ),
    Contender("signsgd", rules.Signum(momentum=0.0), "steps along the sign of the gradient", frozenset({"momentum"})),
    Contender("tiger", rules.Signum(momentum=0.965, weight_decay=0.01), "Signum with much momentum and weight decay"),
)


# Every other rule competes under the name of its file.
_RULES = [
    # Those that average as they go want no schedule.
    Contender(name, kind(), kind.summary(), schedule="none" if kind.declared_traits.replaces_lr_schedule else None)
    for name, kind in RULES.items()
    if kind is not rules.SGD
]

# Where to start without tuning: good on nine tasks with a linear schedule, as `benchmarks/recommended.py` found them.
# RMSprop's own default was not beaten.
_RECOMMENDED: dict[str, dict[str, float]] = {
    "gd": {"lr": 1.6},
    "sgd": {"lr": 0.59},
    "momentum": {"lr": 0.059, "momentum": 0.952},
    "nesterov": {"lr": 0.031, "momentum": 0.965},
    "adagrad": {"lr": 0.087},
    "adam": {"lr": 0.01, "beta1": 0.973},
    "adamw": {"lr": 0.01, "beta1": 0.973},
}

CONTENDERS: dict[str, Contender] = {
    entry.name: replace(entry, recommended=_RECOMMENDED.get(entry.name, {}))
    for entry in sorted({one.name: one for one in (*_RULES, *_ENTRIES)}.values(), key=lambda one: one.name)
}

DEFAULT = ("gd", "sgd", "momentum", "adagrad", "rmsprop", "adam", "adamw")
