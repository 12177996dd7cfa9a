"""Named contenders: the optimizers that a comparison knows by a short name."""

from dataclasses import replace

from thalweg import rules
from thalweg.comparison.contenders.contender import Contender
from thalweg.registry import RULES
from thalweg.rules import Rule


def summary_of(kind: type[Rule]) -> str:
    """Return the first line of the docstring of a rule."""
    return (kind.summary()).partition("\n")[0]


_NO_MOMENTUM = frozenset({"momentum"})

# A name pins what it implies: `sgd` has no momentum to search.
_VARIANTS = (
    Contender("gd", rules.SGD(), "gradient descent: plain SGD on the full batch", _NO_MOMENTUM, full_batch=True),
    Contender("sgd", rules.SGD(), "stochastic gradient descent, no momentum", _NO_MOMENTUM),
    Contender("momentum", rules.SGD(momentum=0.9), "SGD with momentum (heavy ball)"),
    Contender("nesterov", rules.SGD(momentum=0.9, nesterov=True), "SGD with Nesterov's momentum"),
    Contender("adagrad", rules.AdaGrad(), summary_of(rules.AdaGrad)),
    Contender("rmsprop", rules.RMSprop(), "RMSprop without momentum", _NO_MOMENTUM),
    Contender("amsgrad", rules.Adam(amsgrad=True), "Adam that divides by the largest mean square so far"),
    # Its line search replaces a schedule; on mini-batches it would mistake noise for curvature.
    Contender(
        "lbfgs",
        rules.LBFGS(line_search_fn="strong_wolfe"),
        "L-BFGS on the full batch, with a line search",
        frozenset({"lr"}),
        full_batch=True,
        schedule="none",
    ),
    Contender("signsgd", rules.Signum(momentum=0.0), "steps along the sign of the gradient", _NO_MOMENTUM),
    Contender("tiger", rules.Signum(momentum=0.965, weight_decay=0.01), "Signum with much momentum and weight decay"),
)

# Every other rule competes under the name of its file, without a schedule if it averages its iterates instead.
_RULES = [
    Contender(name, kind(), summary_of(kind), schedule="none" if kind.declared_traits.replaces_lr_schedule else None)
    for name, kind in RULES.items()
    if kind is not rules.SGD
]

# Settings to start from without tuning, of names and of combinations: they do well on nine tasks with a linear
# schedule, each trained for all of its passes and for a quarter, as measured by `benchmarks/tuning/recommended.py`.
RECOMMENDED_RECORD = "benchmarks/records/recommended.json"
RECOMMENDED_SCALE = (  # of those trainings
    "9 tasks, models of 31 to 14,026 parameters, 34 to 680 steps (of the full batch 1 to 30), linear decay"
)
DEFAULTS_DO_BEST = frozenset({"rmsprop"})  # in the same record
RECOMMENDED: dict[str, dict[str, float]] = {
    "gd": {"lr": 1.7},
    "sgd": {"lr": 0.59},
    "momentum": {"lr": 0.1, "momentum": 0.973},
    "nesterov": {"lr": 0.16, "momentum": 0.961},
    "adagrad": {"lr": 0.087},
    "adam": {"lr": 0.01, "beta1": 0.973},
    "adamw": {"lr": 0.01, "beta1": 0.973},
    "nadam": {"lr": 0.022, "beta1": 0.98},
    "lion": {"lr": 0.0083, "beta1": 0.75, "beta2": 0.83},
    "muon+adamw": {"lr": 0.039, "momentum": 0.909},
}

_BY_NAME = {contender.name: contender for contender in (*_RULES, *_VARIANTS)}

CONTENDERS: dict[str, Contender] = {
    name: replace(_BY_NAME[name], recommended=RECOMMENDED.get(name, {})) for name in sorted(_BY_NAME)
}


DEFAULT = ("gd", "sgd", "momentum", "adagrad", "rmsprop", "adam", "adamw")

_BY_CLASS_NAME = {kind.__name__.casefold(): name for name, kind in RULES.items()}


def short_name(text: str) -> str:
    """Return the short name of an optimizer that is called by the name of its class; any other text as it is.

    Example:
        >>> short_name("AdamW"), short_name("ScheduleFreeAdamW"), short_name("torch.optim")
        ('adamw', 'schedule_free_adamw', 'torch.optim')
    """
    if text in CONTENDERS:
        return text
    lower = text.casefold()
    return lower if lower in CONTENDERS else _BY_CLASS_NAME.get(lower, text)
