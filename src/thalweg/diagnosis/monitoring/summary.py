"""Summary: a record and its findings as text of 80 columns."""

import math
from collections.abc import Sequence
from textwrap import wrap

from thalweg.diagnosis.finding import Finding
from thalweg.diagnosis.monitoring.record import Record, Table
from thalweg.diagnosis.monitoring.signs.series import ends, in_order, middle

WIDTH = 80
NAME_WIDTH = 30
MAX_LAYERS = 24  # of deeper models the first and the last ones are shown
COLUMNS = ("gradient", "update", "output", "dead", "saturated")


def summarize(record: Record, findings: Sequence[Finding]) -> str:
    """Return the findings and the measurements by depth as text.

    Args:
        record: What a monitor measured.
        findings: What it says.

    Example:
        >>> print(summarize(Record(losses=[2.0, 1.0], lrs=[(0.1,), (0.1,)], steps=[0]), []))
        2 steps, 1 of them monitored. Loss 2 to 1, learning rate 0.1.
        Nothing is wrong as far as these measurements show.
    """
    return "\n".join([*_head(record), *_finding_lines(findings), *_layers(record), *_limits(record)])


def _head(record: Record) -> list[str]:
    count = len(record.losses)
    text = f"{count} {'step' if count == 1 else 'steps'}, {len(record.steps)} of them monitored."
    if record.losses:
        start, end, _ = ends(record.losses)
        text += f" Loss {start:.4g} to {end if math.isfinite(record.losses[-1]) else record.losses[-1]:.4g}"
        rates = [rate for rate in (record.lrs[-1] if record.lrs else ()) if not math.isnan(rate)]
        text += f", learning rate {' and '.join(f'{rate:.3g}' for rate in dict.fromkeys(rates))}." if rates else "."
    return wrap(text, WIDTH)


def _finding_lines(findings: Sequence[Finding]) -> list[str]:
    if all(finding.severity == "note" for finding in findings):
        lines = ["Nothing is wrong as far as these measurements show."]
    else:
        lines = []
    for finding in findings:
        where = f" in {finding.where}" if finding.where else ""
        lines += wrap(f"{finding.severity}: {finding.kind}{where}, since step {finding.since}", WIDTH)
        if finding.severity != "note":
            lines += _indented(finding.explanation) + _indented(f"Remedy: {finding.remedy}")
    return lines


def _indented(text: str) -> list[str]:
    return wrap(text, WIDTH, initial_indent="    ", subsequent_indent="    ")


def _layers(record: Record) -> list[str]:
    """Return a table of the medians of each module, in order of depth."""
    owned: dict[str, list[str]] = {}
    for name, info in record.parameters.items():
        owned.setdefault(info.module, []).append(name)
    modules = in_order(record, [module for module in owned if module])
    rows = [(module, _row(record, module, owned[module])) for module in modules]
    rows = [(module, row) for module, row in rows if any(row)]
    if not rows:
        return []
    used = [place for place in range(len(COLUMNS)) if any(row[place] for _, row in rows)]
    half = MAX_LAYERS // 2
    left_out = max(0, len(rows) - MAX_LAYERS)
    shown = rows if not left_out else rows[:half] + rows[-half:]
    lines = ["", f"{'module':{NAME_WIDTH}}" + "".join(f"{COLUMNS[place]:>10}" for place in used)]
    for number, (module, row) in enumerate(shown):
        if left_out and number == half:
            lines.append(f"... {left_out} more ...")
        lines.append(f"{_short(module):{NAME_WIDTH}}" + "".join(f"{row[place]:>10}" for place in used))
    lines = [line.rstrip() for line in lines]
    return [*lines, "Medians: gradient norm, update over weight, root mean square of the output."]


def _row(record: Record, module: str, names: list[str]) -> tuple[str, ...]:
    # Of its parameters the largest stands for a module: its weight.
    name = max(names, key=lambda name: record.parameters[name].numel)
    return (
        _number(record.gradient_norms, name),
        _number(record.update_ratios, name),
        _number(record.activation_scales, module),
        _share(record.dead, module),
        _share(record.saturated, module),
    )


def _number(table: Table, name: str) -> str:
    value = middle(table.get(name, ()))
    return "" if math.isnan(value) else f"{value:.2g}"


def _share(table: Table, name: str) -> str:
    value = middle(table.get(name, ()))
    return "" if math.isnan(value) else f"{value:.0%}"


def _short(name: str) -> str:
    return name if len(name) < NAME_WIDTH else f"…{name[2 - NAME_WIDTH :]}"


def _limits(record: Record) -> list[str]:
    return [line for limit in record.limits for line in wrap(f"Not measured: {limit}.", WIDTH)]
