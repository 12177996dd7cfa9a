"""Score scale: how measured values become scores, and how large a difference of scores must be to matter.

Lower scores are better, whether a value is minimized or maximized. Losses differ by factors: if all values are above
zero, their logarithms are compared, and a margin is a share of the value. Other values are compared by differences. A
training that diverged, or that ended worse than the untrained model, counts as the untrained model. So one bad seed is
bad, and cannot hide all others. This holds for choices and tests; a value that is shown is the mean of the values as
they were measured.

The scale is fixed before the first decision. It changes once if a value of zero or below appears, which has no
logarithm: from then on all values of the comparison, earlier ones too, are compared by differences. So the scale is a
function of the plan and of the set of measured values, whatever their order.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import Any, Literal

from thalweg.errors import SettingError

MARGIN = 0.03  # a difference of less than this share of the value is too small to matter
MARGIN_OF_RATES = 0.003  # the same for values between 0 and 1 that are compared by differences: 0.3 points

Kind = Literal["log", "linear"]
Domain = Literal["positive", "rate", "real"]


@dataclass(frozen=True)
class Margin:
    """A difference that is too small to matter.

    Attributes:
        size: The size, above zero.
        is_share: True for a share of the value, False for a difference in the unit of the value.
    """

    size: float
    is_share: bool

    @classmethod
    def parse(cls, margin: "str | float | Margin") -> "Margin":
        """Return the margin that a user writes: ``"3%"`` is a share, ``0.002`` and ``"0.002"`` are differences.

        Raises:
            SettingError: If it is no number above zero, or a share of 100 % or more.

        Example:
            >>> Margin.parse("3 %"), Margin.parse(0.002)
            (Margin(size=0.03, is_share=True), Margin(size=0.002, is_share=False))
        """
        if isinstance(margin, Margin):
            return margin
        number, sign, rest = margin.partition("%") if isinstance(margin, str) else (margin, "", "")
        try:
            size = float("nan" if isinstance(margin, bool) or rest.strip() else number)
        except (TypeError, ValueError):
            size = math.nan
        if not 0 < size < (100 if sign else math.inf):
            raise SettingError(
                f"thalweg: margin must be a share between 0 % and 100 %, or a difference above 0, got {margin!r}. "
                "Write '3%', or 0.002 for a difference in the unit of the values."
            )
        return cls(size / 100, is_share=True) if sign else cls(size, is_share=False)


@dataclass(frozen=True)
class ScoreScale:
    """The map from measured values to scores. Lower scores are better.

    Attributes:
        kind: ``log`` compares the logarithms of values, ``linear`` the values themselves.
        untrained: The value before the first step, by split. No training counts as worse.
        resolution: In stores of earlier versions: a loss below this share of the untrained loss counts as this share of
            it, and the scale never changes. 0 otherwise.
        maximize: True if higher values are better.
        baseline: The value from which a gain is counted, by split. Those left out have their untrained value.
        span: The least and the greatest value that was measured. None if it is unknown.
        tolerance: The margin that the user set. None selects 3 %, or 0.003 if values between 0 and 1 are compared by
            differences.
        planned: The kind that was planned. None if the plan did not say.
        has_start: False if no value from before the end of a training is known, as of a function that reports once.
            Then ``untrained`` is only the value of lost trainings, and nothing is no better than untrained.
    """

    kind: Kind
    untrained: dict[str, float]
    resolution: float = 0.0
    maximize: bool = False
    baseline: dict[str, float] = field(default_factory=dict)
    span: tuple[float, float] | None = None
    tolerance: Margin | None = None
    planned: Kind | None = None
    has_start: bool = True

    @property
    def is_forced_linear(self) -> bool:
        """True if a value without a logarithm has changed the scale that was planned."""
        return self.kind == "linear" and self.planned == "log"

    @property
    def domain(self) -> Domain:
        """The values that are compared: all ``positive``; by differences and from 0 to 1, a ``rate``; any ``real``."""
        if self.span is None:
            return "positive"
        low, high = self.span
        if self.kind == "linear" and low >= 0 and high <= 1:
            return "rate"
        return "positive" if low > 0 else "real"

    @property
    def worst(self) -> float:
        """The value of a training that has none: infinity, or minus infinity if higher values are better."""
        return -math.inf if self.maximize else math.inf

    def covering(self, values: Iterable[float]) -> "ScoreScale":
        """Return the scale for a comparison in which these values were measured, too. Only finite ones count."""
        finite = [value for value in values if math.isfinite(value)]
        if not finite or self.resolution or self.span is None:
            return self
        low, high = min(self.span[0], *finite), max(self.span[1], *finite)
        if (low, high) == self.span:
            return self
        return replace(self, kind=self.kind if low > 0 else "linear", span=(low, high))

    def decides_like(self, scale: "ScoreScale") -> bool:
        """Return True if two scales of one comparison give the same scores and margins."""
        return (self.kind, self.domain) == (scale.kind, scale.domain)

    def cost(self, value: float) -> float:
        """Return the value with the sign by which lower is better."""
        return (-value if self.maximize else value) + 0.0  # never -0.0

    def score(self, value: float, split: str) -> float:
        """Return the score of a value on a split, never above that of the untrained model."""
        return self.unclipped_score(value if self.is_improvement(value, split) else self.untrained[split], split)

    def is_improvement(self, value: float, split: str) -> bool:
        """Return True if a value is better than that of the untrained model. One that is not a number is not."""
        return self.cost(value) < self.cost(self.untrained[split])

    def unclipped_score(self, value: float, split: str) -> float:
        """Return the score of a finite value as it was measured, also if it is worse than the untrained model's."""
        if self.kind == "linear":
            return self.cost(value)
        return self.cost(_log(max(value, self.resolution * self.untrained[split])))

    def loss(self, score: float) -> float:
        """Return the value that has this score. For a mean of logarithms it is the geometric mean of the values."""
        return self.cost(score) if self.kind == "linear" else _exp(self.cost(score))

    def possible(self, value: float) -> float:
        """Return the nearest possible value: rates lie between 0 and 1, also the ends of their intervals."""
        return min(max(value, 0.0), 1.0) if self.domain == "rate" else value

    def margin(self, leader: float, split: str = "test") -> float:
        """Return the difference in scores that is too small to matter beside a leader with this score.

        Args:
            leader: The leader's mean score.
            split: The split on which it was measured.
        """
        margin = self._margin()
        if self.kind == "linear":
            return margin.size * (self._unit(self.loss(leader), split) if margin.is_share else 1.0)
        share = margin.size if margin.is_share else margin.size / self.loss(leader)
        if self.maximize:
            return -math.log1p(-share) if share < 1 else math.inf
        return math.log1p(share)

    def margin_in_words(self, leader: float, split: str = "test") -> str:
        """Return the margin beside a leader with this score, in words: ``3 %``, or ``0.002`` for a difference."""
        margin = self._margin()
        if margin.is_share and self.domain == "positive":
            return f"{100 * margin.size:g} %"
        if margin.is_share and self.domain == "real":
            return f"{self.margin(leader, split):.2g} ({100 * margin.size:g} % of what training gained)"
        return f"{margin.size:g}"

    def _margin(self) -> Margin:
        if self.tolerance is not None:
            return self.tolerance
        return Margin(MARGIN_OF_RATES, is_share=False) if self.domain == "rate" else Margin(MARGIN, is_share=True)

    def _unit(self, value: float, split: str) -> float:
        """The difference that counts as a share of one beside a leader with this value.

        It is the leader's value if all values are positive, and 1 for rates. Of other values the zero has no meaning:
        there it is the difference that training made.
        """
        if self.domain == "rate":
            return 1.0
        if self.domain == "positive":
            return abs(value)
        return abs(value - self.baseline.get(split, self.untrained[split]))

    def worse_by(self, score: float, leader: float) -> float:
        """Return by how much a score is worse than the leader's: a share of the leader's value, or a difference.

        It is a share if all values are positive (``worse_by_is_share``).
        """
        if self.kind == "log":
            return -math.expm1(leader - score) if self.maximize else _expm1(score - leader)
        if not self.worse_by_is_share:
            return score - leader
        return (score - leader) / abs(leader) if leader else math.nan

    @property
    def worse_by_is_share(self) -> bool:
        """True if ``worse_by`` is a share of the leader's value, False if it is a difference of values."""
        return self.domain == "positive"

    def worse_by_in_words(self, worse_by: float) -> str:
        """Return what ``worse_by`` returned as text: ``3.1 %``, or ``0.0042`` for a difference."""
        if not math.isfinite(worse_by):
            return "–"
        return f"{100 * worse_by:z.1f} %" if self.worse_by_is_share else f"{worse_by:z.3g}"

    def is_close(self, value: float, best: float, share: float, split: str) -> bool:
        """Return True if a finite value is at most a share worse than the best one.

        Of rates compared by differences a share of 10 % is a hundredth: the share of the default margins.
        """
        if self.domain == "rate":
            share *= MARGIN_OF_RATES / MARGIN
        return self.cost(value) <= self.cost(best) + share * self._unit(best, split)

    def share_in_words(self, share: float) -> str:
        """Return a share as `is_close` understands it, in words: ``10 %``, or ``0.01`` for rates."""
        if self.domain == "rate":
            return f"{share * MARGIN_OF_RATES / MARGIN:g}"
        return f"{100 * share:g} %{' of what training gained' if self.domain == 'real' else ''}"

    def excess(self, difference: float, leader: float, split: str = "test") -> float:
        """Return a difference in scores as the logarithm of a ratio of losses.

        On the linear scale the ratio is one plus the share by which a value is worse: a share of the leader's value if
        all values are positive, of 1 for rates, of the gain of the training for others. A value that is better by the
        same share gets the same number with the sign reversed.

        Args:
            difference: A score minus the leader's score from the same seed.
            leader: The leader's mean score.
            split: The split on which they were measured.

        Returns:
            The logarithm of the ratio. Not a number if there is nothing to take a share of.
        """
        if self.kind == "log":
            return difference
        unit = self._unit(self.loss(leader), split)
        return _log_of_ratio(difference / unit if unit else math.nan)

    def excess_of(self, worse_by: float, leader: float, split: str = "test") -> float:
        """Return what `worse_by` returned as the logarithm of a ratio, as `excess` does for a difference of scores."""
        if self.kind == "log":
            if not self.maximize:
                return math.log1p(worse_by)
            return math.inf if worse_by >= 1 else -math.log1p(-worse_by)
        unit = 1.0 if self.worse_by_is_share else self._unit(self.loss(leader), split)
        return _log_of_ratio(worse_by / unit if unit else math.nan)

    def to_json(self) -> dict[str, Any]:
        """Return the scale as a plain dict, for the store."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "ScoreScale":
        """Return the scale that ``to_json`` stored, in this version or an earlier one."""
        span, tolerance = stored.get("span"), stored.get("tolerance")
        return cls(
            **{
                **stored,
                "span": None if span is None else (span[0], span[1]),
                "tolerance": None if tolerance is None else Margin(**tolerance),
            }
        )


def scale_for(
    untrained: Mapping[str, float],
    splits: Iterable[str],
    *,
    baseline: Mapping[str, float] | None = None,
    maximize: bool = False,
    prefers: Kind = "log",
    required: Kind | None = None,
    tolerance: Margin | None = None,
    has_start: bool = True,
    name: str = "thalweg",
) -> ScoreScale:
    """Return the scale of a comparison, from the first values.

    Args:
        untrained: The value before the first step, by split.
        splits: The splits that choose and evaluate; only their values decide the scale.
        baseline: The value from which a gain is counted, by split. Defaults to the untrained value.
        maximize: True if higher values are better.
        prefers: The scale if all values are above zero.
        required: The scale that the user set. None for the preferred one.
        tolerance: The margin that the user set. None for the default.
        has_start: False if the first values are those of whole trainings.
        name: The name of the task, for the message.

    Raises:
        SettingError: If a logarithmic scale is required and a first value is zero or below.
    """
    baseline = dict(untrained if baseline is None else baseline)
    first = [values[split] for split in splits for values in (baseline, untrained)]
    if required == "log" and min(first) <= 0:
        raise SettingError(
            f"{name}: scale='log' needs values above 0, got {min(first):.4g} before the first step. "
            "Use scale='linear', which compares values by their differences."
        )
    measured = [baseline[split] for split in splits]
    kind: Kind = (required or prefers) if min(first) > 0 else "linear"
    return ScoreScale(
        kind,
        dict(untrained),
        maximize=maximize,
        baseline=baseline,
        span=(min(measured), max(measured)),
        tolerance=tolerance,
        planned=required or prefers,
        has_start=has_start,
    )


def untrained_value(trainings: Iterable[Sequence[float]], *, maximize: bool, prefers: Kind) -> tuple[float, float]:
    """Return the bound for lost trainings and the baseline of a training function, whose model is hidden.

    The baseline is the median of the first finite reports, of two medians the better one. The bound is ten times the
    baseline, or a tenth of it if higher is better. Compared by differences, rates have the bound 0 or 1, and for other
    values the bound lies nine times their size, or their spread if that is larger, beyond the baseline.

    Args:
        trainings: The reports of each training.
        maximize: True if higher values are better.
        prefers: The scale on which the values will be compared if they are positive.
    """
    finite = [[report for report in reports if math.isfinite(report)] for reports in trainings]
    firsts = sorted((reports[0] for reports in finite if reports), reverse=maximize)
    if not firsts:
        return (0.0, 1.0) if maximize else (10.0, 1.0)
    first, low, high = firsts[(len(firsts) - 1) // 2], min(chain(*finite)), max(chain(*finite))
    if prefers == "log" and low > 0:
        return (first / 10 if maximize else 10 * first), first
    if low >= 0 and high <= 1:
        return (0.0 if maximize else 1.0), first
    distance = 9 * (max(abs(first), high - low) or 1.0)
    return (first - distance if maximize else first + distance), first


def _log_of_ratio(share: float) -> float:
    return math.copysign(math.log1p(abs(share)), share)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf  # a mean of logarithms may be too low for a value above 0


def _exp(exponent: float) -> float:
    return math.exp(exponent) if exponent < 709 else math.inf  # math.exp raises


def _expm1(exponent: float) -> float:
    return math.expm1(exponent) if exponent < 709 else math.inf
