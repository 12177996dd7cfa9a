"""ContenderRecord: the description of a contender that a store holds and a report reads."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from thalweg.rules import Range

# Facts of one comparison rather than of the contender: they are no part of its identity.
_NOT_IDENTITY = frozenset({"about", "state_bytes", "searched", "task_code", "optimizer_names"})
# Fields that older stores lack, with their defaults, which are not written.
_ADDED_LATER: dict[str, Any] = {"task_code": [], "optimizer_names": [""], "user_settings": [], "members": {}}


@dataclass(frozen=True)
class ContenderRecord:
    """Description of a contender as plain data, so that a report does not need the code of the rule.

    Attributes:
        name: Name in the comparison, unique there.
        about: One line on the optimizer.
        optimizer: Python expression of the callable that makes the optimizer, e.g. ``"thalweg.optim.AdamW"``.
        arguments: Positional arguments of that call, as Python.
        then: Code that follows the call, e.g. ``".optimizer()"`` of a routed contender.
        source: Hash of the code of an external optimizer; empty for a rule of the library.
        full_batch: True if a step sees all training data.
        schedule: Name of the contender's own learning rate schedule; None for that of the comparison.
        start: Value of each setting before the search.
        recommended: Settings that do well on many tasks; empty if unknown.
        defaults: Value of each setting that the library assumes when the setting is left out.
        keywords: Settings of each keyword of the optimizer, in order; several settings form a tuple.
        space: Search range of each setting that a search of the largest budget varies.
        remarkable: Settings whose best value is worth a caution if it lies at an end of its range.
        state_numbers: Numbers of optimizer state for each number of a matrix.
        state_bytes: Bytes of optimizer state on the task's model; None if the model is unknown.
        searched: Settings that the comparison searches.
        task_code: Lines of Python with a place ``{name}`` for the value of each number of the task that is tuned.
        optimizer_names: Names of the optimizers of one training, each with settings of its own (``d.lr``); an empty
            name stands for those without a name.
        user_settings: Settings of the user's that entered the search first.
        members: The contender of each optimizer of a training, by its name; empty if this one serves all.
    """

    name: str
    about: str
    optimizer: str
    arguments: str
    then: str
    source: str
    full_batch: bool
    schedule: str | None
    start: dict[str, Any]
    recommended: dict[str, float]
    defaults: dict[str, Any]
    keywords: dict[str, list[str]]
    space: dict[str, Range]
    remarkable: list[str]
    state_numbers: int
    state_bytes: int | None = None
    searched: list[str] = field(default_factory=list)
    task_code: list[str] = field(default_factory=list)
    optimizer_names: list[str] = field(default_factory=lambda: [""])
    user_settings: list[dict[str, float]] = field(default_factory=list)
    members: dict[str, "ContenderRecord"] = field(default_factory=dict)

    def member(self, optimizer: str) -> "ContenderRecord":
        """Return the contender of one of the optimizers of a training: its own, or this one."""
        return self.members.get(optimizer, self)

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON, for the store."""
        stored = asdict(replace(self, members={}))
        stored["space"] = {name: bounds.to_json() for name, bounds in self.space.items()}
        stored["members"] = {name: member.to_json() for name, member in self.members.items()}
        for name, default in _ADDED_LATER.items():
            if stored[name] == default:
                del stored[name]
        return stored

    def identity(self) -> dict[str, Any]:
        """Return the JSON of the facts that decide a training; the key of a comparison hashes them."""
        own = {key: value for key, value in self.to_json().items() if key not in _NOT_IDENTITY}
        return own | (
            {"members": {name: member.identity() for name, member in self.members.items()}} if self.members else {}
        )

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "ContenderRecord":
        """Return the record that ``to_json`` stored; keys that older stores lack get their defaults."""
        values: dict[str, Any] = {"arguments": "model.parameters()", "then": "", "source": "", "schedule": None}
        values |= {key.name: stored[key.name] for key in fields(cls) if key.name in stored}
        values["members"] = {name: cls.from_json(member) for name, member in stored.get("members", {}).items()}
        values["space"] = {name: Range.from_json(bounds) for name, bounds in stored["space"].items()}
        return cls(**values)

    def line_of_code(
        self,
        settings: Mapping[str, Any],
        *,
        name: str = "",
        variable: str = "optimizer",
        arguments: str | None = None,
        then: str | None = None,
    ) -> str:
        """Return the Python line that makes this optimizer.

        Args:
            settings: Values that replace those of ``start``.
            name: Name of the optimizer, if a training has several.
            variable: Name of the variable that gets the optimizer.
            arguments: Positional arguments that replace the record's own.
            then: Code after the call that replaces the record's own.

        Returns:
            An assignment; settings at the library's defaults are left out.
        """
        prefix = f"{name}." if name else ""
        chosen = {**self.start, **{prefix + key: value for key, value in self.member(name).start.items()}, **settings}
        of = self.member(name)
        values = {key: chosen[prefix + key] for names in of.keywords.values() for key in names}
        passed = [of.arguments if arguments is None else arguments]
        for keyword, names in of.keywords.items():
            if any(name not in of.defaults or values[name] != of.defaults[name] for name in names):
                texts = [repr(values[name]) for name in names]
                passed.append(f"{keyword}={texts[0] if names == [keyword] else '(' + ', '.join(texts) + ')'}")
        line = f"{variable} = {of.optimizer}({', '.join(passed)}){of.then if then is None else then}"
        return f"{line}  # a step on the full batch" if of.full_batch else line
