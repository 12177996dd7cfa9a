"""Code of a user, which `test_signatures` gives to mypy. A comment `# error: CODE` marks a line that must fail."""

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from thalweg import optim, rules

model = nn.Linear(3, 2)
params = list(model.parameters())

# A setting has a name and a type.
optim.AdamW(params, lrr=1)  # error: call-arg
optim.AdamW(params, betas="no")  # error: arg-type
optim.AdamW(params, betas=(0.9, 0.99, 0.999))  # error: arg-type
optim.AdamW(params, lr="1e-3")  # error: arg-type
optim.AdamW(params, amsgrad="yes")  # error: arg-type
optim.AdamW(params, rounding="up")  # error: arg-type
optim.AdamW(params, backend="fast")  # error: arg-type
optim.AdamW(3)  # error: arg-type
optim.AdamW()  # error: call-arg
optim.AdamW(params, 1e-3, (0.9, 0.99), 1e-8, 0.1, True, True)  # error: call-arg
optim.SGD(params, lr=0.1, nesterov="no")  # error: arg-type
optim.Shampoo(params, roots="quick")  # error: arg-type
optim.Shampoo(params, update_every=1.5)  # error: arg-type
optim.Lion(params, foreach=True)  # error: call-arg
optim.LBFGS(params, line_search_fn="armijo")  # error: arg-type
optim.route(model, roles=3)  # error: arg-type
optim.AdamV(params)  # error: attr-defined

# What torch.optim and thalweg accept.
optim.AdamW(params)
optim.AdamW(model.parameters(), 1e-3, (0.9, 0.99), weight_decay=0.1, fused=True, maximize=True)
optim.AdamW(model.named_parameters(), lr=torch.tensor(1e-3), rounding="kahan", seed=1, backend="loop")
optim.AdamW([{"params": params, "lr": 0.1}], foreach=None, differentiable=True)
optim.SGD(params, lr=1, momentum=0.9, nesterov=True)
optim.Adagrad(params, lr_decay=0.1, foreach=False)
optim.Adafactor(params, eps=(None, 1e-3))
optim.LBFGS(params, max_eval=None, line_search_fn="strong_wolfe")
optim.Muon([model.weight], adjust_lr_fn="match_rms_adamw", ns_coefficients=(3.4445, -4.775, 2.0315))
optim.optimizer_for("adamw")(params, lr=1e-3)
optim.optimizer_for(rules.Cautious(rules.AdamW()))(params, lr=1e-3, weight_decay=0.1)

optimizer: torch.optim.Optimizer = optim.Lion(params, lr=1e-4)
scheduler: LRScheduler = OneCycleLR(optim.AdamW(params), max_lr=0.1, total_steps=10)
plan: optim.RoutingPlan = optim.route(model, "muon+adamw", lr=0.02, headless=True)
routed: optim.RuleOptimizer = plan.optimizer(rounding="kahan")
transferred: rules.Rule = optim.transfer(rules.AdamW(lr=3e-4), "lion").rule
learning_rates: list[float] = [group["lr"] for group in optim.AdamW(params).param_groups]


class Tuned(optim.AdamW):
    """A subclass with a constructor of its own."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module.parameters(), lr=3e-4)


Tuned(model).step()
