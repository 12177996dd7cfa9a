"""SettingSource: trains what an adaptive search for a setting requests, until the budget is spent."""

import math
from collections.abc import Sequence

from thalweg.comparison.contenders.contender import Settings
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.planning.adaptive.candidates import Tried
from thalweg.comparison.planning.adaptive.proposals import propose_trials
from thalweg.comparison.planning.adaptive.search_space import search_space_of
from thalweg.comparison.planning.budget import Budget
from thalweg.comparison.planning.clock import Speed
from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.protocol.design import SettingDesign
from thalweg.comparison.protocol.trial import TrialRequest, TrialScore
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.results.scoring import ScaleChangedError, trial_score
from thalweg.comparison.results.stored_findings import LATER_STAGES, key_of_setting
from thalweg.comparison.training.pruning import HopelessRungs, Rungs, stop_steps
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.trial_runner import Pruning, Training, TrialRunner

FIRST_SHARE = 0.5  # of the time that is left: if no first training has ended by then, the others get the rest


class SettingSource:
    """Trains what an adaptive search requests, until the budget is spent: a ``TrialSource``.

    Trainings that are stored are handed out again without training. With a budget in trainings, steps or passes the
    proposals are made anew from the scores before them, so a resumed search is the search that was interrupted. With a
    budget in seconds the stored proposals are handed out first, since their number depended on the time.

    Args:
        runner: Trains and stores.
        known: Contenders and settings that are searched after the starting points: the best of a ranking's studies.
        repeats: False to hand out what is stored first, also if the budget is counted: scores have changed.

    Attributes:
        capacity: The number of trainings that run at once.
    """

    def __init__(
        self, runner: TrialRunner, known: Sequence[tuple[str, Settings]] = (), *, repeats: bool = True
    ) -> None:
        self._runner, self._known = runner, list(known)
        self._repeats = repeats and runner.clock.budget_s is None
        modes = runner.plan.execution_modes.values()
        self.capacity = runner.plan.num_workers * max(mode.members for mode in modes)
        self._spaces = [
            search_space_of(contender, runner.plan.ranges.get(name)) for name, contender in runner.contenders.items()
        ]
        self._settings: dict[tuple[str, int], Settings] = {}
        self._used: list[TrialRecord] = []  # handed out in this session, in order
        self._is_searching = True
        self._ignores_later = False  # stored trainings of later stages, since the search goes on after them
        self._set_speed()

    def _set_speed(self) -> None:
        modes = self._plan.execution_modes.values()
        self._speed = Speed(
            predicted_s=sum(mode.seconds(mode.members) / mode.members for mode in modes) / len(modes),
            predicted_latency_s=self._plan.num_workers * max(mode.seconds(1) for mode in modes),
        )

    @property
    def _plan(self) -> ComparisonPlan:
        return self._runner.plan

    @property
    def _budget(self) -> Budget:
        assert self._plan.budget is not None
        return self._plan.budget

    # --- the first trainings ----------------------------------------------------------------------------------------

    def run_first(self) -> list[TrialRecord]:
        """Train starting points until a training has ended well, and return their results in order.

        One that diverges measures neither the scale nor the speed. If no training ends in half of the time that is
        left, the others are tried in equal parts of the rest, and all are stopped where they are then.
        """
        pending = propose_trials(self._spaces, [], len(self._spaces), seed=self._plan.seed)
        capacity = 1 if self._budget.is_ranking else self.capacity  # the studies train their own
        results: list[TrialRecord] = []
        while pending and not any(trial.result.is_sound for trial in results):
            wave, pending = pending[:capacity], pending[capacity:]
            share = 1.0
            if pending:
                is_slow = any(trial.result.status == "stopped" for trial in results)
                share = 1 / (1 + math.ceil(len(pending) / capacity)) if is_slow else FIRST_SHARE
            trainings = []
            for contender, number, settings in wave:
                self._settings[contender, number] = settings
                trainings.append(self._training(TrialRequest("search", contender, 0, number, ("search", 0, 0))))
            self._train(trainings, share)
            results += [self._runner.trials[training.key] for training in trainings if self._is_stored(training)]
        return results

    def _train(self, trainings: Sequence[Training], share: float = 1.0) -> None:
        """Train what is not stored, in a share of the time that is left, and note the speed."""
        clock, missing = self._runner.clock, [each for each in trainings if not self._is_stored(each)]
        if not missing:
            return
        start_s, left_s = clock.read(), clock.left_s
        stop_at_s = None if left_s is None or share == 1.0 else start_s + share * left_s
        is_cold = not self._runner.has_trained
        self._runner.train(
            trainings, pruning=self._pruning(), stop_at_s=stop_at_s, keep_stopped=share < 1.0 or not self._used
        )
        whole = sum(self._share_done(self._runner.trials[each.key]) for each in missing if self._is_stored(each))
        predicted_s = self._runner.predicted_s(missing) * whole / len(missing)
        self._speed.add_batch(clock.read() - start_s, predicted_s=predicted_s, is_cold=is_cold)

    def _pruning(self) -> Pruning | None:
        """The rule that stops hopeless trainings of the search; None in later stages, for populations and targets."""
        design = self._plan.design
        is_alone = all(mode.members == 1 for mode in self._plan.execution_modes.values())
        if not (self._is_searching and is_alone and isinstance(design, SettingDesign) and design.stops):
            return None
        if self._plan.target is not None or self._plan.is_provisional:
            return None
        split, maximize = self._plan.selected_on, self._plan.scale.maximize
        completed = [
            trial.result.evaluations for trial in self._used if trial.stage == "search" and trial.result.status == "ok"
        ]

        def rungs(first: Training, schedule: TrainingSchedule) -> Rungs:
            steps = stop_steps(schedule) if self._runner.places_evaluations else []
            return HopelessRungs.after(split, completed, steps, maximize=maximize)

        return Pruning(lambda training: training.key, rungs)  # each training is a job of its own

    # --- the search -------------------------------------------------------------------------------------------------

    def propose(self, count: int) -> list[TrialRequest]:
        """Return at most ``count`` new trials of the search; see ``TrialSource``."""
        searched = [trial for trial in self._used if trial.stage == "search"]
        if not self._repeats:
            waiting = self._waiting()
            search = [trial for trial in waiting if trial.stage == "search"]
            if search or waiting:
                for trial in search[:count]:
                    self._settings[trial.contender, trial.trial] = trial.settings
                return [_search_request(trial.contender, trial.trial) for trial in search[:count]]
        tried = [
            Tried(trial.contender, trial.trial, trial.settings, trial_score(trial, self._plan).selection_score)
            for trial in searched
        ]
        if not tried:
            proposals = propose_trials(self._spaces, [], min(count, len(self._spaces)), seed=self._plan.seed)
        elif self._known:
            batch, self._known = self._known[:count], self._known[count:]
            first = 1 + max(-1, *(trial.trial for trial in searched))
            new = [(name, first + k, settings) for k, (name, settings) in enumerate(batch)]
            return [self._enter(*proposal) for proposal in new]
        else:
            proposals = propose_trials(self._spaces, tried, count, seed=self._plan.seed)
        return [self._enter(*proposal) for proposal in proposals]

    def _enter(self, contender: str, number: int, settings: Settings) -> TrialRequest:
        self._settings[contender, number] = settings
        return _search_request(contender, number)

    def _waiting(self) -> list[TrialRecord]:
        """The stored trials that were not handed out in this session and are whole, in their order."""
        used = {trial.key for trial in self._used}
        study = self._plan.setting_study
        return [
            trial
            for key, trial in self._runner.trials.items()
            if key not in used
            and trial.result.status != "stopped"
            and (
                (trial.stage in LATER_STAGES and not self._ignores_later)
                or (trial.stage == "search" and trial.study == study)
            )
        ]

    def run_trials(self, requests: Sequence[TrialRequest]) -> dict[TrialRequest, TrialScore]:
        """Return the scores of the trainings that ended; see ``TrialSource``.

        Raises:
            ScaleChangedError: If a value requires another scale, which the plan of the runner has then.
        """
        self._is_searching = requests[0].stage == "search" if requests else self._is_searching
        trainings = {request: self._training(request) for request in requests}
        wave = self._affordable(trainings)
        self._train([trainings[request] for request in wave])
        if self._runner.scale_changed():
            raise ScaleChangedError
        scores = {}
        for request in wave:
            trial = self._runner.trials.get(trainings[request].key)
            if trial is not None and trial.result.status != "stopped":
                scores[request] = trial_score(trial, self._plan)
                self._used.append(trial)
        return scores

    def _affordable(self, trainings: dict[TrialRequest, Training]) -> list[TrialRequest]:
        """The first of these requests that the budget pays for; what is stored costs no time."""
        if self._budget.seconds is None:
            return list(trainings)[: int(self.trainings_left() + 1e-9)]
        missing = [request for request, training in trainings.items() if not self._is_stored(training)]
        allowed = missing[: int(self._trainings_in_time())]
        return [request for request in trainings if request not in missing or request in allowed]

    # --- the budget -------------------------------------------------------------------------------------------------

    def trainings_left(self) -> float:
        """Return the number of whole trainings that the budget still pays for; see ``TrialSource``."""
        if self._budget.seconds is not None:
            return self._trainings_in_time() + len(self._waiting())
        steps = max(schedule.steps for schedule in self._plan.schedules.values())
        total = self._budget.in_trainings(len(self._spaces), steps=steps, passes=self._runner.passes)
        if self._budget.trials is not None:
            return max(0.0, total - len(self._used))
        return max(0.0, total - sum(self._share_done(trial) for trial in self._used))

    def trainings_in_all(self) -> float | None:
        """Return the number of trainings that the time pays for in all by the measured speed; None before that."""
        return len(self._used) + self.trainings_left() if self._speed.is_measured else None

    def search_again(self) -> bool:
        """Begin the search again if the time left pays for more of it and for all later stages; return True if so.

        A speed that was measured too low ends the search too early. What is stored is handed out without training.
        """
        design = self._plan.design
        assert isinstance(design, SettingDesign)
        self._is_searching = True
        if not self._speed.is_measured or self._trainings_in_time() < design.reserved + 1:
            self._is_searching = False
            return False
        self._used, self._ignores_later = [], True
        return True

    def _trainings_in_time(self) -> float:
        """Return the number of trainings for which the time suffices; 0 if it does not suffice for one.

        Before the speed is measured, the search may train one batch more: a prediction or a cold training may be far
        too slow.
        """
        left_s, design = self._runner.clock.left_s, self._plan.design
        assert left_s is not None
        trainings = self._trainings_at_speed(left_s)
        if self._is_searching and not self._speed.is_measured and left_s > 0 and isinstance(design, SettingDesign):
            return max(trainings, float(design.reserved + self.capacity))
        return trainings

    def _trainings_at_speed(self, left_s: float) -> float:
        clock, speed = self._runner.clock, self._speed
        if speed.latency_s > left_s + clock.overtime_s:
            return 0.0
        if self._is_searching and isinstance(self._plan.design, SettingDesign):
            # The later stages train few settings at once, and take as long as many would.
            design = self._plan.design
            stages = 2 * (design.final_seeds > 0) + bool(design.race) + (design.value > 0)
            left_s -= max(0.0, stages * speed.latency_s - design.reserved * speed.training_s)
        return max(0.0, left_s / speed.training_s) if speed.training_s > 0 else float(self.capacity)

    def _share_done(self, trial: TrialRecord) -> float:
        """The share of a whole training, which a training that was stopped early has done."""
        if trial.result.status not in ("pruned", "stopped"):
            return 1.0
        steps = self._plan.schedules[trial.contender].steps
        return min(1.0, trial.result.evaluations[-1].step / steps) if trial.result.evaluations else 0.0

    # --- trainings --------------------------------------------------------------------------------------------------

    def _training(self, request: TrialRequest) -> Training:
        key = key_of_setting(request, self._plan)
        stored = self._runner.trials.get(key)
        settings = stored.settings if stored is not None else self._settings[request.contender, request.trial]
        return Training(self._runner.contenders[request.contender], Trial(settings, key.seed), key)

    def _is_stored(self, training: Training) -> bool:
        return training.key in self._runner.trials


def has_ended(trial: TrialRecord) -> bool:
    """Return True if a training ended by itself, and is no failure."""
    return trial.result.status in ("ok", "diverged")


def _search_request(contender: str, number: int) -> TrialRequest:
    return TrialRequest("search", contender, 0, number, ("search", 0, 0))
