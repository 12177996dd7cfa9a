"""Explain: what a rule says of itself, gathered from its module's docstring and its declarations."""

import inspect
import re
from dataclasses import dataclass
from typing import Any

import torch

from thalweg.rules.core.hyper import Range
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.traits import Needs
from thalweg.rules.explanation.setting_checks import setting_checks

_NEEDS: dict[Needs, str] = {
    "gradient": "a gradient",
    "second gradient": "a second gradient: a closure",
    "curvature": "estimates of the Hessian's diagonal",
    "closure": "a closure, called several times a step",
}
_SHAPE = torch.Size([512, 512])  # of a matrix as they are, beside which rows and columns count little
_SECTION = re.compile(r"(Use|Avoid|Source|Departs): ")


@dataclass(frozen=True)
class ExplainedHyper:
    """One hyperparameter; `search` is None where it is not searched."""

    name: str
    symbol: str
    value: Any
    default: Any
    bound: str
    unit: str
    search: Range | None
    doc: str


@dataclass(frozen=True)
class Explanation:
    """A rule, explained. `state` holds each tensor that is remembered, as (symbol, unit, key in a state_dict).

    `state_bytes` is what is kept for each float32 number of a matrix.
    """

    name: str
    title: str
    formula: str
    notes: str
    use: str
    avoid: str
    source: str
    departs: str
    scope: str
    semantics: dict[str, str]
    warned_of: tuple[str, ...]
    hypers: tuple[ExplainedHyper, ...]
    state: tuple[tuple[str, str, str], ...]
    state_bytes: float


def _dims(rule: Rule) -> str:
    if rule.traits.max_dims is not None:
        return f"at most {rule.traits.max_dims} dimensions"
    return f"{rule.traits.min_dims} dimensions or more" if rule.traits.min_dims else "any"


def semantics(rule: Rule) -> dict[str, str]:
    """What differs between optimizers of one name: where things enter, and what a step needs. Read off declarations."""
    declared = rule.hypers()
    places = {name: one.place for name, one in declared.items() if one.place}
    return {
        "learning rate": f"in units of {declared['lr'].unit}" if "lr" in declared else "none",
        "weight decay": next((place for name, place in places.items() if "decay" in name), "none"),
        "ε": next((place for name, place in places.items() if name.startswith("eps")), "none"),
        "bias correction": "yes" if rule.traits.corrects_bias else "no",
        "needs": _NEEDS[rule.traits.needs],
        "parameters": _dims(rule),
        "model used at": "other parameters: optimizer.eval()" if rule.traits.has_eval_params else "the parameters",
    }


def state_bytes(rule: Rule) -> float:
    """The bytes that are kept for each float32 number of a matrix, to a tenth."""
    rule = next(iter(rule.parts.values()), rule)  # of rules side by side, a matrix follows the first
    return round(4 * rule.state_numel(_SHAPE) / _SHAPE.numel(), 1)


def warned_of(rule: Rule) -> tuple[str, ...]:
    """What settings a warning is given of, in a few words each."""
    falling = ("lr scheduled to a hundredth or less",) if rule.traits.replaces_lr_schedule else ()
    return (*(doubt.when for doubt in setting_checks(rule)), *falling)


def explain(rule: Rule) -> Explanation:
    """Explain a rule at its settings."""
    kind = type(rule)
    text = inspect.cleandoc(getattr(inspect.getmodule(kind), "__doc__", None) or kind.__doc__ or "")
    title, _, rest = text.partition("\n\n")
    prose, *marked = _SECTION.split(rest)
    sections = dict(zip(marked[::2], (" ".join(part.split()) for part in marked[1::2]), strict=True))
    blocks = [block for block in prose.split("\n\n") if block.strip()]
    formulas = [block for block in blocks if block.startswith("    ")]
    notes = [" ".join(block.split()) for block in blocks if not block.startswith("    ")]
    layout = rule.layout(_SHAPE)
    return Explanation(
        name=rule.name,
        title=title.partition(": ")[2] or title,
        formula="\n\n".join(inspect.cleandoc(block) for block in formulas),
        notes=" ".join(notes),
        use=sections.get("Use", ""),
        avoid=sections.get("Avoid", ""),
        source=sections.get("Source", ""),
        departs=sections.get("Departs", ""),
        scope=rule.traits.scope,
        semantics=semantics(rule),
        warned_of=warned_of(rule),
        hypers=tuple(
            ExplainedHyper(
                name=name,
                symbol=declared.symbol,
                value=value,
                default=declared.default,
                bound=str(declared.bound) if declared.bound else declared.wanted,
                unit=declared.unit,
                search=declared.search,
                doc=declared.doc,
            )
            for (name, declared), value in zip(rule.hypers().items(), rule.settings().values(), strict=True)
        ),
        state=tuple((name, leaf.unit, leaf.key) for name, leaf in layout.items()),
        state_bytes=state_bytes(rule),
    )
