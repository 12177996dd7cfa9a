"""torch's own harness, as it ships in the wheel: our classes given torch's inputs do what torch's classes do."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from thalweg import optim

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal import common_optimizers as harness

OURS: dict[str, type[optim.RuleOptimizer]] = {
    "SGD": optim.SGD,
    "Adagrad": optim.Adagrad,
    "RMSprop": optim.RMSprop,
    "Adam": optim.Adam,
    "AdamW": optim.AdamW,
    "Adadelta": optim.Adadelta,
    "Adamax": optim.Adamax,
    "NAdam": optim.NAdam,
    "RAdam": optim.RAdam,
    "Rprop": optim.Rprop,
    "ASGD": optim.ASGD,
}
# Rules that depart from torch's, as their `Departs:` says; cases/rules.py holds them to references. And LBFGS, which
# needs a closure: tests/optim/closures/test_lbfgs.py holds it to torch's; and SparseAdam:
# tests/optim/parameters/test_sparse_gradients.py.
OTHERS = {"Adafactor", "LBFGS", "Muon", "SparseAdam"}
# torch computes a part of theirs in float32.
COARSE = {"NAdam": 1e-6, "ASGD": 1e-6}
INFOS = [info for info in harness.optim_db if info.name in OURS]
# Inputs, with each of torch's kernels asked for and not, `differentiable` among them.
INPUTS = [
    pytest.param(
        info, inputs, id=f"{info.name}-{inputs.desc}-{'-'.join(key for key, on in inputs.kwargs.items() if on is True)}"
    )
    for info in INFOS
    for inputs in harness._get_optim_inputs_including_global_cliquey_kwargs("cpu", torch.float64, info)
]
each_info = pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)


def test_every_optimizer_of_ours_that_torch_has_is_here() -> None:
    ours = {name for name in optim.__all__ if hasattr(torch.optim, name)}
    assert ours == set(OURS) | OTHERS


def kinds(info: Any) -> tuple[Any, Any]:
    return OURS[info.name], info.optim_cls


def trained(kind: Any, kwargs: dict[str, Any], dtype: torch.dtype, schedulers: Any = ()) -> list[Tensor]:
    """Return the parameters after some steps on a bowl that is not a quadratic."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(shape, generator=generator, dtype=dtype) for shape in ((6, 4), (4,), (), (2, 3, 3, 3))]
    if not kwargs.get("differentiable"):
        params = [param.requires_grad_() for param in params]
    if kwargs.get("decoupled_weight_decay") and issubclass(kind, optim.RuleOptimizer):
        kind = {optim.NAdam: optim.NAdamW, optim.RAdam: optim.RAdamW, optim.Adam: optim.AdamW}[kind]
        kwargs = {key: value for key, value in kwargs.items() if key != "decoupled_weight_decay"}
    optimizer = kind(params, **copy.deepcopy(kwargs))
    schedules = [make(optimizer) for make in schedulers]
    for _ in range(12):
        loss = torch.zeros((), dtype=dtype)
        for k, param in enumerate(params):
            at = param.detach()
            param.grad = torch.tanh(at - k) + 0.1 * at
            loss += (at - k).cosh().log().sum() + 0.05 * at.square().sum()
        optimizer.step()
        for schedule in schedules:
            schedule.step(loss) if type(schedule).__name__ == "ReduceLROnPlateau" else schedule.step()
    return [param.detach() for param in params]


def assert_close(ours: list[Tensor], theirs: list[Tensor], rtol: float = 1e-9) -> None:
    for actual, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(actual, expected, rtol=rtol, atol=rtol / 10)


@pytest.mark.parametrize(("info", "inputs"), INPUTS)
def test_inputs(info: Any, inputs: Any) -> None:
    ours, theirs = kinds(info)
    ends = [trained(kind, inputs.kwargs, torch.float64) for kind in (ours, theirs)]
    # torch computes with a float32 learning rate in float32, and so with the number of steps to differentiate.
    coarse = torch.is_tensor(inputs.kwargs.get("lr")) or inputs.kwargs.get("differentiable")
    assert_close(*ends, rtol=1e-4 if coarse else COARSE.get(info.name, 1e-9))


@each_info
def test_schedulers(info: Any) -> None:
    for schedulers in info.scheduler_inputs:
        ends = [trained(kind, {"lr": 0.01}, torch.float64, schedulers) for kind in kinds(info)]
        assert_close(*ends, rtol=COARSE.get(info.name, 1e-9))


