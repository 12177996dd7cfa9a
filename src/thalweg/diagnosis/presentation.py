"""A diagnosis as sentences: the same on a terminal of any width, in Python and in a notebook."""

import html
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Literal, NamedTuple, Protocol

from rich.cells import cell_len

from thalweg.diagnosis.finding import Finding, measured
from thalweg.diagnosis.kinds import KINDS
from thalweg.diagnosis.run_record import Cure, Replay, RunRecord
from thalweg.errors import printable

DEFAULT_WIDTH = 80
MAX_WIDTH = 100  # longer lines are hard to read
MIN_SHARE_OF_GAIN = 0.1  # a replay that gains less of what the best gained makes no difference to speak of
_MAX_COUNT = 1e9  # a larger number is no count that anybody reads digit by digit
_INDENT = "  "
_CODE_INDENT = "    "

Style = Literal["", "bold", "code"]


class DiagnosisFacts(Protocol):
    """The parts of a ``Diagnosis`` that its sentences are made of; it explains them."""

    @property
    def name(self) -> str: ...
    @property
    def healthy(self) -> bool | None: ...
    @property
    def cause(self) -> Finding | None: ...
    @property
    def findings(self) -> tuple[Finding, ...]: ...
    @property
    def cure(self) -> Cure | None: ...
    @property
    def score_name(self) -> str: ...
    @property
    def steps(self) -> int: ...
    @property
    def sick(self) -> tuple[RunRecord, ...]: ...
    @property
    def replays(self) -> tuple[Replay, ...]: ...
    @property
    def cured(self) -> tuple[RunRecord, ...]: ...
    @property
    def seconds(self) -> float: ...
    @property
    def caution(self) -> str: ...


class SummaryLine(NamedTuple):
    """A line of a summary, and how it is emphasized. A line of code is never folded, so that it can be copied."""

    text: str
    style: Style = ""


def text_of(diagnosis: DiagnosisFacts) -> str:
    """Return the summary of a diagnosis as text of 80 columns."""
    return "\n".join(line.text for line in summary_lines(diagnosis, DEFAULT_WIDTH))


def html_of(diagnosis: DiagnosisFacts) -> str:
    """Return the summary of a diagnosis as HTML, every text escaped."""
    parts = []
    for line in summary_lines(diagnosis, DEFAULT_WIDTH):
        text = html.escape(line.text)
        parts.append(f"<b>{text}</b>" if line.style == "bold" else text)
    return f"<pre>{chr(10).join(parts)}</pre>"


def summary_lines(diagnosis: DiagnosisFacts, width: int) -> list[SummaryLine]:
    """Return the summary of a diagnosis as lines for a terminal.

    Args:
        diagnosis: The diagnosis.
        width: The characters in a line. Only code and single words may be longer.
    """
    cause, rest = diagnosis.cause, list(diagnosis.findings)
    lines = _bold(headline(diagnosis), width)
    if cause is None:
        lines += [SummaryLine(""), *_text_lines([checked(diagnosis)], width)]
    else:
        rest.remove(cause)
        lines += [SummaryLine(""), *_cause_lines(diagnosis, cause, width)]
    if diagnosis.cure is not None:
        lines += [SummaryLine(""), *_cure_lines(diagnosis, diagnosis.cure, width)]
    elif cause is not None:
        lines += [SummaryLine(""), *_text_lines([no_cure(diagnosis)], width)]
    for title, findings in (
        ("Other findings", [finding for finding in rest if finding.severity != "note"]),
        ("Notes", [finding for finding in rest if finding.severity == "note"]),
    ):
        if findings:
            lines += [SummaryLine(""), *_bold(title, width)]
            lines += [line for finding in findings for line in _item(sentence_of(diagnosis, finding), width)]
    if diagnosis.caution:
        lines += [SummaryLine(""), *_text_lines([f"Caution: {diagnosis.caution}"], width)]
    return [*lines, SummaryLine(""), *_text_lines([effort(diagnosis)], width)]


def headline(diagnosis: DiagnosisFacts) -> str:
    """Return the answer in one sentence."""
    name, cause = printable(diagnosis.name), diagnosis.cause
    if diagnosis.healthy:
        return f"{name} is healthy."
    if diagnosis.healthy is None:
        return f"It is not known if {name} is healthy: the budget ended before."
    if cause is None:
        return f"{name} does not train well, and no cause was found."
    verb = "fails" if cause.severity == "error" else "works worse than it could"
    return f"{name} {verb}: {title_of(cause.kind)}."


def checked(diagnosis: DiagnosisFacts) -> str:
    """Return what a diagnosis without a cause has looked at, as sentences."""
    looked = (
        f"Looked at: the wiring, the output and the loss, the data and the modes before the first step; gradients, "
        f"updates, activations and the loss over {diagnosis.steps} steps."
    )
    count = len(diagnosis.replays)
    if not count:
        return f"{looked} No change was replayed."
    replayed = f"{count} change{'s were' if count > 1 else ' was'} replayed from the same seed"
    works = "it makes no difference" if count == 1 else "none makes a difference"
    return f"{looked} {replayed}" + (f"; {works} that matters." if diagnosis.healthy is not False else "; none works.")


