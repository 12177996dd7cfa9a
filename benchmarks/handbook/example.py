"""The example on the page of an optimizer: a short training of a small model, which the tests run."""

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.presentation.profile import profile_of
from thalweg.rules import Rule

_DATA = """\
import torch

import thalweg

torch.manual_seed(0)
inputs = torch.randn(256, 8)
targets = inputs.square().mean(1, keepdim=True)
layers = torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1)
model = torch.nn.Sequential(*layers)
"""
_MAX_LINE = 120
_LOSS = "torch.nn.functional.mse_loss(model(inputs), targets)"


def training_example(contender: Contender) -> str:
    """Return the example of a contender: the line that makes it, a loop, and the model's evaluation.

    Args:
        contender: A contender that is a rule of thalweg.
    """
    rule = contender.rule
    assert isinstance(rule, Rule), contender.name
    evaluation = f"print({_LOSS}.item())"
    if rule.traits.has_eval_params:
        evaluation = f"with optimizer.evaluating():\n    {evaluation}"
    loop = _loop(rule)
    gap = "\n\n\n" if loop.startswith("def") else "\n\n"
    return f"{_DATA}{_formatted(profile_of(contender).code)}{gap}{loop}\n\n{evaluation}"


def _formatted(line: str) -> str:
    """Return a line of code as the formatter of this repository writes it."""
    line = line.replace("'", '"')
    if len(line) <= _MAX_LINE:
        return line
    call, _, arguments = line.partition(")(")
    return f"{call})(\n    {arguments.removesuffix(')')}\n)"


def _loop(rule: Rule) -> str:
    if rule.traits.needs in ("closure", "second gradient"):
        return (
            "def closure():\n"
            "    optimizer.zero_grad()\n"
            f"    loss = {_LOSS}\n"
            "    loss.backward()\n"
            "    return loss\n\n\n"
            f"for step in range({10 if rule.traits.needs == 'closure' else 100}):\n"
            "    optimizer.step(closure)"
        )
    curvature = ""
    if rule.traits.needs == "curvature":
        curvature = "    optimizer.estimate_curvature(loss)\n"
        if (interval := rule.traits.curvature_interval) > 1:
            curvature = f"    if step % {interval} == 0:\n    {curvature}"
    return (
        "for step in range(100):\n"
        "    optimizer.zero_grad()\n"
        f"    loss = {_LOSS}\n{curvature}"
        "    loss.backward()\n"
        "    optimizer.step()"
    )
