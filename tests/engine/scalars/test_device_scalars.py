"""Scalars on a device: the CUDA text, run on the CPU, and tensor operations, against Python's own numbers."""

import math
from typing import Any

import pytest
import torch

from cases import rules as rule_cases
from cases import wrappers as wrapper_cases
from cases.emulated_scalars import EmulatedScalars
from thalweg import rules
from thalweg.engine.core.program import Program
from thalweg.engine.kernels.cuda.compiler import runtime_compiler
from thalweg.engine.kernels.cuda.scalars import scalars_source
from thalweg.engine.scalars.expressions import UntraceableError, trace
from thalweg.engine.scalars.program import ScalarInputs, TensorEvaluator, row_names, scalar_program
from thalweg.rules.math import hashing

RULES = [case.rule for case in [*rule_cases.CASES, *wrapper_cases.CASES]]
RULES += [
    rules.WarmRestarts(rules.SGD(momentum=0.9), period=7, stretch=1.3),
    rules.WarmRestarts(rules.SGD(momentum=0.9), period=6, stretch=1),
    rules.Prodigy(beta3=0.0, lr=0.5),
    rules.Prodigy(lr=0.0),
    rules.DAdaptSGD(lr=0.0),
    rules.AdEMAMix(),
]
PROGRAMS = [*map(Program, RULES), Program(rules.AdamW(), rounding="stochastic")]
STEPS = [*range(1, 46), 100, 999, 1_000, 10_000, 99_999, 1_000_000]
# A vectorized `pow`, `exp`, `log` or `cos` may differ from that of C by a unit in the last place. What is made of it
# differs by as many units more as it loses digits: 1 - β₁ᵗ near 0, or the position in a period of a restart.
INEXACT = {"**", "exp", "log", "cos"}
each_program = pytest.mark.parametrize("number", range(len(PROGRAMS)), ids=lambda k: f"{k}-{PROGRAMS[k].rule.name}")


@pytest.fixture(scope="module")
def emulated() -> EmulatedScalars:
    """The kernels of all programs, from one compilation."""
    return EmulatedScalars(PROGRAMS)


