"""Terms: the words for the quantities of one comparison, which the sentences of its verdict are made of."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

from thalweg.comparison.protocol.design import SettingDesign
from thalweg.comparison.protocol.race import Race
from thalweg.comparison.results.estimate import Estimate
from thalweg.comparison.results.records import ComparisonRecord
from thalweg.comparison.results.summary import Summary
from thalweg.rules import Range
from thalweg.tasks.measurement import with_article


class Headings(NamedTuple):
    """The headings of the columns of a comparison: the same on a terminal, in a notebook and on the page."""

    contender: str = "contender"
    worse_by: str = "worse by"
    seeds: str = "seeds"
    untuned: str = "untuned"
    starting_point: str = "starting point"
    your_setting: str = "your setting"
    training_loss: str = "training loss"
    lost: str = "lost"
    failed: str = "failed"
    state: str = "state"
    settings: str = "settings"


HEADINGS = Headings()
MIN_SETTINGS = 3  # of a contender that may be called worse: its starting point, its default, and one more
TENFOLD = 9.0  # from this share on, a factor is easier to read than a percentage


@dataclass(frozen=True)
class Terms:
    """The words for the quantities of one comparison.

    Attributes:
        before_value: The words between a contender and its value: ``reaches a test loss of``.
        after_value: The words after the value: `` passes to a test loss of 0.1`` for a time to a target, else empty.
        searched: The number of settings that were searched for each contender that has a search.
        few: The contenders of which too few settings were searched to call them worse.
        advantage: The advantage of the recommended contender over the others: ``keeps less optimizer state``.
        untrained: The loss of the untrained model. None if a time to a target counts.
        untrained_name: The words for the untrained model.
        no_improvement: The meaning of a comparison in which no contender improves on the untrained model.
        no_target: The sentence for a comparison in which no training of the search met the target, else empty.
        margin: The difference that is too small to matter, in words.
    """

    before_value: str
    after_value: str = ""
    searched: Mapping[str, int] = field(default_factory=dict)
    few: Collection[str] = ()
    advantage: str = ""
    untrained: float | None = None
    untrained_name: str = "the untrained model"
    no_improvement: str = "training did not help"
    no_target: str = ""
    margin: str = "3 %"

    def reached(self, name: str, value: Estimate, source: str = "") -> str:
        """Return the statement of a contender's value, without a full stop.

        Args:
            name: The contender.
            value: Its value.
            source: The seeds that it comes from. Defaults to fresh ones.
        """
        seeds = f"{value.count} {source or ('fresh seed' if value.count == 1 else 'fresh seeds')}"
        if value.lost:
            precision = f"{seeds}, {value.lost_in_words}"
        elif value.count == 1:
            precision = seeds
        elif value.is_constant:
            precision = f"the same value from all {seeds}"
        else:
            precision = f"95 % interval {value.low:.4g} to {value.high:.4g}, {seeds}"
        return f"{name} {self.before_value} {value.bound}{value.mean:.4g}{self.after_value} ({precision})"

    def settings_of(self, names: Collection[str]) -> str:
        """Return the number of settings that were searched for each of these contenders, in words.

        Example:
            >>> Terms("reaches", searched={"sgd": 20, "adam": 31}).settings_of(["sgd", "adam"])
            '20 to 31 settings searched'
        """
        counts = {self.searched[name] for name in names if name in self.searched} or {1}
        if len(counts) == 1:
            return f"the {max(counts):,} settings searched"
        return f"{min(counts):,} to {max(counts):,} settings searched"


def difference(text: str, by: float) -> str:
    """Return the difference of a row from the leader: ``3.1 %``; of a row that is better, ``3.1 % better``.

    Args:
        text: The difference as text, with a sign if the row is better.
        by: The difference as a number, negative if the row is better.

    Example:
        >>> difference("3.1 %", 0.031), difference("-2.0 %", -0.02), difference("0.0 %", -1e-9)
        ('3.1 %', '2.0 % better', '0.0 %')
    """
    return f"{text.lstrip('-−')} better" if by < 0 and text[:1] in "-−" else text


def listed(names: Sequence[str], last: str = "and") -> str:
    """Return names as a phrase; empty if there are none.

    Args:
        names: The names.
        last: The word before the last of them.

    Example:
        >>> listed(["AdamW", "Lion", "Muon"])
        'AdamW, Lion and Muon'
    """
    return "".join(names) if len(names) < 2 else f"{', '.join(names[:-1])} {last} {names[-1]}"


def percent(share: float) -> str:
    """Return a share as a whole percentage: ``5 %``."""
    return f"{share:.0%}".replace("%", " %")


def worse(share: float) -> str:
    """Return the share by which a value is worse, as text.

    Args:
        share: The share of the best value.

    Example:
        >>> worse(0.031), worse(11.0)
        ('3.1 %', '12x')
    """
    if not math.isfinite(share):
        return "–"
    return f"{1 + share:.3g}x" if share >= TENFOLD else f"{round(100 * share, 1) + 0.0:.1f} %"  # never -0.0


def worse_interval(low: float, high: float) -> str:
    """Return the interval of a share as text; a dash if there is none.

    Example:
        >>> worse_interval(0.01, 0.052), worse_interval(math.nan, math.nan)
        ('1.0 % – 5.2 %', '–')
    """
    return f"{worse(low)} – {worse(high)}" if math.isfinite(low) else "–"


def name_of_measure(record: ComparisonRecord, split: str) -> str:
    """Return the words for what is measured on a split: ``test cross-entropy``, or the name that reports give."""
    name = record.plan.metric_name
    return name if name and split != "train" else record.workload.measured[split]


def name_of_metric(record: ComparisonRecord) -> str:
    """Return the words for the values: ``test cross-entropy``, or ``passes to a validation loss of 0.1``."""
    measured, target = name_of_measure(record, record.plan.judged_on), record.plan.target
    return measured if target is None else f"{target.unit} to {with_article(measured)} of {target.loss:g}"


def name_of_untrained(record: ComparisonRecord) -> str:
    """Return the words for the untrained model. A training function does not show its model."""
    if not record.workload.is_function:
        return "the untrained model"
    scale, split = record.plan.scale, record.plan.judged_on
    bound, first = scale.untrained.get(split, math.nan), scale.baseline.get(split, math.nan)
    words = "the first report" if scale.has_start else "the first value"
    if first and bound == (first / 10 if scale.maximize else 10 * first):
        return f"a tenth of {words}" if scale.maximize else f"ten times {words}"
    return "the value of a lost training"


def terms_of(record: ComparisonRecord, race: Race, summaries: Sequence[Summary]) -> Terms:
    """Return the words for the quantities of a comparison.

    Args:
        record: The comparison.
        race: Its race.
        summaries: The results of all its contenders.
    """
    plan, metric, untrained_name = record.plan, name_of_metric(record), name_of_untrained(record)
    advantage = _advantage(record, race)
    searched = {summary.name: len(summary.trials["search"]) for summary in summaries if summary.searched}
    few = few_searched(record, searched)
    margin = _margin(record, race, summaries)
    if plan.target is not None:
        results = [trial.result for summary in summaries for trial in summary.trials["search"]]
        no_target = plan.target.missed_by_all(results, name_of_measure(record, plan.target.split))
        return Terms("takes", f" {metric}", searched, few, advantage, no_target=no_target, margin=margin)
    untrained = plan.scale.untrained.get(plan.judged_on)
    reaches = f"reaches {with_article(metric)} of"
    if untrained is None or not plan.scale.has_start:
        return Terms(reaches, searched=searched, few=few, advantage=advantage, margin=margin)
    is_new = plan.judged_on == "test" and record.workload.sources.get("test") != "train"
    on_new_data = " on new data" if is_new and not record.workload.is_function else ""
    return Terms(
        reaches,
        searched=searched,
        few=few,
        advantage=advantage,
        untrained=untrained,
        untrained_name=f"{untrained_name} ({metric} {untrained:.4g})",
        no_improvement=f"training did not help{on_new_data}",
        margin=margin,
    )


def _margin(record: ComparisonRecord, race: Race, summaries: Sequence[Summary]) -> str:
    """The margin beside the leader, in words."""
    scale, split = record.plan.scale, record.plan.judged_on
    scores = race.scores.get(race.remaining[0], []) if race.remaining else []
    measured = [summary.value.mean for summary in summaries[:1] if math.isfinite(summary.value.mean)]
    if not scores:
        scores = [scale.unclipped_score(value, split) for value in measured]
    return scale.margin_in_words(fmean(scores), split) if scores else "the margin"


def few_searched(record: ComparisonRecord, searched: Mapping[str, int]) -> list[str]:
    """Return the contenders of which too few settings were searched to call them worse.

    Studies give all contenders equally many. An adaptive search may hardly try one, if its budget is small.

    Args:
        record: The comparison.
        searched: The number of settings that were searched, by contender.
    """
    if not isinstance(record.plan.design, SettingDesign):
        return []
    least = {
        contender.name: min(MIN_SETTINGS, math.prod([_size(bounds) for bounds in contender.space.values()]))
        for contender in record.contenders
    }
    return [name for name, count in searched.items() if count < least[name]]


def _size(bounds: Range) -> float:
    """The number of values of a search range."""
    if bounds.values:
        return len(bounds.values)
    return bounds.high - bounds.low + 1 if bounds.whole else math.inf


def _advantage(record: ComparisonRecord, race: Race) -> str:
    """The advantage of the recommended contender over the leader, or over those within the margin."""
    if not race.remaining:
        return ""
    leader, costs = race.remaining[0], record.plan.costs(record.contenders)
    if race.recommended is None or race.recommended == leader:
        is_tied = race.settled == "within" and len(race.remaining) > 1
        is_cheapest = is_tied and costs[leader] == min(costs[name] for name in race.within)
        return "costs the least of them" if is_cheapest else "is the best of them"
    cost, leader_cost = costs[race.recommended], costs[leader]
    if cost > leader_cost:
        return "was lost on fewer seeds"
    if cost.state_numbers < leader_cost.state_numbers:
        return "keeps less optimizer state"
    return "steps faster" if cost.pace < leader_cost.pace else "has less to tune"
