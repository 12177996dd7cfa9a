"""Module map: a line for each module of thalweg, from its docstring."""

import ast
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "src" / "thalweg"


def module_map() -> str:
    """Return a line for each module, from its docstring. Files of optimizers, and of wrappers, share a line."""
    lines = []
    for folder in sorted({path.parent for path in SOURCES.rglob("*.py")}):
        modules = sorted(path for path in folder.glob("*.py") if path.stem not in ("__init__", "__main__"))
        name = folder.relative_to(SOURCES).as_posix().removeprefix(".")
        lines += ["", f"**{name or 'thalweg'}/** {_summary(folder / '__init__.py')}", ""]
        if name in ("rules", "rules/wrappers"):
            lines.append(f"- `NAME.py`: {len(modules)} files, one {'optimizer' if name == 'rules' else 'wrapper'} each")
            continue
        lines += [f"- `{path.name}`: {_summary(path)}" for path in modules]
    return "\n".join(lines).strip()


def _summary(module: Path) -> str:
    """Return the first sentence of a module's docstring, without its title before a colon."""
    text = (ast.get_docstring(ast.parse(module.read_text())) or "").split("\n\n")[0].replace("\n", " ")
    title, colon, rest = text.partition(": ")
    summary = (rest if colon and len(title.split()) < 5 else text).strip()
    return summary[:1].upper() + summary[1:]
