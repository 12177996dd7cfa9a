"""Profile: the place of an optimizer among the others, its line of code, its starting point, and where to read on."""

from dataclasses import dataclass

from thalweg.comparison.contenders.contender import Contender, Settings
from thalweg.comparison.contenders.named import RECOMMENDED_SCALE
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.planning.adaptive.search_space import RATE_OF_ADAM_RECORD, starting_point
from thalweg.groups import Recommendation, group_of, shortlisted
from thalweg.registry import name_of_rule_class
from thalweg.rules import Rule, explain

PAGES = "docs/optimizers/rules"


@dataclass(frozen=True)
class Profile:
    """The facts about an optimizer that its formula does not show.

    Attributes:
        group: The name of its group; empty if it is not in the registry.
        shortlist: The recommendations of the shortlist that contain it.
        code: The Python line that makes it at its starting point, with AdamW beside it if it needs whole matrices.
        starting_point: The settings that replace the defaults in a first attempt; empty if the defaults do best.
        record: The committed record that the starting point comes from; empty if there is none.
        scale: The trainings that the starting point was chosen on, or that of Adam that it was derived from; empty if
            there is no record.
        is_estimate: True if the starting point was derived from that of Adam and not measured for this optimizer.
        links: The addresses of its publications.
        page: The page of the handbook; empty if it is not in the registry.
    """

    group: str
    shortlist: tuple[Recommendation, ...]
    code: str
    starting_point: Settings
    record: str
    scale: str
    is_estimate: bool
    links: tuple[str, ...]
    page: str


def profile_of(contender: Contender) -> Profile:
    """Return the profile of a contender that is a single rule of thalweg.

    Args:
        contender: The contender. Settings that the user fixed stay as they are.

    Example:
        >>> from thalweg.comparison import CONTENDERS
        >>> profile = profile_of(CONTENDERS["lion"])
        >>> profile.group, profile.page
        ('sign', 'docs/optimizers/rules/lion.md')
        >>> profile.code
        'optimizer = thalweg.optim.Lion(model.parameters(), lr=0.0083, betas=(0.75, 0.83))'
    """
    rule = contender.rule
    assert isinstance(rule, Rule), contender.name
    group, file = group_of(rule), name_of_rule_class(type(rule))
    started = _with_partner(contender, rule)
    start, record = starting_point(started)
    return Profile(
        group=group.name if group else "",
        shortlist=shortlisted(rule),
        code=started.describe().line_of_code(start),
        starting_point=start,
        record=record,
        scale=RECOMMENDED_SCALE if record else "",
        is_estimate=record == RATE_OF_ADAM_RECORD,
        links=explain(rule).links,
        page=f"{PAGES}/{file}.md" if file else "",
    )


def _with_partner(contender: Contender, rule: Rule) -> Contender:
    """Return the contender that steps a whole model: a rule of whole matrices needs another rule beside it."""
    if not rule.traits.needs_whole_matrices:
        return contender
    name, colon, settings = contender.name.partition(":")
    return parse(f"{name}+adamw{colon}{settings}")
