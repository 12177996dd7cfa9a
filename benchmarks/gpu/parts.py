"""The parts, in the order in which they run, with the time and the packages that each needs."""

from typing import NamedTuple


class Part(NamedTuple):
    """A part: the module of the same name in `benchmarks/gpu` has its function `run(session)`.

    Attributes:
        content: The question that it answers, for the documents.
        seconds: Its share of the ten minutes. It leaves checks out when this time is over, and is ended a little later.
        processes: The most processes that share its checks; 1 if it measures times.
        needs: Modules that it imports. It is skipped if one is missing.
        placeholders: Modules that stand behind a placeholder if they are missing.
        module: The module of the part, if it is not the one of its name here.
        only_by_name: True if it runs only when it is named, as it answers no question of users.
    """

    content: str
    seconds: int
    processes: int = 1
    needs: tuple[str, ...] = ()
    placeholders: tuple[str, ...] = ()
    module: str = ""
    only_by_name: bool = False


REFERENCES = ("prodigyopt", "schedulefree")  # `cases` imports them; only tests on the CPU compare with them
NEVER_CALLED = ("optuna", "rich", "click", "jinja2", "matplotlib")  # by a training; `thalweg.comparison` asks for them

PARTS: dict[str, Part] = {
    "cases": Part(
        "every rule and wrapper in every precision, by kernel and by the loop on the device, beside the loop on a CPU",
        100,
        processes=8,
        placeholders=REFERENCES,
    ),
    "kit": Part("the conformance kit for every optimizer of ours", 80, processes=8, placeholders=REFERENCES),
    "graphs": Part(
        "every rule captured and replayed beside the same steps one by one; all schedules; a wait is an error",
        50,
        processes=8,
        placeholders=REFERENCES,
    ),
    "scaler": Part("`GradScaler` with steps that overflow, for every rule", 25, processes=4, placeholders=REFERENCES),
    "comparison": Part(
        "a comparison on `digits` and `characters`, by the CPU and by the device",
        70,
        needs=("numpy", "sklearn", "scipy", "sqlalchemy", "cloudpickle"),
        placeholders=NEVER_CALLED,
    ),
    "matrices": Part("Muon, SOAP and Shampoo beside torch's and others', and how orthogonal a step is", 40),
    "population": Part(
        "128 small models as one program, beside one by one and beside the CPU",
        45,
        needs=("numpy", "sklearn", "scipy"),
        placeholders=(*NEVER_CALLED, "sqlalchemy", "cloudpickle"),
    ),
    "bench": Part(
        "steps of all rules with rivals, on five models: time, host time, bandwidth, memory, waits, graphs", 125
    ),
    "tune": Part("sizes and hints of the kernels that change their speed alone", 35),
    "limits": Part(
        "sizes from which stacks and strips of matrices pay, and the rate of products (only if it is named)",
        240,
        only_by_name=True,
    ),
}
