"""Trial: a training that the procedure requests, and the scores that it gets back."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple


class SettingId(NamedTuple):
    """The number of a study of a contender, and the number of a trial in its search."""

    study: int
    trial: int


START = SettingId(0, -1)  # the contender's defaults
RECOMMENDED = SettingId(0, -2)  # the settings that thalweg recommends to start from
USER_TRIAL = -3  # the number of the first setting that the user starts from; the second has -4


class TrialRequest(NamedTuple):
    """A request for one training.

    Attributes:
        stage: The purpose of the training: ``search``, ``retrain``, ``judge``, ``final``, ``race``, ``value``,
            ``start`` or ``recommended``.
        contender: The name of the contender.
        study: The study that drew the setting.
        trial: The number of the setting in the study.
        seed: The name of the seed: a stage, a study and an index. All contenders share it.
    """

    stage: str
    contender: str
    study: int
    trial: int
    seed: tuple[str, int, int]


class TrialScore(NamedTuple):
    """The scores of one training. Lower is better.

    Attributes:
        selection_score: The score on the selection split, which chooses settings.
        evaluation_score: The score on the evaluation split, which compares contenders.
        completed: The training ended, did not diverge and met the target if there is one.
        clipped: The training ended worse than the untrained model, so the evaluation score is only a bound.
        stopped: The training was stopped early. It has no result: both scores are those of its last report.
    """

    selection_score: float
    evaluation_score: float
    completed: bool = True
    clipped: bool = False
    stopped: bool = False


RunTrials = Callable[[Sequence[TrialRequest]], Mapping[TrialRequest, TrialScore]]


def seed_requests(stage: str, name: str, setting: SettingId, indices: Iterable[int]) -> list[TrialRequest]:
    """Return requests for one setting from seeds of a stage. All contenders get the same seeds."""
    return [TrialRequest(stage, name, *setting, (stage, 0, index)) for index in indices]


def evaluation_scores(requests: Iterable[TrialRequest], scores: Mapping[TrialRequest, TrialScore]) -> list[float]:
    """Return the evaluation scores of these requests, in their order."""
    return [scores[request].evaluation_score for request in requests]


def flatten(groups: Iterable[Sequence[TrialRequest]]) -> list[TrialRequest]:
    """Return all requests of these groups, in their order."""
    return [request for group in groups for request in group]
