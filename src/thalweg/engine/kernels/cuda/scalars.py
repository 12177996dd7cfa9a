"""The scalars of a step as CUDA text: a kernel with a thread for each parameter, in double precision.

It reads the settings of a group, the step counts and the recurrent scalars where they lie on the device, and writes a
row of coefficients for each parameter. A second launch counts the step, once it is taken. So a step that a CUDA graph
replays follows every schedule, and no number passes through the host. If `skip` points to a number other than 0, as
`found_inf` of a GradScaler does, nothing is written, and the step does not count.

With ``EMULATED`` defined, a C++ compiler makes the same text for the CPU.
"""

import ctypes
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from thalweg.engine.core.program import Program
from thalweg.engine.kernels import library_cache
from thalweg.engine.kernels.cuda import driver
from thalweg.engine.kernels.cuda.call import row_length
from thalweg.engine.kernels.cuda.driver import Device, KernelLaunch
from thalweg.engine.kernels.kernel_spec import UnavailableError
from thalweg.engine.scalars.expressions import Expressions, Node
from thalweg.engine.scalars.program import (
    MODEL_LR,
    STEP,
    ScalarInputs,
    ScalarProgram,
    TensorEvaluator,
    number_settings,
    row_names,
    scalar_program,
)
from thalweg.rules.math import hashing

WIDTH = 64  # threads in a block: there are few parameters, and double precision is slow on most GPUs

_NAME = "scalars"
_NUM_TRIED = 8  # steps that a new kernel is tried for
_TOLERANCE = 1e-12  # of `pow` and its like, whose last bit differs

# The argument of the kernel. All of its fields have 8 bytes. The addresses of the recurrent scalars follow.
FIELDS = (
    ("count", "int64_t", "parameters of the batch"),
    ("row_length", "int64_t", "the distance of two rows"),
    ("counting", "int64_t", "0 to write the rows of a step; 1 to count the step when it is taken"),
    ("settings", "const double *", "the settings of the group, in the order of `ScalarProgram.settings`"),
    ("model_lr", "const double *", "the highest learning rate of all groups; null if the rule does not need it"),
    ("skip", "const float *", "if it points to a number other than 0, nothing is written; may be null"),
    ("positions", "const int64_t *", "the index of each parameter in the vectors of all parameters"),
    ("keys", "const uint64_t *", "the key of the random numbers of each parameter; null if none are drawn"),
    ("rows", "double *", "the coefficients of each parameter"),
    ("steps", "double *", "the steps of all parameters that are done"),
)

# The struct comes between these two.
_TYPES = """\
#ifdef EMULATED
#include <math.h>
#include <stdint.h>
#elif defined(__CUDACC_RTC__)
typedef long long int64_t; typedef unsigned long long uint64_t;
#endif"""
_PLATFORM = """\
#ifdef EMULATED
#define DEVICE static inline
#define KERNEL(name) static void name##_thread(const ScalarCall &call, int64_t k); \\
    extern "C" int name(const ScalarCall *call, int64_t blocks, int) { \\
        for (int64_t k = 0; k < call->count && k < blocks * WIDTH; k++) name##_thread(*call, k); \\
        return 0; \\
    } \\
    static void name##_thread(const ScalarCall &call, int64_t k)
#else
#define DEVICE static __device__ __forceinline__
#define KERNEL(name) static __device__ __forceinline__ void name##_thread(const ScalarCall &call, int64_t k); \\
    extern "C" __global__ void name(const ScalarCall call) { \\
        const int64_t k = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; \\
        if (k < call.count) name##_thread(call, k); \\
    } \\
    static __device__ __forceinline__ void name##_thread(const ScalarCall &call, int64_t k)
#endif
/* As in Python, the result has the sign of the divisor. */
DEVICE double modulo(double a, double b) {
    const double r = fmod(a, b);
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
"""

_C = {"%": "modulo({}, {})", "**": "pow({}, {})", "choose": "{} ? {} : {}"}
_C |= {"neg": "-{}", "abs": "fabs({})", "round": "rint({})"}
_C |= {name: name + "({})" for name in ("sqrt", "exp", "log", "cos", "floor")}


def max_recurrent(programs: Sequence[ScalarProgram]) -> int:
    """Return the number of recurrent scalars that a struct for these programs has room for."""
    return max([1, *(len(program.recurrent) for program in programs)])


def call_structure(num_recurrent: int) -> type[ctypes.Structure]:
    """Return the argument of the kernel as a structure of ctypes. Addresses are integers; 0 is null.

    Args:
        num_recurrent: The number of recurrent scalars that there is room for.
    """
    types = {"int64_t": ctypes.c_int64}
    fields: list[tuple[str, type]] = [(name, types.get(c_type, ctypes.c_uint64)) for name, c_type, _ in FIELDS]
    return type(
        "ScalarCall", (ctypes.Structure,), {"_fields_": [*fields, ("recurrent", ctypes.c_uint64 * num_recurrent)]}
    )


