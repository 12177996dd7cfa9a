"""The page of an optimizer: its generated regions `head` and `facts`, between which people write advice."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from benchmarks.handbook import evidence
from benchmarks.handbook.example import training_example
from benchmarks.handbook.formulas import to_latex
from benchmarks.tables.markdown import linked, region, table, with_region
from thalweg import rules
from thalweg.comparison import CONTENDERS, Contender, parse
from thalweg.comparison.presentation.profile import profile_of
from thalweg.groups import SHORTLIST, Group, group_of
from thalweg.registry import RULES, WRAPPERS
from thalweg.rules import Explanation, Rule

PAGES = evidence.ROOT / "docs" / "optimizers" / "rules"
_RECORDS = "../../../benchmarks/records"
_NUMBER = "{:g}"
_DEFAULTS = "the defaults"


@dataclass(frozen=True)
class Subject:
    """The rule or wrapper that a page is about.

    Attributes:
        name: Its name in the registry.
    """

    name: str

    @cached_property
    def kind(self) -> type[Rule]:
        """The class of the rule or wrapper."""
        return {**RULES, **WRAPPERS}[self.name]

    @property
    def is_wrapper(self) -> bool:
        """True if the page is about a wrapper, which is shown around Adam."""
        return self.name in WRAPPERS

    @cached_property
    def contenders(self) -> list[Contender]:
        """The contenders that are this rule at settings of their own; the plain rule comes first."""
        if self.is_wrapper:
            return [parse(f"{self.name}(adam)")]
        named = [contender for contender in CONTENDERS.values() if type(contender.rule) is self.kind]
        return sorted(named, key=lambda contender: contender.name != self.name)

    @cached_property
    def main(self) -> Contender:
        """The contender of the example: that of the shortlist, else the first."""
        return next((contender for contender in self.contenders if contender.name in SHORTLIST), self.contenders[0])

    @property
    def drawn(self) -> str:
        """The words for the contender whose paths the picture shows: the rule, unless that has settings of its own."""
        if self.is_wrapper:
            return f"{self.kind.__name__} around Adam"
        return self.kind.__name__ if self.main.name == self.name else self.main.about.partition(" (")[0]

    @cached_property
    def explanation(self) -> Explanation:
        """The description of the rule at its defaults."""
        return rules.explain(self.kind(rules.Adam()) if self.is_wrapper else self.kind())  # type: ignore[call-arg]

    @property
    def group(self) -> Group:
        """The group of the rule."""
        group = group_of(self.kind)
        assert group is not None, f"{self.name} is in no group; add it to src/thalweg/groups.py"
        return group


def page(name: str, text: str | None = None) -> str:
    """Return the page of a rule or wrapper with its generated regions written anew.

    Args:
        name: The name in the registry.
        text: The page as it is; None for a new page.
    """
    subject = Subject(name)
    if text is None:
        return f"# {subject.kind.__name__}\n\n{region('head', head(subject))}\n\n{region('facts', facts(subject))}\n"
    return with_region(with_region(text, "head", head(subject)), "facts", facts(subject))


def head(subject: Subject) -> str:
    """Return the first region: what the optimizer is, when to use it, and an example."""
    explanation = subject.explanation
    lines = [f"{explanation.title[:1].upper()}{explanation.title[1:].removesuffix('.')}.", ""]
    for entry in SHORTLIST.values():
        if any(entry.name.split("+")[0] == contender.name for contender in subject.contenders):
            lines += [f"**On the shortlist** as `{entry.name}`: {entry.reason} ({_source(entry.evidence)}).", ""]
    lines += [
        f"- **Use**: {linked(explanation.use)}",
        f"- **Avoid**: {linked(explanation.avoid)}",
        f"- **Group**: [{subject.group.name}](../index.md#{subject.group.name}). {_command_line(subject)}",
        "",
        "```python",
        training_example(subject.main),
        "```",
    ]
    if not subject.is_wrapper:
        lines += ["", *_starting_points(subject)]
    return "\n".join(lines)


def _command_line(subject: Subject) -> str:
    if subject.is_wrapper:
        return f"On the command line: `{subject.name}(adamw)`, or around any other optimizer."
    names = ", ".join(f"`{contender.name}`" for contender in subject.contenders)
    return f"On the command line: {names}."


def _source(evidence_text: str) -> str:
    if evidence_text.startswith("benchmarks/records/"):
        name = evidence_text.rpartition("/")[2]
        return f"[{name}]({_RECORDS}/{name})"
    return linked(evidence_text)


def _starting_points(subject: Subject) -> list[str]:
    """Return a table of where to start with each contender, or a sentence if nothing is known."""
    rows, scale_of_trainings = [], ""
    for contender in subject.contenders:
        profile = profile_of(contender)
        settings, record = profile.starting_point, profile.record
        if not record:
            continue
        scale_of_trainings = scale_of_trainings or profile.scale
        shown = f"{contender.name}+adamw" if "route(" in profile.code else contender.name
        measured = evidence.recommended(shown)
        factor = ""
        if measured:
            means = measured["mean_factor"]
            left_out = means["left_out"] if settings else means["default"]
            factor = f"{left_out:.2f} (defaults: {means['default']:.2f})"
        origin = "rate of Adam, transferred" if profile.is_estimate else "measured"
        chosen = ", ".join(f"{key} {value:g}" for key, value in settings.items()) or _DEFAULTS
        name = record.rpartition("/")[2]
        rows.append([f"`{shown}`", contender.about, chosen, f"[{origin}]({_RECORDS}/{name})", factor])
    if not rows:
        return ["No starting point but the defaults was measured."]
    scale = (
        f"Starting points are for short trainings. They come from {scale_of_trainings}. For longer trainings of "
        "larger models begin at a [published learning rate](../../choosing/learning_rates.md#published-recipes)."
    )
    if not any(row[4] for row in rows):
        return [table(["name", "optimizer", "start with", "origin"], [row[:4] for row in rows]), "", scale]
    tasks = len(evidence.record("recommended")["tasks"])
    note = (
        f"Loss ÷ best: the loss without tuning, divided by the best that tuning reached, geometric mean of {tasks} "
        "tasks."
    )
    if any(row[2] != _DEFAULTS for row in rows):
        note += (
            " On each task the starting point is the one that was chosen on the other tasks; the one shown was chosen "
            "on all of them."
        )
    return [table(["name", "optimizer", "start with", "origin", "loss ÷ best"], rows), "", note, "", scale]


def facts(subject: Subject) -> str:
    """Return the second region: formula, settings, evidence, sources."""
    sections: list[tuple[str, Callable[[Subject], str]]] = [
        ("Formula", _formula),
        ("Settings", _settings),
        ("State and scope", _state),
        ("Learning rates that worked", _learning_rates),
        ("Speed", _speed),
        ("Correctness", _correctness),
        ("Paths", _paths),
        ("Source", _sources),
        ("Related", _related),
    ]
    written = [(heading, write(subject)) for heading, write in sections]
    return "\n\n".join(f"## {heading}\n\n{content}" for heading, content in written if content)


def _formula(subject: Subject) -> str:
    notes = f"\n\n{subject.explanation.notes}" if subject.explanation.notes else ""
    symbols = "θ is a parameter, g its gradient, t the number of the step. All operations are elementwise."
    if subject.explanation.scope in ("matrix", "tensor", "model") or subject.is_wrapper:
        symbols = "θ is a parameter, g its gradient, t the number of the step."
    return f"```math\n{to_latex(subject.explanation.formula)}\n```\n\n{symbols}{notes}"


def _settings(subject: Subject) -> str:
    inner = set(rules.Adam().hypers()) if subject.is_wrapper else set()
    rows = []
    for hyper in subject.explanation.hypers:
        if hyper.name in inner:
            continue
        search = f"{hyper.search.low:g} to {hyper.search.high:g} ({hyper.search.scale})" if hyper.search else "no"
        default = (
            f"{hyper.default:g}"
            if isinstance(hyper.default, int | float) and not isinstance(hyper.default, bool)
            else f"{hyper.default}"
        )
        rows.append([hyper.symbol, f"`{hyper.name}`", default, hyper.bound, hyper.unit, search, hyper.doc])
    if not rows:
        return "None of its own."
    warned = subject.explanation.warned_of
    note = f"\n\nThese cause a warning: {'; '.join(warned)}." if warned and not subject.is_wrapper else ""
    units = "\n\nUnits are in those of the parameter (θ) and its gradient (g); 1 means no unit."
    head = ["symbol", "setting", "default", "values", "unit", "searched by `compare`", "meaning"]
    return table(head, rows) + units + note


def _state(subject: Subject) -> str:
    rule = subject.main.rule
    assert isinstance(rule, Rule)
    explanation = subject.explanation if subject.is_wrapper else rules.explain(rule)
    around = " around Adam" if subject.is_wrapper else ""
    name = f"`{subject.main.name}`" if len(subject.contenders) > 1 else "It"
    lines = [f"{name} stores {explanation.state_bytes:g} bytes for each float32 element of a matrix{around}."]
    if explanation.state:
        tensors = [[symbol, unit, f"`{key}`"] for symbol, unit, key in explanation.state]
        lines += ["", table(["state", "unit", "key in `state_dict()`"], tensors)]
    properties = [["scope", _SCOPES[explanation.scope]], *map(list, explanation.semantics.items())]
    return "\n".join([*lines, "", table(["property", "value"], properties)])


_SCOPES = {
    "elementwise": "elementwise: a step of an element depends on this element alone",
    "tensor": "tensor: a step of an element depends on its tensor",
    "matrix": "matrix: a step needs the whole matrix",
    "model": "model: a step needs sums over the whole model",
}


def _learning_rates(subject: Subject) -> str:
    names = [contender.name for contender in subject.contenders]
    routed = [entry for entry in SHORTLIST if entry.split("+")[0] in names and "+" in entry]
    parts = []
    trained = [tuned for name in (*names, *routed) for tuned in evidence.tuned_trainings(name)]
    if trained:
        rows = [
            [
                f"`{tuned.contender}`",
                f"{tuned.about[:1].upper()}{tuned.about[1:]}",
                tuned.schedule,
                f"{tuned.lr:.2g}",
                f"{tuned.lr_range[0]:.2g} to {tuned.lr_range[1]:.2g}" if tuned.lr_range else "",
                tuned.worse_by,
            ]
            for tuned in trained
        ]
        record = f"[choosing_in_the_wild.json]({_RECORDS}/choosing_in_the_wild.json)"
        parts += [
            "Small trainings, each tuned over all settings of the optimizer. Good rates: those of all settings that "
            "came within 10 % of the best loss (0.1 of an accuracy or return). Behind the best: how much worse the "
            "best setting is than that of the best of nine optimizers, on test data. These trainings are short: a "
            f"longer one wants a lower rate. Record: {record}.",
            _without_constant_name(
                ["name", "training", "schedule", "best rate", "good rates", "behind the best"], rows
            ),
        ]
    grids = [row | {"name": name} for name in (*names, *routed) for row in evidence.transferred_rates(name)]
    if grids:
        rows = [
            [f"`{row['name']}`", f"`{row['task']}`", f"{row['best_lr']:g}", f"{row['source_lr']:g}"] for row in grids
        ]
        parts += [
            "Built-in tasks with a linear schedule: the best rate of a grid, beside that of AdamW on the same task. "
            f"Record: [transfer.json]({_RECORDS}/transfer.json).",
            _without_constant_name(["name", "task", "best rate", "AdamW's"], rows),
        ]
    if not parts and not subject.is_wrapper and "lr" in subject.kind().hypers():
        search = subject.kind().hypers()["lr"].search
        known = f" Its search range is {search.low:g} to {search.high:g}." if search else ""
        parts = [
            f"No committed record tuned it.{known} `thalweg compare TASK --with {subject.name}` tunes it on your task."
        ]
    return "\n\n".join(parts)


def _without_constant_name(head: list[str], rows: list[list[str]]) -> str:
    """Return a table, without its first column if that is the same in all rows."""
    if len({row[0] for row in rows}) > 1:
        return table(head, rows)
    return table(head[1:], [row[1:] for row in rows])


def _speed(subject: Subject) -> str:
    expression = f"{subject.name}(adamw)" if subject.is_wrapper else subject.name
    row, matrices = evidence.step_times(expression), evidence.matrix_step_times(subject.name)
    parts = []
    if row:
        low, high = row["spread"]
        moved = ""
        if row["read"] is not None:
            moved = f" It reads {row['read']:.0f} and writes {row['written']:.0f} bytes for each parameter."
        machine = evidence.record("rules")["machine"]["processor"]
        parts.append(
            f"A step takes {row['of_fused']:.2f} times as long as torch's fused AdamW ({low:.2f} to {high:.2f}) on "
            f"{machine}.{moved} Record: [rules.json]({_RECORDS}/rules.json)."
        )
    if matrices:
        rows = [
            [_matrices(row), row["against"], f"{row['ms']['thalweg']:.3g} ms", f"{row['ratio']:.2f}"]
            for row in matrices
        ]
        parts.append(table(["matrices", "beside", "time of a step", "÷ theirs"], rows))
        parts.append(f"Record: [matrices.json]({_RECORDS}/matrices.json).")
    return "\n\n".join(parts)


def _matrices(row: dict[str, Any]) -> str:
    """Return the parameters of a measured step in words."""
    if "square" in row:
        return f"{row['square']} square matrices of width {row['width']}"
    layers = "a transformer layer" if row["layers"] == 1 else f"{row['layers']} transformer layers"
    return f"{layers} of width {row['width']}{', ' + row['polynomials'] if 'polynomials' in row else ''}"


def _correctness(subject: Subject) -> str:
    name, parts = subject.kind.__name__, []
    agreement = evidence.agreement(name)
    if agreement:
        backends = f"Backends: {', '.join(agreement['ways'])}."
        error = f"at most {agreement['error']:.0e} of its size" if agreement["error"] else "nothing"
        parts.append(f"In float64, {_compared(subject, agreement['reference'])} by {error}. {backends}")
    findings = evidence.findings(name)
    if findings:
        counts = {
            outcome: sum(entry["outcome"] == outcome for entry in findings)
            for outcome in ("passed", "failed", "refused")
        }
        failed = [entry["check"].replace("_", " ") for entry in findings if entry["outcome"] == "failed"]
        sentence = f"Conformance kit: {counts['passed']} checks passed, {counts['failed']} failed"
        sentence += f" ({', '.join(failed)})" if failed else ""
        sentence += f", {counts['refused']} refused with an error" if counts["refused"] else ""
        records = f"[catalogue.json]({_RECORDS}/catalogue.json), [conformance.json]({_RECORDS}/conformance.json)"
        parts.append(f"{sentence}. Records: {records}.")
    elif agreement:
        parts.append(f"Record: [catalogue.json]({_RECORDS}/catalogue.json).")
    return "\n\n".join(parts)


def _compared(subject: Subject, reference: str) -> str:
    """Return the comparison behind the error that a record holds, as the beginning of a sentence."""
    if subject.is_wrapper:
        return f"{reference}, its change of the parameters over 24 steps differs from that of an independent reference"
    name = "an independent transcription of the paper" if reference == "transcription" else f"`{reference}`"
    if subject.name == "lbfgs":
        problems = "`tests/optim/closures/test_lbfgs.py`"
        return f"its change of the parameters on the problems of {problems} differs from that of {name}"
    return f"at settings off their defaults, its change of the parameters over 50 steps differs from that of {name}"


def _paths(subject: Subject) -> str:
    paths = evidence.RECORDS / "paths.json"
    drawn = json.loads(paths.read_text())["rules"].get(subject.name) if paths.exists() else None
    if drawn is None:
        return ""
    paths = " and ".join(
        f"{drawn[surface]['steps']} steps at a learning rate of {drawn[surface]['lr']:.2g} on {title}"
        for surface, title in _SURFACES.items()
    )
    chosen = "The rates are those of a grid whose paths end lowest." if drawn["rosenbrock"]["chosen"] else ""
    beside = " and ".join(name for name in ("gradient descent", "AdamW") if name != subject.drawn)
    alt = f"Paths of {subject.drawn} on Rosenbrock's function and on a quadratic, beside {beside} (dashed)"
    note = (
        "A surface of two parameters shows how a rule moves, not how well it trains a network. "
        "`thalweg show` draws others."
    )
    return (
        f"![{alt}](../../images/rules/{subject.name}.webp)\n\n"
        f"{subject.drawn}: {paths}. Dashed: {beside}, for comparison. The circle is the start, the star the minimum. "
        f"{chosen} {note}".replace("  ", " ")
    )


_SURFACES = {"rosenbrock": "Rosenbrock's function", "quadratic": "the quadratic"}


def _sources(subject: Subject) -> str:
    explanation = subject.explanation
    return f"{linked(explanation.source)}\n\nDifferences from the source: {linked(explanation.departs)}"


def _related(subject: Subject) -> str:
    related = [name for name in subject.group.members if name != subject.name]
    links = ", ".join(f"[{Subject(name).kind.__name__}]({name}.md)" for name in related)
    return f"The group [{subject.group.name}](../index.md#{subject.group.name}): {links}."
