"""Verdict: the statements that the findings allow. Two questions, two paragraphs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from thalweg.comparison.protocol.procedure import Evidence, Findings
from thalweg.comparison.protocol.race import MAX_LOST_SHARE, Race
from thalweg.comparison.protocol.studies import Ranking
from thalweg.comparison.results.estimate import Estimate
from thalweg.comparison.results.records import ComparisonRecord, TrialRecord
from thalweg.comparison.results.stored_findings import common_step
from thalweg.comparison.results.terms import Terms, listed, percent
from thalweg.tasks.description import Described


@dataclass(frozen=True, repr=False)
class Verdict(Described):
    """The setting to use, and the rank of the optimizers.

    Attributes:
        settled: ``best``: the other contenders that raced are shown to be worse, apart from those of which too few
            settings were searched to say so. ``within``: those that remain are shown to lie within the margin.
            ``open``: the evidence does not suffice. ``unraced``: the budget paid for no race of contenders that were
            searched enough, so nothing is shown. ``unended``: no training has ended. ``none``: no contender ends
            reliably, or none ends better than it began.
        best: The contender with the best mean. None if nothing is recommended.
        tied: The contenders that are not shown to be worse, the best mean first.
        within: The contenders that are shown to lie within the margin of the best mean.
        recommended: The cheapest contender of ``within`` that is seldom lost. None if there is none.
        ranked: The optimizers that no interim analysis dropped. None if optimizers were not ranked.
        headline: The answer in a few words, no stronger than ``text``.
        text: The answer to the question which setting to use.
        ranking_text: The answer to the question which optimizer ranks where.
    """

    settled: Literal["best", "within", "open", "unraced", "unended", "none"]
    best: str | None
    tied: list[str]
    within: list[str]
    recommended: str | None
    ranked: list[str] | None
    headline: str
    text: str
    ranking_text: str

    def _describe(self) -> str:
        return "\n".join(filter(None, (f"Verdict ({self.settled}): {self.headline}", self.text, self.ranking_text)))


@dataclass(frozen=True)
class RunState:
    """The state of a comparison: finished or interrupted, and what its time allowed.

    Attributes:
        is_finished: False if it was interrupted, or is still running.
        trainings: The number of its trainings.
        studies: The studies of each optimizer that a ranking has or should have; None if none was planned.
        step: The evaluation at which contenders are compared if no training has ended, with its unit: ``report 3``.
        time: The time budget in words; empty if the budget is no time.
        is_running: True while it is running.
        is_one_seed: True if all seeds give the same values, so that they are the evidence of one.
        same_value: The value that all settings of the search gave; empty if they differ.
        is_stored: True if a file holds the trainings, so that the same call resumes them.
    """

    is_finished: bool = True
    trainings: int = 0
    studies: int | None = None
    step: str = ""
    time: str = ""
    is_running: bool = False
    is_one_seed: bool = False
    same_value: str = ""
    is_stored: bool = True


def run_state(
    record: ComparisonRecord,
    trials: Sequence[TrialRecord],
    *,
    is_one_seed: bool,
    is_running: bool = False,
    same_value: str = "",
    is_stored: bool = True,
) -> RunState:
    """Return how far a stored comparison has come."""
    plan, budget = record.plan, record.plan.budget
    stopped = [trial for trial in trials if trial.result.status == "stopped"]
    step = common_step(stopped)
    is_function = record.workload.is_function
    length = max((plan.schedules[trial.contender].steps for trial in stopped), default=0)
    return RunState(
        is_finished=record.finished is not None,
        trainings=len(trials),
        studies=None if plan.ranking is None else plan.ranking.studies,
        step=f"report {step}" if is_function else f"step {step} of {length}",
        time=f"{budget.seconds:g} s" if budget is not None and budget.seconds is not None else "",
        is_running=is_running and record.finished is None,
        is_one_seed=is_one_seed,
        same_value=same_value,
        is_stored=is_stored,
    )


def judge(findings: Findings, values: Mapping[str, Estimate], terms: Terms, state: RunState | None = None) -> Verdict:
    """Return the verdict of findings.

    Args:
        findings: What the trials decided.
        values: The estimate of each contender's chosen setting.
        terms: The words for the quantities of this comparison.
        state: How far the comparison has come. Defaults to a finished one.
    """
    state = state or RunState()
    race, ranking = findings.race, findings.ranking
    ranking_text = _ranking_text(ranking, state)
    ranked = None if ranking is None else ranking.remaining
    if race.settled == "unended":
        tried = 0 if findings.evidence is None else findings.evidence.stopped
        return _unended_verdict(race, tried, state, ranking_text)
    if state.is_one_seed:
        race = _of_one_seed(race)
    few = [name for names in race.dropped for name in names if name in terms.few]
    race = _without_few(race, few) if few else race
    leader = race.recommended or race.remaining[0]
    value = values[leader]
    unimproved = (
        terms.untrained is not None and 2 * value.lost <= value.count and not value.is_improvement(terms.untrained)
    )
    if unimproved or state.same_value or race.recommended is None:
        same = f"All settings of all contenders gave the same value, {state.same_value}, so there is nothing to choose."
        text = (
            same
            if state.same_value
            else _unimproved_text(leader, values, terms)
            if unimproved
            else terms.no_target or _lost_text(race, values, terms)
        )
        if not terms.no_target and all(_is_nothing_learned(value, terms) for value in values.values()):
            text += " If every optimizer fails, the cause is another one: ask thalweg doctor."
        return Verdict(
            settled="none",
            best=None,
            tied=[*race.remaining, *few],
            within=race.within,
            recommended=None,
            ranked=ranked,
            headline="Nothing to recommend." if state.is_finished else "Nothing to recommend so far.",
            text=_with_state(text, state),
            ranking_text=ranking_text,
        )
    return Verdict(
        settled=race.settled,
        best=race.remaining[0],
        tied=[*race.remaining, *few],
        within=race.within,
        recommended=race.recommended,
        ranked=ranked,
        headline=_headline(race, race.recommended, few, state),
        text=_with_state(_text(race, few, findings.evidence, value, terms, state), state),
        ranking_text=ranking_text,
    )


def _of_one_seed(race: Race) -> Race:
    """Return a race in which nothing is shown, because all its seeds are one; the best value first."""
    if len(race.scores) < 2 or race.settled == "unraced":
        return race
    dropped = [name for names in reversed(race.dropped) for name in reversed(names)]
    remaining = [*race.remaining, *dropped]
    return replace(race, settled="open", dropped=[], remaining=remaining, within=remaining[:1], seeds_needed=None)


def _without_few(race: Race, few: Sequence[str]) -> Race:
    """Return a race that calls no contender worse that was hardly tried."""
    dropped = [[name for name in names if name not in few] for names in race.dropped]
    return replace(
        race, dropped=dropped, settled="unraced" if race.settled == "best" and not any(dropped) else race.settled
    )


def _with_state(text: str, state: RunState) -> str:
    if state.is_finished:
        return text
    trainings = "1 training" if state.trainings == 1 else f"{state.trainings:,} trainings"
    if state.is_running:
        return f"Running; stored so far: {trainings}. {text}"
    resumed = "; the same command resumes" if state.is_stored else ""
    return f"Interrupted after {trainings}{resumed}. So far: {text}"


def _unended_verdict(race: Race, tried: int, state: RunState, ranking_text: str) -> Verdict:
    """The verdict if no training has ended: the contenders at the last evaluation that all of them have."""
    when = f" within {state.time}" if state.time else " so far"
    if not race.remaining:
        text = f"No training has ended{when}, and none was evaluated on the way, so nothing is known."
        headline = "Nothing is known yet."
    else:
        leader, *rivals = race.remaining
        alone = "the only one with a finite value" if tried > 1 else "the only one that was tried"
        ahead = f"ahead of {listed(rivals)}" if rivals else alone
        text = (
            f"No training has ended{when}, so no final value is known. At {state.step}, {leader} was {ahead}. An early "
            "lead often does not last to the end."
        )
        headline = f"No training has ended; {leader} was ahead."
    advice = " A longer budget, or shorter trainings, would compare where they end." if state.is_finished else ""
    return Verdict(
        settled="unended",
        best=race.recommended,
        tied=race.remaining,
        within=race.within,
        recommended=race.recommended,
        ranked=None,
        headline=headline,
        text=_with_state(text + advice, state),
        ranking_text=ranking_text,
    )


def _headline(race: Race, recommended: str, few: Sequence[str], state: RunState) -> str:
    if not state.is_finished:
        return f"{'Running' if state.is_running else 'Interrupted'}; best so far: {recommended}."
    rivals = [name for name in race.remaining if name != recommended]
    if race.settled == "unraced" and (rivals or few):
        return f"Best so far: {recommended}."
    if race.settled != "open" or not rivals:
        return f"Use {recommended}."
    if state.is_one_seed:
        return f"{recommended} for one seed only: not settled."
    return f"{recommended} or {rivals[0] if len(rivals) == 1 else f'{len(rivals)} others'}: not told apart."


def _is_nothing_learned(value: Estimate, terms: Terms) -> bool:
    is_improvement = terms.untrained is None or value.is_improvement(terms.untrained)
    return value.lost == value.count or not is_improvement


def _unimproved_text(leader: str, values: Mapping[str, Estimate], terms: Terms) -> str:
    assert terms.untrained is not None
    value = values[leader]
    seeds = f"{value.unimproved} of {value.count} seeds"
    if any(estimate.is_improvement(terms.untrained) for estimate in values.values()):
        return f"{leader} leads, but ended no better than {terms.untrained_name} on {seeds}. It is not recommended."
    subject = f"{leader} was not shown" if len(values) == 1 else "No contender was shown"
    return (
        f"{subject} to do better than {terms.untrained_name}: {terms.no_improvement}. "
        f"{terms.reached(leader, value)} and ended no better on {seeds}."
    )


def _lost_text(race: Race, values: Mapping[str, Estimate], terms: Terms) -> str:
    reasons = "diverged, failed, or missed its target" if terms.after_value else "diverged or failed"
    if len(values) > 1 and all(value.lost == value.count for value in values.values()):
        return f"All contenders were lost ({reasons}) on all seeds. No contender is recommended."
    lost = f"lost ({reasons}) on more than {percent(MAX_LOST_SHARE)} of the seeds"
    if len(race.scores) == 1:
        return f"{race.remaining[0]} was {lost}. It is not recommended."
    if len(race.within) == 1:
        return f"{race.within[0]} leads, but was {lost}. No contender is recommended."
    return f"{listed(race.within)} lead, but each was {lost}. No contender is recommended."


def _text(
    race: Race, few: Sequence[str], evidence: Evidence | None, value: Estimate, terms: Terms, state: RunState
) -> str:
    recommended = race.recommended
    assert recommended is not None
    sentences = [f"{terms.reached(recommended, value, _source(evidence))}."]
    if state.is_one_seed and race.settled == "open":
        sentences.append(
            "All seeds give the same values, so they are one seed: the differences in the table hold for this seed "
            "only, and nothing is shown for another."
        )
    elif len(race.scores) > 1:
        sentences += [*_separation(race, recommended, terms, state), *_few_settings(race, few, terms)]
    completed = race.completed[recommended]
    if not all(completed):
        lost = completed.count(False)
        sentences.append(f"{recommended} was lost on {lost} of {len(completed)} seeds of the race.")
    if evidence is not None and evidence.untried:
        sentences.append(f"No training of {listed(evidence.untried, 'or')} has ended.")
    return " ".join(sentences)


def _source(evidence: Evidence | None) -> str:
    """The seeds that a value comes from, as terms name them; empty for fresh ones."""
    if evidence is None or evidence.value_seeds:
        return ""
    if evidence.race_seeds:
        return "seeds of the race"
    if evidence.final_seeds:
        return "seeds that also chose it, so it may be too good"
    return f"training, the best of {evidence.searched:,}, so it is too good"


def _separation(race: Race, recommended: str, terms: Terms, state: RunState) -> list[str]:
    """The separation of the contenders by the race, in sentences."""
    if race.settled == "unraced":
        unraced = [name for name in race.remaining if name != recommended]
        if not unraced:
            return []
        if not state.is_finished:
            return [f"It has not been raced against {listed(unraced, 'or')} yet."]
        return [f"It was not raced against {listed(unraced, 'or')}: the budget did not suffice to show a difference."]
    left_out = f"{listed(race.unraced)} did worse before the race and did not take part." if race.unraced else ""
    if race.settled == "best":
        worse = [name for names in race.dropped for name in names]
        best = f"at the best of {terms.settings_of(worse)}"
        if len(worse) == 1:
            return [f"{worse[0]}, {best}, is shown to be worse.", *filter(None, [left_out])]
        subject = "All other contenders" if len(worse) == len(race.scores) - 1 else listed(worse)
        return [f"{subject}, each {best}, are shown to be worse.", *filter(None, [left_out])]
    if race.settled == "within":
        near = f"{listed(race.remaining)} are shown to lie within {terms.margin} of the best"
        return [f"{near}; {recommended} {terms.advantage}.", *filter(None, [left_out])]
    leader = race.remaining[0]
    rivals = listed([name for name in race.remaining if name != recommended])
    leads = f"{leader} leads" if leader == recommended else f"{leader} leads, {recommended} {terms.advantage}"
    open_text = f"The evidence does not separate it from {rivals}: {leads}."
    return [open_text, *_seeds_needed(race, terms), *filter(None, [left_out])]


def _few_settings(race: Race, few: Sequence[str], terms: Terms) -> list[str]:
    """The contenders that did worse in the race, but were hardly tried, in a sentence."""
    if not few:
        return []
    counts = [f"{name} ({terms.searched[name]:,} searched)" for name in few]
    it = "it" if len(few) == 1 else "them"
    return [f"{race.remaining[0]} did better in the race than {listed(counts)}: too few settings to call {it} worse."]


def _seeds_needed(race: Race, terms: Terms) -> list[str]:
    if not race.seeds_needed:
        return []
    num_seeds = len(race.scores[race.remaining[0]])
    if race.seeds_needed <= num_seeds:  # so many were run, and separated nothing
        return [f"The difference is smaller than {num_seeds} seeds can show."]
    return [f"About {race.seeds_needed:,} seeds would show a difference of {terms.margin}."]


def _ranking_text(ranking: Ranking | None, state: RunState) -> str:
    if ranking is None and not state.is_finished:
        return "Optimizers are not ranked yet." if state.studies is not None else "Optimizers are not ranked."
    if ranking is None and state.studies is not None:
        return (
            "Optimizers were not ranked: the time was over before the first test of the studies. Ask with --budget "
            "8x24trials, or give more time."
        )
    if ranking is None:
        return "Optimizers were not ranked: ask with --budget 8x24trials, or give more time."
    studies = max(len(scores) for scores in ranking.scores.values())
    start = f"If each optimizer is tuned anew in {studies} independent studies, {listed(ranking.remaining)}"
    text = f"{start} is best" if len(ranking.remaining) == 1 else f"{start} are not told apart"
    dropped = [name for names in ranking.dropped for name in names]
    if dropped:
        text += f", and {listed(dropped)} {'is' if len(dropped) == 1 else 'are'} shown to be worse"
    is_cut = state.is_finished and state.studies is not None and studies < state.studies and len(ranking.remaining) > 1
    return f"{text}.{f' The time was over before {state.studies} studies.' if is_cut else ''}"
