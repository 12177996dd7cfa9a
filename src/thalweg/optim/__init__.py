"""Optimizers: the rules as `torch.optim.Optimizer`s.

Where torch has the algorithm, changing the import is enough.
"""

from thalweg import rules
from thalweg.optim.optimizer import RuleOptimizer, optimizer_for


class SGD(RuleOptimizer, rule=rules.SGD): ...


class AdaGrad(RuleOptimizer, rule=rules.AdaGrad): ...


class RMSprop(RuleOptimizer, rule=rules.RMSprop): ...


class Adam(RuleOptimizer, rule=rules.Adam): ...


class AdamW(RuleOptimizer, rule=rules.AdamW): ...


Adagrad = AdaGrad  # torch's spelling

__all__ = ["SGD", "AdaGrad", "Adagrad", "Adam", "AdamW", "RMSprop", "RuleOptimizer", "optimizer_for"]