def no_cure(diagnosis: DiagnosisFacts) -> str:
    """Return the sentence for a cause without a cure."""
    count = len(diagnosis.replays)
    if not count:
        return "No change was replayed, so there is no cure that was tried."
    if diagnosis.caution and not diagnosis.cured:
        working = ", ".join(printable(replay.change) for replay in diagnosis.replays if replay.works)
        tried = f"Changes that work from the first seed: {working}." if working else "No change worked so far."
        return f"No cure was verified: the diagnosis ended before. {tried}"
    return f"No cure: none of the {count} changes that were replayed is shown to work on fresh seeds."


def title_of(kind: str) -> str:
    """Return a kind of cause in words; a name that is none as it is."""
    return KINDS[kind].title if kind in KINDS else printable(kind)


def since_of(finding: Finding) -> str:
    """Return from when on a finding holds, as a phrase."""
    return f"step {finding.since:,}" if finding.since else "the beginning"


def sentence_of(diagnosis: DiagnosisFacts, finding: Finding) -> str:
    """Return a finding in one paragraph: kind, place, explanation, evidence and remedy."""
    place = f" in {printable(finding.where)}" if finding.where else ""
    since = f", from step {finding.since:,} on" if finding.since else ""
    title = title_of(finding.kind)
    start = f"{title[:1].upper()}{title[1:]}{place}{since}."
    evidence = ", ".join(f"{name} {value}" for name, value in evidence_of(diagnosis, finding))
    parts = (start, explanation_of(finding), evidence and f"Measured: {evidence}.", finding.remedy)
    return " ".join(printable(part) for part in parts if part)


def evidence_of(diagnosis: DiagnosisFacts, finding: Finding) -> list[tuple[str, str]]:
    """Return the measured numbers of a finding, as pairs of a name and a text. A score is named by what it is."""
    pairs = []
    for name, value in finding.evidence.items():
        label = printable(str(name)).replace("_", " ")
        if label == "score" or label.startswith("score with "):
            label = f"{score_word(diagnosis)}{label.removeprefix('score')}"
            pairs.append((label, score_text(diagnosis, float(value))))
        else:
            pairs.append((label, value_text(value)))
    return pairs


def explanation_of(finding: Finding) -> str:
    """Return the explanation without the sentence that repeats the evidence, for a place that lists it."""
    return finding.explanation.removesuffix(measured(finding.evidence)).rstrip()


