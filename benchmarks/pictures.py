"""Choose the learning rates of the handbook's pictures: of each rule and each wrapper around Adam, on two surfaces.

`python benchmarks/pictures.py` chooses all, in some minutes; `python benchmarks/pictures.py AdamW` one of them, by the
name of its class or file. The pictures are drawn from the record, so that the handbook is built in little time.
"""

import json
import sys
from pathlib import Path

from thalweg.errors import SettingError
from thalweg.registry import RULES, WRAPPERS
from thalweg.report.pictures.one_rule import REFERENCES, SURFACES, expression_of
from thalweg.trajectories import trace

RECORD = Path(__file__).parent / "records" / "pictures.json"


def names_of_pictures() -> list[str]:
    """Return the expression of each picture, and of the reference paths."""
    return list(dict.fromkeys([*REFERENCES, *RULES, *map(expression_of, WRAPPERS)]))


def main(names: list[str]) -> None:
    """Choose learning rates and write them to the record.

    Args:
        names: Classes or files of rules and wrappers; none for all.
    """
    rates = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    files = {kind.__name__: file for file, kind in (*RULES.items(), *WRAPPERS.items())}
    chosen = [expression_of(files.get(name, name)) for name in names] or names_of_pictures()
    for name in chosen:
        try:
            rates[name] = {surface: trace(surface, name).optimizers[0].lr for surface in SURFACES}
        except SettingError as error:
            print(f"{name} has no picture: {error}", file=sys.stderr)
        rates = {name: rates[name] for name in names_of_pictures() if name in rates}
        RECORD.write_text(json.dumps(rates, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