def doubles(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def expected_rows(program: Program) -> list[tuple[int, tuple[float, ...], float, dict[str, Any]]]:
    """Return the step, the recurrent scalars before it, the model's learning rate, and the coefficients of each step.

    The recurrent scalars at later, distant steps are those of the last step before.
    """
    rows, previous = [], program.initial_recurrent_scalars()
    for step in STEPS:
        model_lr = 1.5 * program.rule.base_lr(step) + 0.25 if program.rule.traits.uses_model_lr else 0.0
        c = program.coefficients(step, previous=previous, seed=3, position=5, model_lr=model_lr or None)
        rows.append((step, previous, model_lr, c._asdict()))
        previous = program.recurrent_scalars_of(c)
    return rows


@each_program
def test_the_kernel_gives_the_bits_of_python(number: int, emulated: EmulatedScalars) -> None:
    program = PROGRAMS[number]
    scalars = scalar_program(program)
    settings = [float(program.rule.settings()[name]) for name in scalars.settings]
    for step, previous, model_lr, expected in expected_rows(program):
        # The parameter is one of several: 5 among positions 0 to 6.
        steps = doubles([-1.0] * 5 + [step - 1] + [-1.0])
        recurrent = [doubles([math.nan] * 5 + [value] + [math.nan]) for value in previous]
        (row,) = emulated.run(number, settings, steps, recurrent, positions=[5], model_lr=model_lr, seed=3)
        assert row == pytest.approx(expected, rel=0, abs=0), step
        assert steps.tolist() == [-1.0] * 5 + [step] + [-1.0]
        for name, values in zip(scalars.recurrent, recurrent, strict=True):
            assert values[5] == expected[name]
            assert values.isnan().tolist() == [True] * 5 + [False, True]


@each_program
def test_nothing_is_written_when_a_gradient_overflowed(number: int, emulated: EmulatedScalars) -> None:
    program = PROGRAMS[number]
    scalars = scalar_program(program)
    settings = [float(program.rule.settings()[name]) for name in scalars.settings]
    steps = doubles([4.0])
    recurrent = [doubles([value]) for value in program.initial_recurrent_scalars()]
    before = [entry.clone() for entry in (steps, *recurrent)]
    (row,) = emulated.run(number, settings, steps, recurrent, positions=[0], model_lr=1.0, skip=torch.ones(1))
    assert all(map(math.isnan, row.values()))
    assert all(map(torch.equal, before, (steps, *recurrent)))
    (row,) = emulated.run(number, settings, steps, recurrent, positions=[0], model_lr=1.0, skip=torch.zeros(1))
    assert not any(map(math.isnan, row.values()))
    assert steps.tolist() == [5.0]


@each_program
def test_tensor_operations_give_the_numbers_of_python(number: int) -> None:
    """All steps at once, as those of so many parameters."""
    program = PROGRAMS[number]
    scalars = scalar_program(program)
    rows = expected_rows(program)
    steps = doubles([float(step) for step, *_ in rows])
    settings = {name: doubles(float(program.rule.settings()[name])) for name in scalars.settings}
    recurrent = {name: doubles([before[k] for _, before, *_ in rows]) for k, name in enumerate(scalars.recurrent)}
    inputs = ScalarInputs(steps, settings, recurrent, doubles([model_lr for _, _, model_lr, _ in rows]))
    results = TensorEvaluator(scalars.coefficients, torch.device("cpu"))(inputs.by_name())
    if program.needs_keys:
        key = hashing.signed(hashing.parameter_key(3, 5))
        results |= hashing.step_key_tensors(torch.full((len(rows),), key), steps)
    assert list(results) == row_names(program) == list(rows[0][3])
    operations = {node.operation for node in scalars.coefficients.nodes}
    for name, values in results.items():
        expected = doubles([float(row[name]) for *_, row in rows])
        if operations & INEXACT:
            assert torch.allclose(values.expand(len(rows)).double(), expected, rtol=1e-13, atol=1e-14), name
        else:
            assert torch.equal(values.expand(len(rows)).double(), expected), name


def test_every_rule_has_device_scalars() -> None:
    classes = [getattr(rules, name) for name in rules.__all__]
    classes = [kind for kind in classes if isinstance(kind, type) and kind.__module__.count(".") == 2]
    for kind in classes:
        scalar_program(Program(kind()))
    assert len(classes) > 50


def test_a_rule_that_reads_a_setting_as_a_float_is_named() -> None:
    with pytest.raises(UntraceableError, match="converted to a float"):
        trace(lambda x: {"y": float(x)}, ["x"])
    with pytest.raises(UntraceableError, match="converted to a float"):
        trace(lambda x: {"y": math.sqrt(x)}, ["x"])


def test_a_loop_without_an_end_is_refused() -> None:
    def halve(x: Any) -> dict[str, Any]:
        while x > 1:
            x = x / 2
        return {"x": x}

    with pytest.raises(UntraceableError, match="more than 512 questions"):
        trace(halve, ["x"])


def test_a_condition_that_is_asked_twice_has_one_answer() -> None:
    expressions = trace(lambda x: {"y": max(x, 1.0) + max(x, 1.0), "z": x if x > 0 else -x}, ["x"])
    evaluate = TensorEvaluator(expressions, torch.device("cpu"))
    results = evaluate({"x": doubles([-3.0, 0.5, 4.0])})
    assert results["y"].tolist() == [2.0, 2.0, 8.0]
    assert results["z"].tolist() == [3.0, 0.5, 4.0]


def test_nvrtc_compiles_every_operation_for_each_architecture() -> None:
    compiler = runtime_compiler()
    if compiler is None:
        pytest.skip("NVRTC is not installed")
    every = [
        rules.AdEMAMix(),
        rules.WarmRestarts(rules.NAdam()),
        rules.Lookahead(rules.Adam()),
        rules.ScheduleFreeSGD(),
    ]
    named = [(f"scalars_{k}", scalar_program(Program(rule)), k == 0) for k, rule in enumerate(every)]
    operations = {node.operation for _, scalars, _ in named for node in scalars.coefficients.nodes}
    assert operations >= {"%", "**", "exp", "log", "cos", "floor", "round", "sqrt", "choose"}
    source = scalars_source(named)
    for capability in ((8, 0), (9, 0), (10, 0)):
        assert compiler.compile(source, compiler.architecture(capability))
