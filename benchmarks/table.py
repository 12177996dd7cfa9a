"""The README's tables of speed, from the committed records: `python benchmarks/table.py` writes them in place."""

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
SET_NAMES = {
    "gpt2": "GPT-2-like, 98 M parameters in 148 tensors",
    "resnet50": "ResNet-50-like, 26 M in 161",
    "small": "0.8 M in 400 small tensors",
}


def steps_table(records: list[dict[str, Any]]) -> str:
    """Ratios of ours to torch's fastest kernel, by set and rule."""
    rules = list(dict.fromkeys(record["rule"] for record in records))
    lines = [f"| step time ÷ torch's | {' | '.join(rules)} |", f"|---|{'---|' * len(rules)}"]
    for name, title in SET_NAMES.items():
        cells = []
        for rule in rules:
            (record,) = [one for one in records if (one["set"], one["rule"]) == (name, rule)]
            ours = next(one for one in record["measured"] if one["name"] == "thalweg")
            cells.append(f"{ours['ratio']:.2f}{'' if record['baseline'] == 'torch fused' else '*'}")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    machine = records[0]["machine"]
    lines += [
        "",
        f"Ratios of medians in one interleaved run, to torch's fused kernel (* to torch's default: it has no fused "
        f"RMSprop). {machine['processor']}, {machine['threads']} threads, torch {machine['torch']}, no GPU.",
    ]
    return "\n".join(lines)


def conformance_table(record: dict[str, Any]) -> str:
    """How many optimizers of each library fail each check."""
    lines = ["| library | optimizers | fail none | fail most often |", "|---|---|---|---|"]
    for library, found in sorted(record["libraries"].items()):
        checked = {name: one for name, one in found["optimizers"].items() if isinstance(one, list)}
        failed = {
            name: [finding["check"] for finding in one if finding["outcome"] == "failed"]
            for name, one in checked.items()
        }
        every = [check for checks in failed.values() for check in checks]
        most = sorted(set(every), key=lambda check: (-every.count(check), check))[:3]
        worst = ", ".join(f"{check.replace('_', ' ')} ({every.count(check)})" for check in most)
        sound = sum(not checks for checks in failed.values())
        lines.append(f"| {library} {found['version']} | {len(checked)} | {sound} | {worst} |")
    return "\n".join(lines)


def tables() -> dict[str, str]:
    """Each table by the name of its place in the README."""
    records = {path.stem: json.loads(path.read_text()) for path in (HERE / "records").glob("*.json")}
    return {"steps": steps_table(records["steps"]), "conformance": conformance_table(records["conformance"])}


def filled(text: str) -> str:
    """The README with every table made anew."""
    for name, table in tables().items():
        pattern = rf"(<!-- {name}: made by benchmarks/table.py -->\n).*?(\n<!-- /{name} -->)"
        text, count = re.subn(pattern, lambda match, table=table: match[1] + table + match[2], text, flags=re.DOTALL)
        assert count == 1, f"README.md must have one place for {name}"
    return text


if __name__ == "__main__":
    README.write_text(filled(README.read_text()))
