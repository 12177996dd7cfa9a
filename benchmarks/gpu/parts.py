"""The parts, in the order in which they run, with the time and the packages that each needs."""

from typing import NamedTuple


class Part(NamedTuple):
    """A part: the module of the same name in `benchmarks/gpu` has its function `run(session)`.

    Attributes:
        seconds: Its share of the ten minutes. It leaves checks out when this time is over, and is ended a little later.
        processes: The most processes that share its checks; 1 if it measures times.
        needs: Modules that it imports. It is skipped if one is missing.
        placeholders: Modules that stand behind a placeholder if they are missing.
        module: The module of the part, if it is not the one of its name here.
    """

    seconds: int
    processes: int = 1
    needs: tuple[str, ...] = ()
    placeholders: tuple[str, ...] = ()
    module: str = ""


REFERENCES = ("prodigyopt", "schedulefree")  # `cases` imports them; only tests on the CPU compare with them
NEVER_CALLED = ("optuna", "rich", "click", "jinja2", "matplotlib")  # by a training; `thalweg.comparison` asks for them

PARTS: dict[str, Part] = {
    "cases": Part(110, processes=8, placeholders=REFERENCES),
    "kit": Part(80, processes=8, placeholders=REFERENCES),
    "graphs": Part(50, processes=8, placeholders=REFERENCES),
    "scaler": Part(25, processes=4, placeholders=REFERENCES),
    "comparison": Part(
        80, needs=("numpy", "sklearn", "scipy", "sqlalchemy", "cloudpickle", "loky"), placeholders=NEVER_CALLED
    ),
    "matrices": Part(40),
    "population": Part(
        45, needs=("numpy", "sklearn", "scipy"), placeholders=(*NEVER_CALLED, "sqlalchemy", "cloudpickle", "loky")
    ),
    "bench": Part(130),
    "tune": Part(35),
}
