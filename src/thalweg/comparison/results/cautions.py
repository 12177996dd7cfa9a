"""Cautions: what a reader should know before trusting the verdict, in sentences."""

import math
from collections.abc import Iterator, Sequence

from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.planning.search import order_opened_by
from thalweg.comparison.results.records import ComparisonRecord
from thalweg.comparison.results.summary import Estimate, Summary, scores_of
from thalweg.comparison.results.verdict import Verdict

FEW_TRIALS = 16  # below that, neighbouring learning rates are a factor of two and more apart


def cautions(
    header: ComparisonRecord, plan: ComparisonPlan, summaries: Sequence[Summary], verdict: Verdict, reference: str
) -> list[str]:
    """All that apply; `reference` names what counts as untrained."""
    measured, is_function = header.task["measured"], header.task["passes"] is None
    found = [*_of_the_search(plan, summaries, measured), *_of_the_task(plan, summaries, is_function=is_function)]
    leader = summaries[0]
    if math.isfinite(leader.example_error):
        share = leader.example_error / abs(leader.value.mean)
        found.append(
            f"Intervals are over seeds. Over the test examples the standard error of {leader.name} is "
            f"{leader.example_error:.2g} ({share:.0%} of its value): on new data values may differ by that much."
        )
    if plan.target is None:
        found += [
            f"{one.name} ended no better than {reference} on {one.value.unlearnt} of {one.value.of} seeds"
            + (f", {one.value.lost} of them lost, so that its value is a bound." if one.value.lost else ".")
            for one in summaries
            if one.value.unlearnt
        ]
    elif verdict.recommended is not None or any(one.missed < len(one.seeds) for one in summaries):
        found += [
            f"{one.name} missed the target on {one.missed} of {len(one.seeds)} seeds. They count as a whole "
            "training, so its value is too good."
            for one in summaries
            if one.missed
        ]
    winner = next((one for one in summaries if one.name == verdict.recommended), leader)
    found += [text for one in summaries for text in _untuned(one, winner, plan)]
    return found + [
        f"The best {' and '.join(one.at_edge)} of {one.name} lies at an end of the range searched: "
        "a better one may lie beyond."
        for one in summaries
        if one.at_edge
    ]


def _of_the_search(plan: ComparisonPlan, summaries: Sequence[Summary], measured: dict[str, str]) -> Iterator[str]:
    trials = plan.design.draws
    if trials < FEW_TRIALS:
        opened = "the learning rate alone" if order_opened_by(trials) == 1 else "learning rate and momentum"
        yield (
            f"Few settings were searched ({trials} for each contender, {opened}), so they lie far apart: "
            "a larger budget may change who is best."
        )
    # A study trains from one seed, so what its settings come to differs by the optimizer alone.
    studies: dict[int, set[float]] = {}
    searched = [entry for one in summaries for entry in one.entries["search"]]
    for entry in searched:
        studies.setdefault(entry.study, set()).add(getattr(entry.result, plan.selected_on))
    same = [next(iter(losses)) for losses in studies.values() if len(losses) == 1]
    if len(searched) > len(studies) == len(same) and all(map(math.isfinite, same)):
        yield (
            f"All {len(searched)} settings gave the same {measured[plan.selected_on]}, {same[0]:.4g}: the optimizer "
            "has no influence. See that its step is taken, on the parameters that are measured."
        )


def _of_the_task(plan: ComparisonPlan, summaries: Sequence[Summary], *, is_function: bool) -> Iterator[str]:
    least = min(one.train_loss for one in summaries)
    if plan.optimum is not None and least < plan.optimum - 1e-3 * abs(plan.optimum) - 1e-6:
        yield f"A training loss of {least:.4g} is below the optimum that the task states, {plan.optimum:.4g}."
    for one in () if is_function else summaries:
        switch_at, ended_at = one.settings.get("switch_at"), plan.schedules[one.name].steps
        if switch_at is not None and switch_at >= ended_at:
            yield (
                f"{one.name} goes on to its second rule after step {switch_at:g}, and trainings end at {ended_at}: "
                f"that never ran. Give a step, as switch_at={ended_at // 2}."
            )
    results = [entry.result for one in summaries for entries in one.entries.values() for entry in entries]
    ended = [result for result in results if result.status == "ok"]
    if is_function and plan.target is None and ended and all(one.test == one.validation for one in ended):
        yield (
            "The reported value both chose the settings and judges them, so it may be too good. "
            "Report one on data that no choice has seen, too: report(value, test=...)."
        )


def _untuned(one: Summary, winner: Summary, plan: ComparisonPlan) -> Iterator[str]:
    """What an untuned point does better than the winner's tuned value, or than what was chosen for the same contender.

    Better than the winner's by more than is too small to matter is worth saying even where intervals overlap: a reader
    sees both numbers side by side.
    """
    points = {"its defaults": ("start", one.untuned), "its starting point": ("recommended", one.recommended)}
    for where, (stage, point) in points.items():
        for tuned in (winner, one):
            if point is None or (tuned is one and _is_what_was_chosen(one, stage, plan)):
                continue
            surely = point.high < tuned.value.low
            if not (surely or (tuned is winner and _better(point, tuned.value, plan))):
                continue
            searched = f"the best of the {len(tuned.entries['search']):,} settings searched"
            chosen = searched if tuned is one else f"{tuned.name} at {searched}"
            chance = "" if surely else " The intervals overlap, so it may be chance."
            yield (
                f"Untuned, {one.name} was measured better at {where} ({point.mean:.4g}) than {chosen} "
                f"({tuned.value.mean:.4g}): the search did not find the best there is.{chance}"
            )
            break


def _is_what_was_chosen(one: Summary, stage: str, plan: ComparisonPlan) -> bool:
    """Whether a point is the chosen setting itself: from the same seeds it comes to the same."""
    seeds = {entry.seed for entry in one.entries[stage]}
    beside = [entry for entry in one.entries["race"] if entry.seed in seeds]
    pairs = zip(scores_of(one.entries[stage], plan), scores_of(beside, plan), strict=True)
    return all(math.isclose(here, there, rel_tol=1e-5) for here, there in pairs)


def _better(point: Estimate, value: Estimate, plan: ComparisonPlan) -> bool:
    """Whether the mean of one value is less than the other's by more than the margin."""
    scale = plan.scale
    ours, theirs = (scale.measured(found.mean, plan.judged_on) for found in (point, value))
    # A bound may lie anywhere above.
    return not point.lost and theirs - ours > scale.margin(ours)
