"""Tables and sentences on the doctor in the documents, from its records: `python -m benchmarks.tables` writes them."""

from typing import Any

from benchmarks.tables import markdown
from thalweg.diagnosis.judging.candidates import SYMPTOMS
from thalweg.diagnosis.kinds import KINDS

Record = Any  # parsed JSON

DOCTOR_ROWS = {  # rows of the table of the doctor: a number of the record, and what it should be
    "true cause first": "at least 85 %",
    "true cause in the first three": "at least 95 %",
    "right module": "at least 90 %",
    "false alarms": "at most 3 %",
    "cures that work": "at least 85 %",
    "times of 250 steps": "at most 30",
    "seconds": "at most 60",
}


def doctor_table(record: Record) -> str:
    """Return how often diagnoses of the bench are right, by half of its architectures, beside the published rules."""

    def cell(value: dict[str, float] | None) -> str:
        if value is None:
            return ""
        if "of" in value:
            return f"{value['count']} of {value['of']} ({value['count'] / max(value['of'], 1):.0%})".replace("%", " %")
        return f"median {value['median']:.3g}, at most {value['largest']:.3g}"

    places = [(part, half) for part in ("diagnosis", "published_rules") for half in ("open", "held_out")]
    rows = [
        [name, bound, *(cell(record[part][half].get(name)) for part, half in places)]
        for name, bound in DOCTOR_ROWS.items()
    ]
    head = ["what", "to reach", "open half", "held-out half", "rules, open half", "rules, held-out half"]
    note = (
        f"{record['judged']} of {record['patients']} trainings were judged: sick ones, their cured twins, and healthy "
        "ones. Thresholds were set on architectures of the open half only. False alarms: findings above a note on "
        "trainings that work. Cures that work: verified by the diagnosis, and on fresh seeds by the bench. Times: "
        "processor time of a diagnosis by that of the training's own 250 steps. Rules: those that a debugger of fixed "
        f"rules publishes, with its thresholds. {markdown.machine_text(record['machine'])}."
    )
    return "\n".join([markdown.table(head, rows), "", note])


def exam_line(record: Record) -> str:
    """Return how often diagnoses of another bench's trainings are right."""
    results = record["diagnosis"]["open"]

    def counted(name: str) -> str:
        return f"{results[name]['count']} of {results[name]['of']}"

    return (
        f"On the trainings of another bench, which was written apart from this one: true cause first on "
        f"{counted('true cause first')}, right module on {counted('right module')}, false alarms on "
        f"{counted('false alarms')} that work, cures that work on {counted('cures that work')}; at most "
        f"{results['times of 250 steps']['largest']:.3g} times the 250 steps and {results['seconds']['largest']:.3g} s."
    )


def watch_line(record: Record) -> str:
    """Return what watching adds to a step, and the bounds."""
    tasks, bounds = record["tasks"], record["bounds"]
    rounds = min(task["rounds"] for task in tasks.values())
    added = "; ".join(
        f"on `{name}`, whose step takes {task['step_s'] * 1e3:.1f} ms, {task['added']['default']:.1%} and "
        f"{task['added']['every step']:.1%}"
        for name, task in tasks.items()
    )
    return (
        f"Watching adds to the time of a step, at the default setting and at every step (`every=1`): {added}. Bounds: "
        f"{bounds['default']:.0%} and {bounds['every step']:.0%}. Median of {rounds} "
        f"rounds with and without, in turn, on one core (`benchmarks/speed/watch.py`)."
    ).replace("%", " %")


def pages_line(record: Record) -> str:
    """Return on how many pages of causes the doctor agrees with the page."""
    kinds = ", ".join(f"[{KINDS[kind].title}](causes/{kind}.md)" for kind in record["disagreements"])
    disagreement = f" It names another cause first on {len(record['disagreements'])}: {kinds}." if kinds else ""
    if kinds and all(KINDS[kind].group == SYMPTOMS for kind in record["disagreements"]):
        disagreement += " These are symptoms, which have many causes; their pages name the one of the example."
    return (
        f"The doctor was run on the example of every page. On {record['first']} of {record['pages']} it names the kind "
        f"of the page first, and on {record['verified']} it found a cure and verified it.{disagreement} This is a "
        "check of the examples, not an accuracy: they were adapted until the doctor agreed. How often it is right on "
        "other trainings: [the bench](doctor.md#how-often-it-is-right)."
    )


def kinds_list() -> str:
    """Return the kinds of causes by group, with links to their pages."""
    lines = []
    for group in dict.fromkeys(kind.group for kind in KINDS.values()):
        lines += ["", f"### {group.capitalize()}", ""]
        lines += [f"- [{kind.heading}](causes/{kind.name}.md)" for kind in KINDS.values() if kind.group == group]
    return "\n".join(lines).strip()