def scalars_source(programs: Sequence[tuple[str, ScalarProgram, bool]]) -> str:
    """Print the scalars of programs as CUDA text.

    Args:
        programs: For each kernel its name, the scalars, and True if each parameter has keys of its random numbers.

    Returns:
        The text. Its only argument is a struct as :func:`call_structure` describes it, with room for
        ``max_recurrent(programs)`` scalars.
    """
    room = max_recurrent([program for _, program, _ in programs])
    fields = [f"    {c_type} {name};  /* {meaning} */" for name, c_type, meaning in FIELDS]
    fields.append(f"    double *recurrent[{room}];  /* the recurrent scalars of all parameters */")
    struct = "\n".join(["struct ScalarCall {", *fields, "};"])
    return "\n".join(
        [
            f"#define WIDTH {WIDTH}",
            _TYPES,
            struct,
            _PLATFORM,
            _keys_text(),
            *(_kernel_text(*program) for program in programs),
        ]
    )


def _keys_text() -> str:
    mixing = "".join(f"    x = (x ^ (x >> {shift})) * {factor:#x}ull;\n" for shift, factor in hashing.MIXING)
    return (
        "DEVICE uint64_t step_key(uint64_t key, double step) {\n"
        f"    uint64_t x = key + (uint64_t)step * {hashing.INCREMENT:#x}ull;\n"
        f"{mixing}    return x ^ (x >> {hashing.LAST_SHIFT});\n}}"
    )


def _kernel_text(name: str, program: ScalarProgram, has_keys: bool) -> str:
    def value_of(source: str) -> str:
        if source in (STEP, MODEL_LR):
            return {STEP: "step", MODEL_LR: "*call.model_lr"}[source]
        kind, _, scalar = source.partition(" ")
        if kind == "setting":
            return f"call.settings[{program.settings.index(scalar)}]"
        return f"call.recurrent[{program.recurrent.index(scalar)}][at]"

    expressions = program.coefficients
    columns = list(expressions.results)
    lines = [
        "if (call.skip && *call.skip != 0) return;",
        "const int64_t at = call.positions[k];",
        "const double step = call.steps[at] + 1;",
        "double *row = call.rows + k * call.row_length;",
        "if (call.counting) {",
        "    call.steps[at] = step;",
        *(f"    call.recurrent[{k}][at] = row[{columns.index(scalar)}];" for k, scalar in enumerate(program.recurrent)),
        "    return;",
        "}",
        *_statements(expressions, value_of),
        *(f"row[{column}] = v{number};" for column, number in enumerate(expressions.results.values())),
    ]
    if has_keys:
        column, bits = len(expressions.results), hashing.KEY_BITS
        lines += [
            "const uint64_t key = step_key(call.keys[k], step);",
            f"row[{column}] = (double)(key & {2**bits - 1:#x});",
            f"row[{column + 1}] = (double)(key >> {64 - bits});",
        ]
    body = "\n".join(f"    {line}" for line in lines)
    return f"KERNEL({name}) {{\n{body}\n}}"


def _statements(expressions: Expressions, value_of: Callable[[str], str]) -> list[str]:
    """Return a statement for each node. All are computed, also those that no choice takes."""
    lines = []
    for number, node in enumerate(expressions.nodes):
        is_condition = node.operation in ("<", "<=", ">", ">=", "==", "!=")
        lines.append(f"const {'int' if is_condition else 'double'} v{number} = {_expression(node, value_of)};")
    return lines


def _expression(node: Node, value_of: Callable[[str], str]) -> str:
    if node.operation == "input":
        return value_of(node.operands[0])
    if node.operation == "constant":
        return _literal(float.fromhex(node.operands[0]))
    operands = [f"v{operand}" for operand in node.operands]
    pattern = _C.get(node.operation)
    return pattern.format(*operands) if pattern else f"{operands[0]} {node.operation} {operands[1]}"


def _literal(value: float) -> str:
    """Return a number in C; its decimal digits give the same number back."""
    if value in (float("inf"), -float("inf")):
        return f"{'-' if value < 0 else ''}(1e300 * 1e300)"
    return repr(value)


