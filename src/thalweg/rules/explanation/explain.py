"""Explain: the description of a rule, collected from the docstring of its module and its declarations."""

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
_SHAPE = torch.Size([512, 512])  # a typical matrix; state for each row or column hardly counts
_SECTION = re.compile(r"(Use|Avoid|Source|Departs): ")
_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{5}|\d{4}\.\d{4})")
_DOI = re.compile(r"doi:(10\.\d{4,}/[\w./()-]*\w)")
_PAGE = re.compile(r"\b((?:[a-z]+\.)+(?:com|io|net|org|press)/[\w./?=-]*\w)")


@dataclass(frozen=True)
class ExplainedHyper:
    """The description of one hyperparameter.

    Attributes:
        name: The name of the setting.
        symbol: The symbol in the formula.
        value: The value in the rule.
        default: The default value.
        bound: The condition on a value, in words.
        unit: The unit, in those of the parameter (θ) and its gradient (g).
        search: The values that a search tries; None if it is not searched.
        doc: The meaning, in a few words.
    """

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
    """The description of a rule at its settings.

    Attributes:
        name: The name of the rule in messages, such as ``"Clip(AdamW)"``.
        title: A description in one line.
        formula: The formula, as text.
        notes: Remarks on the formula.
        use: The cases that the rule is good for.
        avoid: The cases that it is not good for.
        source: The publication of the formula.
        links: The addresses of the publications in ``source``.
        departs: The differences from the source.
        scope: The part of the model that the step of one element depends on.
        semantics: Properties in which optimizers of the same name differ, each as (property, value).
        warned_of: The settings that cause a warning, in a few words each.
        hypers: The hyperparameters.
        state: Each state tensor as (symbol, unit, key in a ``state_dict``).
        state_bytes: Bytes of state for each float32 element of a matrix.
    """

    name: str
    title: str
    formula: str
    notes: str
    use: str
    avoid: str
    source: str
    links: tuple[str, ...]
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
    """Return the properties in which optimizers of the same name differ, from the declarations of a rule."""
    declared = rule.hypers()
    places = {name: hyper.place for name, hyper in declared.items() if hyper.place}
    return {
        "learning rate": f"in units of {declared['lr'].unit}" if "lr" in declared else "none",
        "weight decay": next((place for name, place in places.items() if "decay" in name), "none"),
        "ε": next((place for name, place in places.items() if name.startswith("eps")), "none"),
        "bias correction": "yes" if rule.traits.corrects_bias else "no",
        "needs": _NEEDS[rule.traits.needs],
        "parameters": _dims(rule),
        "model used at": "other parameters: optimizer.eval()" if rule.traits.has_eval_params else "the parameters",
        "without a gradient": without_gradient(rule),
    }


def without_gradient(rule: Rule) -> str:
    """Return what happens in a step to a parameter that has no gradient, from the declarations of its rule."""
    changes = ["parameter and state stay"]
    if rule.traits.counts_missed_steps:
        changes.append("its average moves on towards it")
    shared = [name for name, tensor in rule.layout(_SHAPE).items() if tensor.shared]
    if shared:
        names = ", ".join(shared[:-1]) + " and " if shared[1:] else ""
        changes.append(f"{names}{shared[-1]} follow the model")
    if rule.traits.scope == "model" or rule.traits.needs == "second gradient":
        changes.append("sums over the model leave it out")
    return ", ".join(changes)


def state_bytes(rule: Rule) -> float:
    """Return the bytes of state for each float32 element of a matrix, rounded to a tenth."""
    rule = next(iter(rule.parts.values()), rule)  # the first of several routed rules takes the matrices
    return round(4 * rule.state_numel(_SHAPE) / _SHAPE.numel(), 1)


def warning_conditions(rule: Rule) -> tuple[str, ...]:
    """Return the settings that cause a warning, in a few words each."""
    falling = ("lr scheduled to a hundredth or less",) if rule.traits.replaces_lr_schedule else ()
    return (*(check.condition for check in setting_checks(rule)), *falling)


@dataclass(frozen=True)
class _Docstring:
    """The parts of the docstring of a rule's module."""

    title: str
    formula: str
    notes: str
    sections: dict[str, str]


def _parse_docstring(text: str) -> _Docstring:
    title, _, rest = text.partition("\n\n")
    prose, *marked = _SECTION.split(rest)
    blocks = [block for block in prose.split("\n\n") if block.strip()]
    return _Docstring(
        title=title.partition(": ")[2] or title,
        formula="\n\n".join(inspect.cleandoc(block) for block in blocks if block.startswith("    ")),
        notes=" ".join(" ".join(block.split()) for block in blocks if not block.startswith("    ")),
        sections=dict(zip(marked[::2], (" ".join(part.split()) for part in marked[1::2]), strict=True)),
    )


def source_links(source: str) -> tuple[str, ...]:
    """Return the addresses of the publications that a text names.

    Args:
        source: A text with arXiv numbers, DOIs or addresses of pages.

    Example:
        >>> source_links("Kingma & Ba 2015, arXiv:1412.6980, Algorithm 1; jmlr.org/papers/v12/duchi11a")
        ('https://arxiv.org/abs/1412.6980', 'https://jmlr.org/papers/v12/duchi11a')
    """
    forms = ((_ARXIV, "arxiv.org/abs/"), (_DOI, "doi.org/"), (_PAGE, ""))
    matches = [(match.start(), f"https://{site}{match[1]}") for form, site in forms for match in form.finditer(source)]
    return tuple(dict.fromkeys(address for _, address in sorted(matches)))


def explain(rule: Rule) -> Explanation:
    """Describe a rule at its settings: formula, hyperparameters, state, advice and source.

    Args:
        rule: The rule. The formula and the advice come from the docstring of its module.

    Returns:
        The description.

    Example:
        >>> from thalweg import rules
        >>> explanation = rules.explain(rules.SGD(momentum=0.9))
        >>> explanation.state
        (('b', 'g', 'momentum_buffer'),)
    """
    rule_class = type(rule)
    module_text = getattr(inspect.getmodule(rule_class), "__doc__", None)
    docstring = _parse_docstring(inspect.cleandoc(module_text or rule_class.__doc__ or ""))
    return Explanation(
        name=rule.name,
        title=docstring.title,
        formula=docstring.formula,
        notes=docstring.notes,
        use=docstring.sections.get("Use", ""),
        avoid=docstring.sections.get("Avoid", ""),
        source=docstring.sections.get("Source", ""),
        links=source_links(docstring.sections.get("Source", "")),
        departs=docstring.sections.get("Departs", ""),
        scope=rule.traits.scope,
        semantics=semantics(rule),
        warned_of=warning_conditions(rule),
        hypers=_explained_hypers(rule),
        state=tuple((name, tensor.unit, tensor.key) for name, tensor in rule.layout(_SHAPE).items()),
        state_bytes=state_bytes(rule),
    )


def _explained_hypers(rule: Rule) -> tuple[ExplainedHyper, ...]:
    return tuple(
        ExplainedHyper(
            name=name,
            symbol=declared.symbol,
            value=value,
            default=declared.default,
            bound=str(declared.bound) if declared.bound else declared.requirement,
            unit=declared.unit,
            search=declared.search,
            doc=declared.doc,
        )
        for (name, declared), value in zip(rule.hypers().items(), rule.settings().values(), strict=True)
    )
