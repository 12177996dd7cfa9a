"""Executor of studies: answers the requests of a ranking by training, or from the store."""

from collections.abc import Sequence

from thalweg.comparison.contenders.contender import Settings
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.planning.proposals import propose
from thalweg.comparison.planning.seeds import derive
from thalweg.comparison.protocol.trial import RECOMMENDED, START, TrialRequest, TrialScore
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.results.scoring import ScaleChangedError, trial_score
from thalweg.comparison.results.stored_findings import MissingTrialError, key_of
from thalweg.comparison.training.pruning import Rungs, rungs_of
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.trial_runner import Pruning, Training, TrialRunner


class StudyExecutor:
    """Answers the requests of studies by training, or from the store.

    Args:
        runner: Trains and stores.
        stop_at_s: Reading of the clock at which the studies end; None for the end of the budget.
    """

    def __init__(self, runner: TrialRunner, stop_at_s: float | None = None) -> None:
        self._runner, self._stop_at_s = runner, stop_at_s
        design = runner.plan.studies
        assert design is not None
        self._design = design
        self._settings_of_study: dict[tuple[str, int], list[Settings]] = {}

    @property
    def _plan(self) -> ComparisonPlan:
        return self._runner.plan

    def run_trials(self, requests: Sequence[TrialRequest]) -> dict[TrialRequest, TrialScore]:
        """Return the scores of the requested trainings. Those that are not stored yet are trained now.

        Raises:
            TaskError: If every training of the comparison so far has failed.
            MissingTrialError: If the time was over before all of them had ended.
            ScaleChangedError: If a value requires another scale, which the plan of the runner has then.
        """
        pruning = Pruning(self._study_of, self._rungs) if self._are_pruned(requests) else None
        for wave in self._waves(requests):
            trainings = [self._training(request) for request in wave]
            self._runner.train(trainings, pruning=pruning, stop_at_s=self._stop_at_s)
        if self._runner.scale_changed():
            raise ScaleChangedError
        scores = {}
        for request in requests:
            key = key_of(request, self._plan)
            if key not in self._runner.trials:
                raise MissingTrialError(key)
            scores[request] = trial_score(self._runner.trials[key], self._plan)
        return scores

    def _are_pruned(self, requests: Sequence[TrialRequest]) -> bool:
        return self._design.pruned and any(request.stage == "search" for request in requests)

    def _waves(self, requests: Sequence[TrialRequest]) -> list[Sequence[TrialRequest]]:
        """Requests that do not wait for one another. Pruning compares trainings with earlier ones of their study."""
        if not self._are_pruned(requests):
            return [requests]
        waves: dict[int, list[TrialRequest]] = {}
        for request in requests:
            number = request.trial // self._plan.execution_modes[request.contender].members
            waves.setdefault(number, []).append(request)
        return [waves[number] for number in sorted(waves)]

    def _training(self, request: TrialRequest) -> Training:
        key = key_of(request, self._plan)
        return Training(self._runner.contenders[request.contender], Trial(self._settings(request), key.seed), key)

    def _study_of(self, training: Training) -> tuple[str, int]:
        return training.key.contender, training.key.study

    def _rungs(self, first: Training, schedule: TrainingSchedule) -> Rungs:
        """The rungs of trainings of one study, with the losses of all trials before the first of them."""
        split = self._plan.selected_on
        losses: dict[int, list[float]] = {step: [] for step in rungs_of(schedule)}
        for trial in self._search_trials(first.key.contender, first.key.study):
            for evaluation in trial.result.evaluations:
                if evaluation.step in losses and trial.trial < first.key.trial:
                    losses[evaluation.step].append(getattr(evaluation, split))
        return Rungs(split, losses, self._plan.maximize)

    def _settings(self, request: TrialRequest) -> Settings:
        """The settings of a request: none at the start, the recommended ones, or those of a trial of a search."""
        if request.trial == START.trial:
            return {}
        contender = self._runner.contenders[request.contender]
        if request.trial == RECOMMENDED.trial:
            return dict(contender.recommended)
        key = (request.contender, request.study)
        if key not in self._settings_of_study:
            self._settings_of_study[key] = self._plan.draw_settings(contender, request.study)
        settings = self._settings_of_study[key]
        while request.trial >= len(settings):
            settings += self._propose(request, len(settings))
        return settings[request.trial]

    def _propose(self, request: TrialRequest, first: int) -> list[Settings]:
        """The settings of the round that begins with trial `first`, which follow from all trials before it."""
        rounds = self._design.rounds(self._plan.draws[request.contender])
        number = next(k for k, trials in enumerate(rounds) if trials and trials.start == first)
        count = len(rounds[number])
        study = self._search_trials(request.contender, request.study)
        stored = [trial.settings for trial in study if first <= trial.trial < first + count]
        if len(stored) == count:
            return stored
        contender = self._runner.contenders[request.contender]
        return propose(
            self._plan.space_of(contender),
            self._scored_settings([trial for trial in study if trial.trial < first]),
            count,
            seed=derive(self._plan.seed, f"proposals/{contender.name}/{request.study}", first),
            number=number - 1,
        )

    def _scored_settings(self, trials: Sequence[TrialRecord]) -> list[tuple[Settings, float]]:
        """The settings of trials with their selection scores; a pruned trial counts as the worst completed one."""
        scores = [trial_score(trial, self._plan).selection_score for trial in trials]
        completed = [score for trial, score in zip(trials, scores, strict=True) if trial.result.status == "ok"]
        return [
            (trial.settings, max(completed) if trial.result.status == "pruned" and completed else score)
            for trial, score in zip(trials, scores, strict=True)
        ]

    def _search_trials(self, contender: str, study: int) -> list[TrialRecord]:
        """The search trials of a study so far, in their order."""
        prefix = ("search", contender, study)
        trials = (
            trial for key, trial in self._runner.trials.items() if (key.stage, key.contender, key.study) == prefix
        )
        return sorted(trials, key=lambda trial: trial.trial)
