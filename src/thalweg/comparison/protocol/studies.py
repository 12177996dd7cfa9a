"""Studies, which rank the optimizers: each is one search with its own random draws, a choice and an evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from thalweg import statistics
from thalweg.comparison.protocol.design import PROPOSAL_ROUNDS, Design
from thalweg.comparison.protocol.trial import (
    RunTrials,
    SettingId,
    TrialRequest,
    TrialScore,
    evaluation_scores,
    flatten,
    seed_requests,
)

# The pool of a contender holds settings of so many studies. A larger pool would favour contenders that stay longer.
POOLED_STUDIES = 8

StudyId = tuple[str, int]  # the name of a contender and the number of its study


@dataclass(frozen=True)
class Ranking:
    """The answer to question O, which optimizer.

    Attributes:
        scores: The evaluation score of each study, by contender.
        dropped: The contenders that each interim analysis showed to be worse.
        remaining: All others, the best mean first.
    """

    scores: dict[str, list[float]]
    dropped: list[list[str]]
    remaining: list[str]


class Studies:
    """The studies of all contenders so far."""

    def __init__(self, design: Design, draws: Mapping[str, int], run_trials: RunTrials) -> None:
        self.design, self.draws, self.run_trials = design, draws, run_trials
        self.pools: dict[str, list[tuple[float, SettingId]]] = {name: [] for name in draws}
        self.evaluations: dict[str, list[float]] = {name: [] for name in draws}
        self.num_done = 0

    def extend_to(self, count: int, names: Sequence[str]) -> None:
        """Run studies of these contenders until each has `count`. A stage is requested for all studies at once."""
        studies = [(name, study) for name in names for study in range(self.num_done, count)]
        winners = self._choose(self._search(studies))
        if self.design.ranking:
            self._evaluate(winners)
        self.num_done = count

    def _search(self, studies: Sequence[StudyId]) -> dict[StudyId, list[tuple[float, TrialRequest]]]:
        """Train the drawn and proposed settings; return the best of each study, each with its selection score."""
        requests: dict[StudyId, list[TrialRequest]] = {study_id: [] for study_id in studies}
        scores: dict[TrialRequest, TrialScore] = {}
        for number in range(1 + PROPOSAL_ROUNDS if self.design.refined else 1):
            new = {
                (name, study): [
                    TrialRequest("search", name, study, trial, ("search", study, 0))
                    for trial in self.design.rounds(self.draws[name])[number]
                ]
                for name, study in studies
            }
            scores |= self.run_trials(flatten(new.values()))
            requests = {study_id: requests[study_id] + new[study_id] for study_id in studies}
        return {
            study_id: sorted(
                ((scores[request].selection_score, request) for request in searched),
                key=lambda pair: (pair[0], pair[1].trial),
            )[: self.design.retrained]
            for study_id, searched in requests.items()
        }

    def _choose(self, best: Mapping[StudyId, Sequence[tuple[float, TrialRequest]]]) -> dict[StudyId, int]:
        """Retrain the best settings of each study from fresh seeds; return the trial that wins each study."""
        retrain_requests = {
            (name, study, searched.trial): [
                TrialRequest("retrain", name, study, searched.trial, ("retrain", study, k))
                for k in range(self.design.reseeds)
            ]
            for (name, study), candidates in best.items()
            for _, searched in candidates
        }
        scores = self.run_trials(flatten(retrain_requests.values()))
        winners = {}
        for (name, study), candidates in best.items():
            scored = []
            for search_score, searched in candidates:
                # Without the seed of the search: a setting that looked best there was lucky, too.
                retrained = retrain_requests[name, study, searched.trial]
                score = (
                    statistics.mean(scores[request].selection_score for request in retrained)
                    if retrained
                    else search_score
                )
                scored.append((score, SettingId(study, searched.trial)))
            if study < POOLED_STUDIES:
                self.pools[name] += scored
            winners[name, study] = min(scored)[1].trial
        return winners

    def _evaluate(self, winners: Mapping[StudyId, int]) -> None:
        """Train the winner of each study from fresh seeds, and note its mean evaluation score."""
        requests = {
            (name, study): [
                TrialRequest("judge", name, study, trial, ("judge", study, k)) for k in range(self.design.judged)
            ]
            for (name, study), trial in winners.items()
        }
        scores = self.run_trials(flatten(requests.values()))
        for (name, _), evaluated in requests.items():
            self.evaluations[name].append(statistics.mean(evaluation_scores(evaluated, scores)))


def rank(design: Design, names: Sequence[str], studies: Studies) -> Ranking:
    """Run studies, and drop the optimizers that each interim analysis shows to be worse."""
    remaining, dropped = list(names), []
    for analysis in design.ranking:
        studies.extend_to(analysis.size, remaining)
        remaining, worse = statistics.drop({name: studies.evaluations[name] for name in remaining}, analysis.alpha)
        dropped.append(worse)
        if len(remaining) == 1:
            break
    return Ranking(studies.evaluations, dropped, remaining)


def choose_settings(
    design: Design, names: Sequence[str], studies: Studies, run_trials: RunTrials
) -> dict[str, SettingId]:
    """Return the setting of each contender that races: the best of its pool, on fresh seeds if there are finalists."""
    pools = {name: [setting for _, setting in sorted(studies.pools[name])] for name in names}
    if not design.finalists:
        return {name: pool[0] for name, pool in pools.items()}
    requests = {
        (name, setting): seed_requests("final", name, setting, range(design.refinals))
        for name, pool in pools.items()
        for setting in pool[: design.finalists]
    }
    scores = run_trials(flatten(requests.values()))
    candidates: dict[str, list[tuple[float, SettingId]]] = {name: [] for name in names}
    for (name, setting), trained in requests.items():
        candidates[name].append((statistics.mean(scores[request].selection_score for request in trained), setting))
    return {name: min(scored)[1] for name, scored in candidates.items()}
