"""Cases: every fault on every architecture that it suits, and every healthy training that looks odd."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.doctor.trainings.architectures import ARCHITECTURES, Architecture
from benchmarks.doctor.trainings.run import Run

OUTSIDE = {"labels_misaligned", "inputs_constant", "augmentation_too_strong", "no_gradient"}
"""Kinds whose cause lies in code that a replay cannot change: what reads the data, and ``forward``."""


@dataclass(frozen=True)
class Pair:
    """A fault and its cure.

    Attributes:
        sick: The training with the fault.
        cured: The same training without it.
        where: The name of the module or parameter to blame, or several that name the same place; None if none is.
    """

    sick: Callable[[int], Run]
    cured: Callable[[int], Run]
    where: str | Sequence[str] | None = None


@dataclass(frozen=True)
class Case:
    """A training whose condition is known.

    Attributes:
        kind: The cause, or ``healthy``.
        name: The architecture, or the oddity of a healthy training.
        make: Makes the training from a seed.
        cure: Makes the cured training; None if it is healthy.
        where: The names of the module or parameter to blame; empty if none is.
        held_out: True if it only judges, and sets no threshold.
        author: The function that describes it; a change of its source makes older results obsolete.
    """

    kind: str
    name: str
    make: Callable[[int], Run]
    cure: Callable[[int], Run] | None = None
    where: tuple[str, ...] = ()
    held_out: bool = False
    author: Callable[..., object] | None = None

    @property
    def curable(self) -> bool:
        """True if a change of the training, as a diagnosis gets it, can cure it."""
        return self.cure is not None and self.kind not in OUTSIDE

    @property
    def key(self) -> str:
        """Its kind and its name."""
        return f"{self.kind}/{self.name}"


def names_of(where: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of a place as a tuple."""
    return () if where is None else (where,) if isinstance(where, str) else tuple(where)


CASES: dict[str, Case] = {}
Fault = Callable[[Architecture], Pair]


def add_case(case: Case) -> None:
    """Register a case."""
    assert case.key not in CASES, case.key
    CASES[case.key] = case


def fault(kind: str, on: Sequence[str]) -> Callable[[Fault], Fault]:
    """Register a fault on these architectures."""

    def register(make: Fault) -> Fault:
        for name in on:
            architecture = ARCHITECTURES[name]
            pair = make(architecture)
            add_case(Case(kind, name, pair.sick, pair.cured, names_of(pair.where), architecture.held_out, make))
        return make

    return register


def own_fault(
    kind: str, name: str, where: str | Sequence[str] | None = None, *, held_out: bool = False
) -> Callable[..., Callable[..., Run]]:
    """Register ``make(seed, sick)``, a training of its own that is sick or cured."""

    def register(make: Callable[[int, bool], Run]) -> Callable[[int, bool], Run]:
        sick, cured = partial(make, sick=True), partial(make, sick=False)
        add_case(Case(kind, name, sick, cured, names_of(where), held_out, author=make))
        return make

    return register


def healthy(
    name: str, *, held_out: bool = False, author: Callable[..., object] | None = None
) -> Callable[[Callable[[int], Run]], Callable[[int], Run]]:
    """Register a healthy training."""

    def register(make: Callable[[int], Run]) -> Callable[[int], Run]:
        add_case(Case("healthy", name, make, held_out=held_out, author=author or make))
        return make

    return register