# Inputs that torch refuses because it has no kernel for them, and that work here.
WORKS_HERE = (
    "lr as Tensor doesn't work with foreach & not capturable",
    "betas must be either both floats or both Tensors",
    r"betas\[0\] as a Tensor is not supported for capturable=False and foreach=True",
)
ERRORS = [
    pytest.param(info, error, id=f"{info.name}-{error.optimizer_error_input.desc}")
    for info in INFOS
    for error in info.optim_error_inputs_func("cpu", torch.float32)
]


@pytest.mark.parametrize(("info", "error"), ERRORS)
def test_error_inputs(info: Any, error: Any) -> None:
    inputs = error.optimizer_error_input
    params = inputs.params if inputs.params is not None else [Parameter(torch.ones(2, 2))]
    if inputs.desc in WORKS_HERE:
        plain = {key: value for key, value in inputs.kwargs.items() if key != "foreach"}
        plain = {key: tuple(map(float, value)) if key == "betas" else float(value) for key, value in plain.items()}
        with pytest.raises(error.error_type, match=error.error_regex):
            info.optim_cls(params, **inputs.kwargs)
        actual = trained(OURS[info.name], inputs.kwargs, torch.float64)
        for ours, theirs in zip(actual, trained(info.optim_cls, plain, torch.float64), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)  # a float32 0.99 is not a float64 0.99
        return
    if error.error_type is UserWarning:
        with pytest.warns(error.error_type, match=error.error_regex):
            OURS[info.name](params, **inputs.kwargs)
        return
    with pytest.raises(error.error_type):
        OURS[info.name](params, **inputs.kwargs)


@each_info
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("options", [{}, {"maximize": True}, {"weight_decay": 0.1}], ids=str)
def test_complex_parameters(info: Any, dtype: torch.dtype, options: dict) -> None:
    if info.name == "Rprop":
        options = {key: value for key, value in options.items() if key != "weight_decay"}
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator, dtype=torch.complex128).to(dtype) for shape in ((3, 4), (5,), ())]
    grads = [
        [torch.randn(param.shape, generator=generator, dtype=torch.complex128).to(dtype) for param in start]
        for _ in range(10)
    ]
    ends, saved = [], []
    for kind in kinds(info):
        params = [param.clone().requires_grad_() for param in start]
        optimizer = kind(params, lr=0.01, **options)
        for step in grads:
            for param, grad in zip(params, step, strict=True):
                # Gradients may come as views that are yet to be conjugated, on which torch's own classes fail.
                param.grad = grad.conj().resolve_conj().conj() if kind is kinds(info)[0] else grad
            optimizer.step()
        ends.append([param.detach() for param in params])
        saved.append(optimizer.state_dict()["state"])
    for ours, theirs in zip(*ends, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    for index, entry in saved[1].items():
        for key, value in entry.items():
            if torch.is_tensor(value) and value.dim():
                torch.testing.assert_close(saved[0][index][key], value, rtol=1e-5, atol=1e-6)


@each_info
def test_mixed_dtypes_in_one_group(info: Any) -> None:
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64)
    params = [torch.ones(3, dtype=dtype, requires_grad=True) for dtype in dtypes]
    optimizer = OURS[info.name](params, lr=0.5)
    for _ in range(3):
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
    expected = params[1].detach()
    for param in params:
        actual = param.detach().real if param.is_complex() else param.detach()
        torch.testing.assert_close(
            actual.double(), expected, rtol=2e-2 if param.element_size() == 2 else 1e-5, atol=2e-2
        )
    assert len({line for line in str(optimizer.prepare()).splitlines() if not line.startswith(" ")}) == 1


@each_info
def test_grad_scaler(info: Any) -> None:
    ends = []
    for kind in kinds(info):
        param = torch.ones(3, requires_grad=True)
        optimizer = kind([param], lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for scale in (1.0, torch.inf, 2.0):  # the step between is skipped
            optimizer.zero_grad()
            scaler.scale((param * torch.tensor([1.0, -2.0, 0.5]) * scale).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        ends.append([param.detach()])
    assert ends[0][0].isfinite().all()
    torch.testing.assert_close(*ends)


@each_info
def test_steps_can_be_differentiated_through(info: Any) -> None:
    def stepped(kind: Any, param: Tensor, grad: Tensor) -> Tensor:
        param = param.clone()
        decay = {} if info.name == "Rprop" else {"weight_decay": 0.1}
        optimizer = kind([param], lr=0.1, differentiable=True, **decay)
        for factor in (1.0, 2.0):
            param.grad = grad * factor
            optimizer.step()
        return param

    param, grad = (torch.rand(5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    ours, theirs = kinds(info)
    assert torch.autograd.gradcheck(lambda *inputs: stepped(ours, *inputs), (param, grad))
    torch.testing.assert_close(stepped(ours, param, grad), stepped(theirs, param, grad), rtol=2e-5, atol=0)
