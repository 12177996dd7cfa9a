"""Diagnoses as ``diagnose`` returns them, made by hand, for tests of what people see of them."""

import math
from dataclasses import replace

from thalweg.diagnosis.diagnosis import Diagnosis
from thalweg.diagnosis.finding import Finding
from thalweg.diagnosis.run_record import Cure, Replay, RunRecord

STEPS = 250
SEEDS = (11, 12, 13)
LAYERS = tuple(f"body.{2 * depth}" for depth in range(12))


def run(name: str, seed: int, rate: float, floor: float = 0.1, *, diverges_at: int | None = None) -> RunRecord:
    """A run whose loss falls at a rate, or stops being finite at a step; its score is an accuracy."""
    losses = [floor + (2.3 - floor) * math.exp(-rate * step) + 0.02 * math.sin(step + seed) for step in range(STEPS)]
    scores = [(step, 1 - 0.9 * math.exp(-rate * step)) for step in range(0, STEPS + 1, 25)]
    if diverges_at is None:
        return RunRecord(name, seed, tuple(losses), tuple(scores), seconds=0.4)
    losses = [loss if step < diverges_at else math.nan for step, loss in enumerate(losses)][: diverges_at + 3]
    scores = [pair for pair in scores if pair[0] <= diverges_at]
    return RunRecord(name, seed, tuple(losses), (*scores, (diverges_at + 3, -math.inf)), ending="diverged", seconds=0.2)


def finding(kind: str, where: str | None = None, since: int = 0, severity: str = "error", **evidence: float | str):
    """A finding with sentences of its own."""
    return Finding(
        kind,
        where,
        since,
        severity,  # type: ignore[arg-type]  # a literal, of the caller
        evidence,
        "The gradient of the first layer is 2.1e-11, and that of the last is 0.34. So the first layers do not learn.",
        "Use ReLU and an initialization that keeps the scale of the signal.",
        "docs/diagnosis/causes/" + kind + ".md",
    )


def vanishing() -> Diagnosis:
    """A deep network whose gradients vanish, cured on three fresh seeds, with a further finding and a note."""
    cause = finding(
        "vanishing_gradient", "body.0", gradient_first=2.1e-11, gradient_last=0.34, layers=12, activation="Sigmoid"
    )
    further = (
        finding("class_imbalance", None, severity="warning", share_of_largest=0.81),
        finding("gradient_noise", None, 120, "note", noise_scale=310.0),
    )
    cured = run("ReLU and He initialization", 10, 0.03)
    return Diagnosis(
        name="mine.py:training",
        healthy=False,
        findings=(cause, *further),
        cure=Cure(
            kind="vanishing_gradient",
            where="body.0",
            name="ReLU and He initialization",
            code="for layer in model.body:\n    if isinstance(layer, nn.Linear):\n"
            "        nn.init.kaiming_normal_(layer.weight)",
            before=(0.1, 0.12, 0.09),
            after=(0.95, 0.96, 0.97),
            seeds=SEEDS,
            difference=0.857,
            low=0.82,
            high=0.89,
            verified=True,
        ),
        score_name="metric",
        steps=STEPS,
        seeds=SEEDS,
        sick=(run("as it is", 10, 1e-4), *(run("as it is", seed, 1e-4) for seed in SEEDS)),
        replays=(
            Replay("lr x10", "lr_too_low", None, True, run("lr x10", 10, 2e-4), 0.01, False),
            Replay("lr / 10", "lr_too_high", None, True, run("lr / 10", 10, 0.0), -0.2, False),
            Replay("Adam", "sgd_on_badly_scaled", None, True, run("Adam", 10, 3e-3), 0.4, False),
            Replay(
                "no decay",
                "weight_decay_too_strong",
                None,
                True,
                run("no decay", 10, 0.1, diverges_at=40),
                -math.inf,
                False,
            ),
            Replay(
                "residual connections",
                "vanishing_gradient",
                "body",
                False,
                RunRecord(
                    "residual connections",
                    10,
                    (),
                    (),
                    ending="failed",
                    message="RuntimeError: shapes (4, 64) and (4, 10)",
                ),
                math.nan,
                False,
            ),
            Replay(cured.name, "vanishing_gradient", "body.0", False, cured, 1.0, True),
        ),
        cured=tuple(run("ReLU and He initialization", seed, 0.03) for seed in SEEDS),
        profile={
            "gradient norm": {name: 10 ** (depth - 11.0) for depth, name in enumerate(LAYERS)},
            "activation scale": {name: 0.5 + 0.01 * depth for depth, name in enumerate(LAYERS)},
        },
        seconds=23.4,
    )


def not_a_number() -> Diagnosis:
    """A training whose loss stops being finite at step 37, compared by its loss, with a cure that is not verified."""
    whole = vanishing()
    cure = replace(
        whole.cure,  # type: ignore[type-var]  # it has one
        kind="nan_from_sqrt",
        name="a square root with a margin",
        code="torch.sqrt(x + 1e-12)",
        before=(-math.inf, -math.inf, -2.0),
        after=(-0.2, -0.3, -math.inf),
        difference=math.inf,
        low=-math.inf,
        high=math.inf,
        verified=False,
    )
    return replace(
        whole,
        findings=(finding("nan_from_sqrt", "distance", 37, value=math.nan, largest=math.inf, batches=3),),
        cure=cure,
        score_name="loss on held-back batches",
        sick=tuple(run("as it is", seed, 0.02, diverges_at=37) for seed in (10, *SEEDS)),
        cured=(*(run(cure.name, seed, 0.02) for seed in SEEDS[:2]), run(cure.name, 13, 0.02, diverges_at=90)),
        caution="The budget of 10 s ended before all changes were tried.",
    )


def healthy() -> Diagnosis:
    """A healthy training with a note."""
    return replace(
        vanishing(),
        healthy=True,
        findings=(finding("gradient_noise", None, 120, "note", noise_scale=310.0),),
        cure=None,
        sick=(run("as it is", 10, 0.05),),
        cured=(),
    )


def uncurable() -> Diagnosis:
    """A cause that no replay cures."""
    return replace(
        vanishing(), findings=(finding("labels_misaligned", None, correlation=0.003),), cure=None, cured=(), profile={}
    )


def unknown() -> Diagnosis:
    """A training that does not work, and whose cause was not found."""
    return replace(uncurable(), findings=(), replays=(), caution="Interrupted: this is what was known by then.")


def hostile(name: str) -> Diagnosis:
    """A diagnosis in which every text of the user's is this name."""
    whole = vanishing()
    cause = replace(whole.findings[0], where=name, evidence={name: name}, explanation=name, remedy=name)
    failed = RunRecord(name, 10, (), (), ending="failed", message=name)
    return replace(
        whole,
        name=name,
        findings=(cause, replace(whole.findings[2], where=name)),
        cure=replace(whole.cure, name=name, code=f"x = {name!r}  # {name}"),  # type: ignore[type-var]
        replays=(Replay(name, "vanishing_gradient", name, False, failed, math.nan, False), *whole.replays),
        profile={"gradient norm": {name: 0.1, "other": 0.2}, name: {name: -1.0}},
        caution=name,
    )


ALL = {function.__name__: function for function in (vanishing, not_a_number, healthy, uncurable, unknown)}
