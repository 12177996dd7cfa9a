"""Scalar expressions: a function of numbers, written down by running it on stand-ins down every branch.

A stand-in records what is done with it. Where the function needs a truth value, it is run once for each answer, and the
results are joined by a choice. So the scalars of a step, which rules compute in Python, can be computed on a device,
without a second text of any formula::

    expressions = trace(lambda x: {"y": max(x, 1.0) ** 0.5}, ["x"])

Differences from Python: a division by zero is infinite or NaN where Python raises an error; `**` with an exponent of
0.5 is a square root, which is correctly rounded. On a device the last bit of `pow`, `exp`, `log` and `cos` may differ.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from thalweg.errors import SettingError

_MAX_PATHS = 512

# Each operation with Python's sign for it, or its name.
ARITHMETIC = {"add": "+", "sub": "-", "mul": "*", "truediv": "/", "mod": "%", "pow": "**"}
COMPARISONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
FUNCTIONS = ("neg", "abs", "sqrt", "exp", "log", "cos", "floor", "round")


class UntraceableError(Exception):
    """A function does something with a number that cannot be written down."""


class Node(NamedTuple):
    """One operation of an expression.

    Attributes:
        operation: ``"input"``, ``"constant"``, ``"choose"``, or a name or sign of the tables of this module.
        operands: The name of an input, the value of a constant, or the numbers of the nodes of the operands. A choice
            has a condition, the value if it is true, and the value if it is false.
    """

    operation: str
    operands: tuple[Any, ...]


class Expressions(NamedTuple):
    """Functions of the same inputs.

    Attributes:
        nodes: All operations. The operands of a node come before it.
        results: The number of the node of each result, by name.
    """

    nodes: list[Node]
    results: dict[str, int]

    @property
    def inputs(self) -> list[str]:
        """The names of the inputs that a result depends on."""
        return [node.operands[0] for node in self.nodes if node.operation == "input"]


class StandIn:
    """A number that is not known yet."""

    is_stand_in = True  # read by `Hyper.parse`, which lets it pass
    __hash__ = object.__hash__

    def __init__(self, tracer: "_Tracer", number: int) -> None:
        self._tracer, self._number = tracer, number

    def __bool__(self) -> bool:
        return self._tracer.decide("!=", self, 0.0)

    def __round__(self) -> "StandIn":
        return self._tracer.apply("round", self)

    def __float__(self) -> float:
        raise UntraceableError("a setting or the number of a step is converted to a float")

    __int__ = __index__ = __float__


def _add_methods() -> None:
    def binary(sign: str) -> Any:
        return lambda self, operand: self._tracer.apply(sign, self, operand)

    def reflected(sign: str) -> Any:
        return lambda self, operand: self._tracer.apply(sign, operand, self)

    def comparison(sign: str) -> Any:
        return lambda self, operand: self._tracer.decide(sign, self, operand)

    def unary(name: str) -> Any:
        return lambda self: self._tracer.apply(name, self)

    for name, sign in ARITHMETIC.items():
        setattr(StandIn, f"__{name}__", binary(sign))
        setattr(StandIn, f"__r{name}__", reflected(sign))
    for name, sign in COMPARISONS.items():
        setattr(StandIn, f"__{name}__", comparison(sign))
    for name in FUNCTIONS:
        setattr(StandIn, f"__{name}__" if name in ("neg", "abs") else name, unary(name))


_add_methods()


class _Tracer:
    """Writes down operations, and decides conditions: each path answers some of them differently."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._numbers: dict[Node, int] = {}
        self.answers: dict[int, bool] = {}  # of this path, by the number of the condition

    def number(self, value: Any) -> int:
        if isinstance(value, StandIn):
            return value._number
        if not isinstance(value, int | float):
            raise UntraceableError(f"a number is combined with {type(value).__name__}")
        return self.add(Node("constant", (float(value).hex(),)))

    def add(self, node: Node) -> int:
        if node not in self._numbers:
            self._numbers[node] = len(self.nodes)
            self.nodes.append(node)
        return self._numbers[node]

    def apply(self, operation: str, *operands: Any) -> StandIn:
        if operation == "**" and isinstance(operands[1], int | float) and operands[1] in (0.5, 2):
            base = operands[0]
            return self.apply("sqrt", base) if operands[1] == 0.5 else self.apply("*", base, base)
        return StandIn(self, self.add(Node(operation, tuple(map(self.number, operands)))))

    def decide(self, sign: str, left: Any, right: Any) -> bool:
        condition = self.add(Node(sign, (self.number(left), self.number(right))))
        if len(self.answers) >= _MAX_PATHS:
            raise UntraceableError(f"a function asks more than {_MAX_PATHS} questions on one path")
        # A condition that was decided on this path keeps its answer; a new one is true first.
        return self.answers.setdefault(condition, True)