def value_text(value: float | str) -> str:
    """Return a number of evidence briefly, and a text as it is, with control characters escaped.

    Example:
        >>> value_text(0.000123456), value_text(250000.0), value_text("relu")
        ('0.000123', '250,000', 'relu')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return printable(str(value))
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite" if value > 0 else "minus infinity"
    if value == int(value) and abs(value) < _MAX_COUNT:
        return f"{int(value):,}"
    return f"{value:.3g}"


def is_loss(diagnosis: DiagnosisFacts) -> bool:
    """Return True if runs are compared by a loss, whose score is its negative."""
    return "loss" in diagnosis.score_name


def score_word(diagnosis: DiagnosisFacts) -> str:
    """Return the word for a score: loss, metric, agreement."""
    return "loss" if is_loss(diagnosis) else printable(diagnosis.score_name).partition(" ")[0]


def shown_score(diagnosis: DiagnosisFacts, score: float) -> float:
    """Return a score as people know it: a loss is lower if it is better."""
    return -score if is_loss(diagnosis) else score


def score_text(diagnosis: DiagnosisFacts, score: float) -> str:
    """Return a score for people; a run without a finite one has diverged."""
    return f"{shown_score(diagnosis, score):.3g}" if math.isfinite(score) else "diverged"


def last_score(run: RunRecord) -> float:
    """Return the score at the end of a run; not a number if it has none."""
    return run.scores[-1][1] if run.scores else math.nan


def cure_sentences(diagnosis: DiagnosisFacts, cure: Cure) -> list[str]:
    """Return how well a cure works and how sure that is, as sentences."""
    if not cure.seeds:
        return ["It was replayed from one seed, and not verified on fresh ones."]
    name, count = printable(diagnosis.score_name), len(cure.seeds)
    seeds = f"{count} fresh seeds" if count > 1 else "a fresh seed"
    before, after = (_mean_text(diagnosis, scores) for scores in (cure.before, cure.after))
    better = "lower" if is_loss(diagnosis) else "higher"
    first = (
        f"{name[:1].upper()}{name[1:]}: {before} without this change, {after} with it "
        f"(mean of {seeds}; {better} is better)."
    )
    if math.isfinite(cure.low) and math.isfinite(cure.high):
        verb = "improves it by" if cure.difference >= 0 else "makes it worse by"
        low, high = (cure.low, cure.high) if cure.difference >= 0 else (-cure.high, -cure.low)
        first += f" The change {verb} {abs(cure.difference):.3g} on average (95 % interval {low:.3g} to {high:.3g})."
        differences = [after - before for before, after in zip(cure.before, cure.after, strict=True)]
        if not math.isclose(sum(differences) / len(differences), cure.difference, rel_tol=0.01):
            first += " In this average, a run that ends worse than an untrained model counts as an untrained model."
    return [first, _how_sure(cure)]


def _how_sure(cure: Cure) -> str:
    if cure.verified:
        return "Verified: on fresh seeds the improvement is more than chance."
    if cure.low > 0:  # the interval is of one look at the seeds, and at the level of 95 %
        return (
            "Not verified: it is likely to work, but the interval alone is no proof. The seeds were looked at twice, "
            "and by a stricter test they do not suffice. More seeds may."
        )
    return "Not verified: these seeds do not show that it works. More seeds may."


def replay_result(replay: Replay) -> str:
    """Return what a replay has shown, in a few words."""
    if replay.run.ending == "failed":
        return f"raised an error: {printable(replay.run.message)}"
    if replay.works:
        return "works"
    if replay.run.ending == "diverged" or not math.isfinite(replay.gain):
        return "diverges"
    if abs(replay.gain) < MIN_SHARE_OF_GAIN:
        return "no difference"
    return "helps in part" if replay.gain > 0 else "worse"


def effort(diagnosis: DiagnosisFacts) -> str:
    """Return the number of runs, their length, and the time of a diagnosis."""
    runs = len(diagnosis.sick) + len(diagnosis.replays) + len(diagnosis.cured)
    return f"{runs} run{'' if runs == 1 else 's'} of up to {diagnosis.steps:,} steps, {diagnosis.seconds:.3g} s."


def _mean_text(diagnosis: DiagnosisFacts, scores: Sequence[float]) -> str:
    finite = [score for score in scores if math.isfinite(score)]
    if not finite:
        return "diverged"
    lost = len(scores) - len(finite)
    return score_text(diagnosis, fmean(finite)) + (f" ({lost} of {len(scores)} diverged)" if lost else "")


def _cause_lines(diagnosis: DiagnosisFacts, cause: Finding, width: int) -> Iterator[SummaryLine]:
    place = {"where": cause.where} if cause.where else {}
    yield from _pairs({**place, "since": since_of(cause), "kind": cause.kind}, width)
    yield SummaryLine("")
    yield from _text_lines([explanation_of(cause)], width)
    if evidence := dict(evidence_of(diagnosis, cause)):
        yield SummaryLine("")
        yield from _bold("Evidence", width)
        yield from _pairs(evidence, width)
    yield SummaryLine("")
    yield from _text_lines([f"What to do: {cause.remedy}"], width)


def _cure_lines(diagnosis: DiagnosisFacts, cure: Cure, width: int) -> Iterator[SummaryLine]:
    yield from _bold(f"Cure: {printable(cure.name)}", width)
    yield from _text_lines(cure_sentences(diagnosis, cure), width)
    if cure.code:
        yield SummaryLine("")
        for line in cure.code.rstrip().split("\n"):
            yield SummaryLine(f"{_CODE_INDENT}{printable(line, keep=chr(9))}".rstrip(), "code")


def _pairs(facts: Mapping[str, str], width: int) -> Iterator[SummaryLine]:
    """Yield names and values in two columns; in a narrow terminal a long value stands below its name."""
    texts = {printable(name): printable(value) for name, value in facts.items()}
    # A few long names push no value out of the line.
    label_width = max((size for name in texts if (size := cell_len(name)) <= width // 2), default=0)
    for name, value in texts.items():
        label = f"{_INDENT}{name}"
        gap = " " * (max(label_width, cell_len(name)) - cell_len(name) + 2)
        if cell_len(f"{label}{gap}{value}") <= width:
            yield SummaryLine(f"{label}{gap}{value}")
        else:
            yield from (SummaryLine(line) for line in _folded(label, width))
            yield from (SummaryLine(f"{2 * _INDENT}{part}") for part in _folded(value, width - 2 * len(_INDENT)))


def _bold(text: str, width: int) -> list[SummaryLine]:
    return [SummaryLine(line, "bold") for line in _folded(text, width)]


def _text_lines(sentences: Iterable[str], width: int) -> list[SummaryLine]:
    return [SummaryLine(line) for sentence in sentences for line in _folded(printable(sentence), width)]


def _item(text: str, width: int) -> list[SummaryLine]:
    first, *rest = _folded(printable(text), width - 2)
    return [SummaryLine(f"- {first}"), *(SummaryLine(f"{_INDENT}{line}") for line in rest)]


def _folded(text: str, width: int) -> list[str]:
    """Return a text as lines, divided between words. A word that is longer than a line has a line of its own."""
    indent = text[: len(text) - len(text.lstrip(" "))]
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or cell_len(f"{indent}{longer}") <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return [f"{indent}{line}" for line in lines]