class ScalarKernel:
    """Computes the coefficients of parameters, and counts their steps, in one launch each.

    Args:
        program: The program of the parameters.
        steps: The step counts of all parameters on the device.
        recurrent: The recurrent scalars of all parameters on the device, by name.
        positions: The index of each parameter in these, as int64 on the device.

    Raises:
        UnavailableError: If there is no kernel for the device.
    """

    def __init__(self, program: Program, steps: Tensor, recurrent: Mapping[str, Tensor], positions: Tensor) -> None:
        device = driver.device_of(steps.device)
        if device is None:
            raise UnavailableError(f"there are no kernels for {steps.device}")
        self._device = device
        self._program, self._num_scalars = program, row_length(len(row_names(program)))
        scalars = scalar_program(program)
        self._function = _function(program, device)
        self._fields = call_structure(max_recurrent([scalars]))()
        self._arguments = (ctypes.c_void_p * 1)(ctypes.addressof(self._fields))
        self._held = steps, dict(recurrent), positions
        fields = self._fields
        fields.count, fields.row_length = len(positions), self._num_scalars
        fields.positions, fields.steps = positions.data_ptr(), steps.data_ptr()
        fields.recurrent[: len(scalars.recurrent)] = [recurrent[name].data_ptr() for name in scalars.recurrent]

    def rows(self, settings: Tensor, keys: Tensor | None, model_lr: Tensor | None) -> Tensor:
        """Return the coefficients of the next step of each parameter; nothing else is written.

        Args:
            settings: The settings of the group, in the order of `number_settings`, in float64.
            keys: The key of the random numbers of each parameter, as int64; None if none are drawn.
            model_lr: The highest learning rate of all groups, in float64, for rules that need it.
        """
        rows = torch.empty((self._fields.count, self._num_scalars), dtype=torch.float64, device=settings.device)
        fields = self._fields
        fields.settings, fields.rows = settings.data_ptr(), rows.data_ptr()
        fields.keys = 0 if keys is None else keys.data_ptr()
        fields.model_lr = 0 if model_lr is None else model_lr.data_ptr()
        self._launch(0, None)
        return rows

    def count(self, rows: Tensor, skip: Tensor | None) -> None:
        """Count a step with these coefficients, and store its recurrent scalars, unless the device skips it."""
        self._fields.rows = rows.data_ptr()
        self._launch(1, skip)

    def _launch(self, counting: int, skip: Tensor | None) -> None:
        fields = self._fields
        fields.counting, fields.skip = counting, 0 if skip is None else skip.data_ptr()
        launch = KernelLaunch(self._function, -(-fields.count // WIDTH), self._arguments)
        self._device.launch([launch], WIDTH, self._device.stream())


def create(program: Program, steps: Tensor, recurrent: Mapping[str, Tensor], positions: Tensor) -> ScalarKernel | None:
    """Return the kernel of a program that was tried against tensor operations; None if there is none that is right.

    This may compile the kernel, and waits for the device.
    """
    try:
        tried = torch.arange(_NUM_TRIED, dtype=torch.float64, device=steps.device)
        initial = {name: torch.full_like(tried, value) for name, value in program.rule.traits.recurrent_scalars.items()}
        candidate = ScalarKernel(program, tried, initial, torch.arange(_NUM_TRIED, device=steps.device))
        if not _agrees(candidate, program, tried, initial):
            return None
        return ScalarKernel(program, steps, recurrent, positions)
    except UnavailableError:
        return None


def _agrees(kernel: ScalarKernel, program: Program, steps: Tensor, recurrent: Mapping[str, Tensor]) -> bool:
    """Return True if a kernel gives the numbers of tensor operations."""
    names = number_settings(program.rule)
    numbers = [float(program.rule.settings()[name]) for name in names]
    settings = torch.tensor(numbers, dtype=torch.float64, device=steps.device)
    model_lr = torch.ones((), dtype=torch.float64, device=steps.device)
    scalars = scalar_program(program)
    inputs = ScalarInputs(steps + 1, dict(zip(names, settings.unbind(), strict=True)), recurrent, model_lr)
    expected = TensorEvaluator(scalars.coefficients, steps.device)(inputs.by_name())
    keys = torch.zeros(len(steps), dtype=torch.int64, device=steps.device) if program.needs_keys else None
    rows = kernel.rows(settings, keys, model_lr)
    return all(
        torch.allclose(rows[:, k], value.expand(len(steps)), rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)
        for k, value in enumerate(expected.values())
    )


_FUNCTIONS: dict[tuple[int, str], object] = {}


def _function(program: Program, device: Device) -> object:
    """Return the kernel of a program on a device: of this process, of an earlier one, or newly compiled."""
    source = scalars_source([(_NAME, scalar_program(program), program.needs_keys)])
    key = id(device), source
    if key not in _FUNCTIONS:
        name = device.image_name(source)
        image = library_cache.read(name)
        if image is None:
            image = device.compile(source)
            library_cache.keep(name, image)
        _FUNCTIONS[key] = device.load(image).function(_NAME)
    return _FUNCTIONS[key]