Path = tuple[list[tuple[int, bool]], dict[str, int]]  # conditions with their answers in order, and the results


def trace(function: Callable[..., Mapping[str, Any]], inputs: Sequence[str]) -> Expressions:
    """Write down a function.

    Args:
        function: Called with a stand-in for each input, by name. It returns numbers by name. If it raises SettingError
            on a path, no valid settings lead there.
        inputs: The names of the inputs.

    Returns:
        The expressions of all results.

    Raises:
        UntraceableError: If the function converts a number to a float, or has too many paths.

    Example:
        >>> expressions = trace(lambda x: {"y": 2 * x}, ["x"])
        >>> [node.operation for node in expressions.nodes]
        ['input', 'constant', '*']
    """
    tracer = _Tracer()
    paths: list[Path] = []
    # The answers that lead to the next path: those of the last one with the last true answer made false.
    prefix: dict[int, bool] = {}
    for _ in range(_MAX_PATHS):
        tracer.answers = dict(prefix)
        stand_ins = {name: StandIn(tracer, tracer.add(Node("input", (name,)))) for name in inputs}
        try:
            results = {name: tracer.number(value) for name, value in function(**stand_ins).items()}
            paths.append((list(tracer.answers.items()), results))
        except SettingError:
            pass
        answers = list(tracer.answers.items())
        while answers and not answers[-1][1]:
            answers.pop()
        if not answers:
            return _needed(tracer, {name: _join(tracer, paths, name) for name in paths[0][1]})
        prefix = dict([*answers[:-1], (answers[-1][0], False)])
    raise UntraceableError(f"a function has more than {_MAX_PATHS} paths")


def _join(tracer: _Tracer, paths: Sequence[Path], name: str, depth: int = 0) -> int:
    """Return the node that chooses a result by the conditions from a depth on."""
    if len(paths) == 1:
        return paths[0][1][name]
    condition = paths[0][0][depth][0]
    sides = [[path for path in paths if path[0][depth][1] is answer] for answer in (True, False)]
    values = [_join(tracer, side, name, depth + 1) for side in sides if side]
    return values[0] if len(set(values)) == 1 else tracer.add(Node("choose", (condition, *values)))


def _needed(tracer: _Tracer, results: dict[str, int]) -> Expressions:
    """Return the expressions without the nodes that no result depends on, in an order in which they can be computed."""
    needed: set[int] = set()
    remaining = list(results.values())
    while remaining:
        number = remaining.pop()
        if number not in needed:
            needed.add(number)
            remaining += operand_numbers(tracer.nodes[number])
    # Nodes are added after their operands, so the order of their numbers is one.
    new_numbers = {number: k for k, number in enumerate(sorted(needed))}
    nodes = [_renumbered(tracer.nodes[number], new_numbers) for number in new_numbers]
    return Expressions(nodes, {name: new_numbers[number] for name, number in results.items()})


def operand_numbers(node: Node) -> Iterable[int]:
    """Return the numbers of the nodes that a node reads."""
    return () if node.operation in ("input", "constant") else node.operands


def _renumbered(node: Node, new_numbers: Mapping[int, int]) -> Node:
    if node.operation in ("input", "constant"):
        return node
    return Node(node.operation, tuple(new_numbers[operand] for operand in node.operands))


def constant_value(node: Node) -> float:
    """Return the value of a constant.

    Example:
        >>> constant_value(Node("constant", ((0.5).hex(),)))
        0.5
    """
    return float.fromhex(node.operands[0])
