"""Cautions: facts that a reader should know before trusting the verdict. Each caution is a function of its own."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from thalweg.comparison.planning.search import order_opened_by
from thalweg.comparison.protocol.design import SettingDesign
from thalweg.comparison.results.checks.preferences import preferred_on_validation
from thalweg.comparison.results.checks.same_value import MAX_CHANCE, find_same_value
from thalweg.comparison.results.checks.softening import on_seeds
from thalweg.comparison.results.checks.unraced_rivals import better_unraced
from thalweg.comparison.results.estimate import Estimate
from thalweg.comparison.results.functions.equal_seeds import EqualSeeds
from thalweg.comparison.results.functions.late_settings import find_late
from thalweg.comparison.results.functions.unused_settings import cure_of_replaced, find_unused
from thalweg.comparison.results.records import ComparisonRecord
from thalweg.comparison.results.scoring import unclipped_scores
from thalweg.comparison.results.summary import Summary
from thalweg.comparison.results.terms import difference, name_of_measure, name_of_metric, percent
from thalweg.comparison.results.verdict import Verdict

FEW_TRIALS = 16  # below that, neighbouring learning rates are a factor of two and more apart


def cautions(
    record: ComparisonRecord,
    summaries: Sequence[Summary],
    verdict: Verdict,
    untrained_name: str,
    equal_seeds: EqualSeeds | None = None,
) -> list[str]:
    """Return all cautions that apply, in sentences.

    Args:
        record: The comparison.
        summaries: The results of its contenders, the leader of the race first.
        verdict: Its verdict.
        untrained_name: The words for the untrained model.
        equal_seeds: The settings whose seeds all give the same values; None if any setting's seeds differ.
    """
    winner = next((summary for summary in summaries if summary.name == verdict.recommended), summaries[0])
    return [
        *(_splits_disagree(record, summaries, winner) if verdict.recommended is not None else ()),
        *(_better_without_race(record, summaries, winner) if verdict.recommended is not None else ()),
        *_few_settings(record, summaries),
        *_no_influence(record, summaries),
        *_unused_settings(summaries),
        *(() if equal_seeds is None else _seeds_change_nothing(record, equal_seeds)),
        *_below_optimum(record, summaries),
        *_second_rule_unused(record, summaries),
        *_no_test_value(record, summaries),
        *_no_data_of_its_own(record),
        *_scale_changed(record),
        *_few_test_examples(record, summaries[0]),
        *(() if verdict.settled == "unended" else _no_improvement(record, summaries, untrained_name)),
        *_missed_target(record, summaries, verdict),
        *_reasons_of_losses(summaries),
        *(caution for summary in summaries for caution in _better_untuned(record, summary, winner)),
        *_at_edge(summaries),
    ]


def _reasons_of_losses(summaries: Sequence[Summary]) -> Iterator[str]:
    """Say why trainings of the race diverged or learnt nothing, as far as their first steps show it."""
    for summary in summaries:
        lost = [trial for trial in summary.raced if trial.result.message and trial.result.status != "failed"]
        reasons = Counter(trial.result.message for trial in lost)
        if reasons:
            reason, _ = reasons.most_common(1)[0]
            did = "diverged" if any(trial.result.status == "diverged" for trial in lost) else "learned nothing"
            seeds = f"{len(lost)} of {len(summary.raced)} seeds"
            yield f"{summary.name}: {seeds} {did}. Its first steps show why: {reason}."


def _splits_disagree(record: ComparisonRecord, summaries: Sequence[Summary], winner: Summary) -> Iterator[str]:
    preferences = preferred_on_validation(record, summaries, winner)
    if preferences:
        in_words = record.plan.scale.worse_by_in_words
        shown = ", ".join(f"{preference.name} by {in_words(preference.by)}" for preference in preferences)
        yield (
            f"The splits disagree: on the validation split {winner.name} is shown to be worse than {shown}, over the "
            f"same {preferences[0].seeds} seeds; on the test split it is not. With other data either may be better. "
            "Take larger splits."
        )


def _better_without_race(record: ComparisonRecord, summaries: Sequence[Summary], winner: Summary) -> Iterator[str]:
    for rival in better_unraced(record, summaries, winner):
        by = difference(record.plan.scale.worse_by_in_words(rival.by), rival.by)
        yield (
            f"{rival.name} did not race, but {on_seeds(rival.seeds)} it is {by} than {winner.name} "
            f"({name_of_metric(record)}): more than the {rival.spread_seeds} seeds of {winner.name} make likely. "
            f"Compare the two alone: --with {winner.name},{rival.name}"
        )


def _few_settings(record: ComparisonRecord, summaries: Sequence[Summary]) -> Iterator[str]:
    ended = [trial.result.status for summary in summaries for trial in summary.trials["search"]]
    if ended and "ok" not in ended:
        return  # more of the same would be lost, too
    design = record.plan.design
    if isinstance(design, SettingDesign):
        searched = sum(trial.result.status != "stopped" for summary in summaries for trial in summary.trials["search"])
        if 0 < searched < FEW_TRIALS:
            settings = "1 setting was" if searched == 1 else f"{searched} settings were"
            yield f"Only {settings} searched, of all contenders together. A larger budget may find a better one."
        return
    trials = design.draws
    if trials == 1:
        yield "Only 1 setting was trained for each contender. A larger budget may change the best contender."
    elif trials < FEW_TRIALS:
        searched_words = "the learning rate alone" if order_opened_by(trials) == 1 else "learning rate and momentum"
        yield (
            f"Only {trials} settings were searched for each contender ({searched_words}), so neighbouring settings lie "
            "far apart. A larger budget may change the best contender."
        )


def _no_influence(record: ComparisonRecord, summaries: Sequence[Summary]) -> Iterator[str]:
    split = record.plan.selected_on
    measured = record.workload.measured[split]
    searched = [trial for summary in summaries for trial in summary.trials["search"]]
    same = find_same_value(searched, split)
    if same is not None:
        yield (
            f"All {len(searched)} settings gave the same {measured}, {same:.4g}: the optimizer has no influence. Check "
            "that its step is taken, on the parameters that are measured, or ask thalweg doctor."
        )
        return
    for summary in summaries:
        trials = summary.trials["search"]
        same = find_same_value(trials, split)
        if same is not None and len(trials) > MAX_CHANCE:
            yield (
                f"All {len(trials)} settings of {summary.name} gave the same {measured}, {same:.4g}: those that were "
                "searched have no influence on it."
            )


def _unused_settings(summaries: Sequence[Summary]) -> Iterator[str]:
    searched = [trial for summary in summaries for trial in summary.trials["search"]]
    for unused in find_unused(searched):
        yield (
            f"The training does not use {unused.setting} of {' and '.join(unused.contenders)}, which was searched from "
            f"{unused.low:.3g} to {unused.high:.3g}{unused.where}. {cure_of_replaced(unused.setting)}"
        )
    for late in find_late(searched):
        where = f": {late.line} sets it" if late.line else ""
        yield (
            f"The training uses {late.setting} of {' and '.join(late.contenders)}, which was searched from "
            f"{late.low:.3g} to {late.high:.3g}, only at its beginning. From {late.unit} {late.step:,} of "
            f"{late.steps:,} at the latest, all trainings use the same{where}. {cure_of_replaced(late.setting)}"
        )


def _seeds_change_nothing(record: ComparisonRecord, equal: EqualSeeds) -> Iterator[str]:
    who = "the task seeds itself"
    if record.workload.is_function:
        line = f" ({equal.line} makes its optimizer)" if equal.line else ""
        who = f"the training function{line} seeds itself"
    settings = "1 setting was" if equal.settings == 1 else f"{equal.settings} settings were"
    yield (
        f"The seeds change nothing: {settings} trained from up to {equal.seeds} seeds, always with the same values. "
        f"The values show no spread between seeds and hold for one seed only. If {who}, with torch.manual_seed or a "
        "generator, remove that: Python's, NumPy's and torch's random numbers are seeded before each training, and a "
        "generator gets that seed by torch.Generator().manual_seed(torch.initial_seed())."
    )


def _below_optimum(record: ComparisonRecord, summaries: Sequence[Summary]) -> Iterator[str]:
    optimum = record.plan.optimum
    least = min(summary.train_loss for summary in summaries)
    if optimum is not None and least < optimum - 1e-3 * abs(optimum) - 1e-6:
        yield f"A training loss of {least:.4g} is below the optimum that the task states, {optimum:.4g}."


def _second_rule_unused(record: ComparisonRecord, summaries: Sequence[Summary]) -> Iterator[str]:
    if record.workload.is_function:  # its number of steps is unknown
        return
    for summary in summaries:
        switch_at, steps = summary.settings.get("switch_at"), record.plan.schedules[summary.name].steps
        if switch_at is not None and switch_at >= steps:
            yield (
                f"{summary.name} switches to its second rule after step {switch_at:g}, but trainings end after step "
                f"{steps}, so that rule never ran. Set a smaller step, such as switch_at={steps // 2}."
            )


def _no_data_of_its_own(record: ComparisonRecord) -> Iterator[str]:
    """Caution if the data that evaluate are those that chose, or those that were trained on."""
    sources = record.workload.sources
    if record.plan.selected_on == "train":  # the optimum is known: all splits are the training data on purpose
        return
    words = {"train": "training", "validation": "validation", "test": "test"}
    chose = words[sources.get("validation", "validation")]
    if record.plan.target is None and "test" in sources:
        learnt = " A low value may mean that the model has learnt its examples by heart." if chose == "training" else ""
        yield (
            f"There are no test data: the {chose} data both chose the settings and evaluate them, so the values may be "
            f"too good.{learnt} Pass thalweg.Splits(train, validation, test)."
        )
    elif "validation" in sources:
        evaluate = "" if record.plan.target is not None else ", and the test data evaluate them"
        yield (
            f"There are no validation data: the training data chose the settings{evaluate}. They favour settings that "
            "fit the training data too closely. Pass thalweg.Splits(train, validation, test)."
        )


def _scale_changed(record: ComparisonRecord) -> Iterator[str]:
    scale = record.plan.scale
    if scale.is_forced_linear:
        assert scale.span is not None
        yield (
            f"Values are compared by their differences: the least, {scale.span[0]:.4g}, has no logarithm. "
            "A difference is the same at all values, large or small."
        )


def _no_test_value(record: ComparisonRecord, summaries: Sequence[Summary]) -> Iterator[str]:
    if not record.workload.is_function or record.plan.target is not None:
        return
    results = [trial.result for summary in summaries for trials in summary.trials.values() for trial in trials]
    ended = [result for result in results if result.status == "ok"]
    if ended and all(result.test == result.validation for result in ended):
        yield (
            f"The {name_of_measure(record, 'validation')} both chose the settings and evaluates them, so it may be too "
            "good. "
            "Also report a value on data that no choice has used: report(value, test=...)."
        )


def _few_test_examples(record: ComparisonRecord, leader: Summary) -> Iterator[str]:
    if math.isfinite(leader.example_error):
        mean = abs(leader.value.mean)
        is_share = record.plan.scale.worse_by_is_share and math.isfinite(mean) and mean > 0
        share = f" ({percent(leader.example_error / mean)} of its value)" if is_share else ""
        examples = record.workload.sources.get("test", "test")
        yield (
            f"Intervals are over seeds. The standard error of {leader.name} over the {examples} examples is "
            f"{leader.example_error:.2g}{share}. On new data, values may differ by that much."
        )


def _no_improvement(record: ComparisonRecord, summaries: Sequence[Summary], untrained_name: str) -> Iterator[str]:
    if record.plan.target is not None or all(summary.value.lost == summary.value.count for summary in summaries):
        return  # the verdict says so
    untrained = record.plan.scale.untrained.get(record.plan.judged_on)
    bound = "" if untrained is None else f", {untrained:.4g},"
    for summary in summaries:
        value = summary.value
        if value.unimproved <= value.failed:
            continue
        if not record.plan.scale.has_start:
            counts = f": each counts as {untrained_name}{bound.rstrip(',')}" if value.lost < value.count else ""
            yield f"{summary.name} was lost on {value.lost} of {value.count} seeds{counts}."
            continue
        lost = f"; {value.lost_in_words}, so its value is a bound" if value.lost else ""
        yield (
            f"{summary.name} ended no better than {untrained_name}{bound} on {value.unimproved} of "
            f"{value.count} seeds{lost}."
        )


def _missed_target(record: ComparisonRecord, summaries: Sequence[Summary], verdict: Verdict) -> Iterator[str]:
    if record.plan.target is None:
        return
    if verdict.recommended is None and all(summary.missed == len(summary.seeds) for summary in summaries):
        return  # the verdict says so
    for summary in summaries:
        if summary.missed:
            yield (
                f"{summary.name} missed the target on {summary.missed} of {len(summary.seeds)} seeds. Each of them "
                "counts as a whole training, so the value is too good."
            )


def _better_untuned(record: ComparisonRecord, summary: Summary, winner: Summary) -> Iterator[str]:
    """Caution if an untuned point beats the winner's tuned value, or the contender's own, in a comparison by studies.

    An adaptive search chooses an untuned point that was measured better.

    A mean that is better than the winner's by more than the margin is worth a caution even if the intervals overlap,
    because a reader sees both numbers side by side.
    """
    if isinstance(record.plan.design, SettingDesign):
        return
    untuned = {"its defaults": ("start", summary.untuned), "its starting point": ("recommended", summary.recommended)}
    for place, (stage, point) in untuned.items():
        for tuned in (winner, summary):
            if point is None or (tuned is summary and _is_chosen_setting(record, summary, stage)):
                continue
            surely = point.is_surely_better(tuned.value)
            if not (surely or (tuned is winner and _is_clearly_better(record, point, tuned.value))):
                continue
            best = f"the best of the {len(tuned.trials['search']):,} settings searched"
            rival = best if tuned is summary else f"{tuned.name} at {best}"
            chance = "" if surely else " The intervals overlap, so this may be chance."
            yield (
                f"Untuned, {summary.name} was measured better at {place} ({point.mean:.4g}) than {rival} "
                f"({tuned.value.mean:.4g}). The search did not find the best settings.{chance}"
            )
            break


def _is_chosen_setting(record: ComparisonRecord, summary: Summary, stage: str) -> bool:
    """Return True if an untuned point is the chosen setting: from the same seeds its scores are the same."""
    seeds = {trial.seed for trial in summary.trials[stage]}
    beside = [trial for trial in summary.trials["race"] if trial.seed in seeds]
    pairs = zip(
        unclipped_scores(summary.trials[stage], record.plan), unclipped_scores(beside, record.plan), strict=True
    )
    return all(math.isclose(untuned, raced, rel_tol=1e-5) for untuned, raced in pairs)


def _is_clearly_better(record: ComparisonRecord, point: Estimate, value: Estimate) -> bool:
    """Return True if the mean of one estimate is better than another's by more than the margin."""
    scale, split = record.plan.scale, record.plan.judged_on
    if not math.isfinite(point.mean) or not math.isfinite(value.mean):
        return math.isfinite(point.mean)
    score, reference = (scale.unclipped_score(estimate.mean, split) for estimate in (point, value))
    # The mean with lost seeds is a bound, and may lie anywhere beyond.
    return not point.lost and reference - score > record.plan.margin(score)


def _at_edge(summaries: Sequence[Summary]) -> Iterator[str]:
    for summary in summaries:
        for edge in summary.at_edge:
            beyond = "below" if edge.end == "lower" else "above"
            end = f"the {edge.end} end of its search range ({edge.limit:g})"
            yield (
                f"{summary.name}: the best {edge.setting}, {edge.value:g}, is at {end}. "
                f"A better value may lie {beyond}."
            )
