"""Kernels: when they are made, when they are not, and what they are never given."""

import os
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from thalweg import optim
from thalweg.engine import c_compiler, compiled, ways
from thalweg.errors import ParameterError, SettingError


@pytest.fixture
def fresh_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine, and a process, that have never compiled a kernel."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiled, "_FUTURES", {})
    monkeypatch.setattr(compiled, "builds", [])
    monkeypatch.setattr(ways, "_SAID", set())
    return tmp_path


def stepped(optimizer: torch.optim.Optimizer, *params: torch.Tensor, num_steps: int = 1) -> None:
    for _ in range(num_steps):
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()


def test_nothing_but_a_new_program_is_compiled(fresh_machine: Path) -> None:
    params = [torch.ones(shape, requires_grad=True) for shape in ((3, 4), (5,), (), (1,), (0,), (2, 3, 3, 3))]
    optimizer = optim.AdamW(params[:4], lr=1e-3)
    schedule = lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=20)  # moves betas too
    for _ in range(10):
        stepped(optimizer, *params[:3])
        schedule.step()
    optimizer.prepare()
    stepped(optimizer, *params[:4])  # one joins late
    optimizer.add_param_group({"params": params[4:], "lr": 0.3, "weight_decay": 0.0, "eps": 1e-3})
    stepped(optimizer, *params)
    saved = optimizer.state_dict()
    resumed = optim.AdamW([{"params": params[:4]}, {"params": params[4:]}])
    resumed.load_state_dict(saved)
    stepped(resumed, *params)
    resumed.prepare()
    assert len(compiled.builds) == 1
    switched = optim.AdamW(params, amsgrad=True)
    switched.prepare()
    assert len(compiled.builds) == 2
    doubles = [torch.ones(3, dtype=torch.float64, requires_grad=True)]
    optim.AdamW(doubles).prepare()
    assert len(compiled.builds) == 3


def test_kernels_are_kept_between_processes(tmp_path: Path) -> None:
    script = (
        "import torch; from thalweg import optim; from thalweg.engine import compiled\n"
        "optimizer = optim.AdamW([torch.ones(3)], rounding='kahan'); first = optimizer.plan.parameters[0].choice.way\n"
        "optimizer.prepare(); print(first, len(compiled.builds))"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    said = [
        subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert said == ["flat 1\n", "compiled 0\n"]


def test_a_small_model_never_waits_for_the_compiler(fresh_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Never:
        def submit(self, *_: Any) -> "Future[Any]":
            return Future()

    monkeypatch.setattr(compiled, "_worker", Never)
    param = torch.ones(3, requires_grad=True)
    optimizer = optim.Adam([param])
    stepped(optimizer, param, num_steps=3)
    assert str(optimizer.plan).startswith("flat: until its kernel, which is compiled in the background, is ready")


def test_a_missing_compiler_is_said_once_and_is_no_error(
    fresh_machine: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", "/nowhere/cc")
    param = torch.ones(3, requires_grad=True)
    for kind in (optim.Adam, optim.SGD):
        optimizer = kind([param])
        stepped(optimizer, param, num_steps=2)
        assert str(optimizer.plan).startswith("flat: no C compiler was found (cc, gcc, clang, or the one named by CC)")
    assert len(caplog.records) == 1
    assert "steps run the flat way, which is slower: no C compiler was found" in caplog.text


def test_a_compiler_that_fails_is_no_error(fresh_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "false")
    assert str(optim.Adam([torch.ones(3)]).prepare()).startswith("flat: false -O3")


def test_a_broken_library_is_built_anew(fresh_machine: Path) -> None:
    script = "import torch; from thalweg import optim; optim.Adam([torch.ones(3)]).prepare()"
    subprocess.run([sys.executable, "-c", script], check=True)  # in a process of its own, which keeps no library open
    (library,) = (fresh_machine / "thalweg" / "kernels").glob("*.so")
    library.write_bytes(b"not a library")
    assert str(optim.Adam([torch.ones(3)]).prepare()).startswith("compiled:")
    assert compiled.builds == [str(library)]


def test_a_cache_that_cannot_be_written_is_no_error(fresh_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (fresh_machine / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(fresh_machine / "file"))
    assert str(optim.Adam([torch.ones(3)]).prepare()).startswith("compiled:")


def test_a_way_that_cannot_be_is_refused() -> None:
    gaps = torch.ones(4, 6)[:, ::2].requires_grad_()
    with pytest.raises(SettingError, match="Adam: way='compiled' must be possible, but a parameter has gaps in memory"):
        optim.Adam([gaps], way="compiled").plan  # noqa: B018
    with pytest.raises(SettingError, match="Adam: way='flat' must be possible, but a parameter is not contiguous"):
        optim.Adam([gaps], way="flat").plan  # noqa: B018
    assert str(optim.Adam([gaps]).plan).startswith("loop: a parameter is not contiguous")


def test_parameters_that_share_memory_step_one_after_the_other() -> None:
    whole = torch.ones(6)
    parts = [whole[:4].requires_grad_(), whole[2:].requires_grad_()]
    optimizer = optim.SGD(parts, lr=0.25)
    assert str(optimizer.plan).startswith("loop: two parameters share memory")
    stepped(optimizer, *parts)
    assert whole.tolist() == [0.75, 0.75, 0.5, 0.5, 0.75, 0.75]


# --- what may change under a kernel's feet ----------------------------------------------------------------------------


def prepared(*shape: int, **settings: Any) -> tuple[torch.Tensor, optim.RuleOptimizer]:
    param = torch.ones(shape, requires_grad=True)
    optimizer = optim.Adam([param], **settings)
    optimizer.prepare()
    stepped(optimizer, param)
    return param, optimizer


def swapped(param: torch.Tensor, grad: torch.Tensor) -> None:
    param.grad = torch.ones_like(param)
    param.grad.data = grad


@pytest.mark.parametrize(
    ("grad", "message"),
    [
        (torch.ones(2, 3, dtype=torch.float64), "the dtype of its parameter, torch.float32, got torch.float64"),
        (torch.ones(2, 3, dtype=torch.int32), "the dtype of its parameter, torch.float32, got torch.int32"),
        (torch.ones(2, 2), "the shape of its parameter, (2, 3), got (2, 2)"),
        (torch.ones(3, 2), "the shape of its parameter, (2, 3), got (3, 2)"),
        (torch.ones(6), "the shape of its parameter, (2, 3), got (6,)"),
    ],
    ids=str,
)
def test_a_wrong_gradient_gets_an_error_and_changes_nothing(grad: torch.Tensor, message: str) -> None:
    param, optimizer = prepared(2, 3)
    other = torch.ones(4, requires_grad=True)
    optimizer.add_param_group({"params": [other]})
    before = param.detach().clone()
    other.grad = torch.ones(4)
    swapped(param, grad)
    with pytest.raises(ParameterError) as error:
        optimizer.step()
    assert message in str(error.value)
    assert torch.equal(param, before)
    assert torch.equal(other, torch.ones(4))


def test_a_gradient_on_another_device_gets_an_error() -> None:
    param, optimizer = prepared(2, 3)
    param.grad = None
    param.grad = torch.ones(2, 3)
    elsewhere = torch.empty(2, 3, device="meta")
    optimizer._bindings  # noqa: B018
    batch = optimizer._ready(0)[0][0].batch
    assert not batch.lie_alike([elsewhere])
    with pytest.raises(ParameterError, match="the device of its parameter, cpu, got meta"):
        optimizer._ready(0)[0][0].step(optimizer._programs(0)(torch.float32), [elsewhere], 0)


def test_gradients_in_another_order_or_negated_are_read_right() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 2, generator=generator)
    negated = torch.complex(torch.zeros(2, 3), -values.t()).conj().imag
    assert negated.is_neg()
    ends = []
    for grad in (values.t().contiguous(), values.t(), negated, values.t()[None].expand(1, 2, 3)[0]):
        param, optimizer = prepared(2, 3)
        param.grad = grad
        optimizer.step()
        ends.append(param.detach())
    assert all(torch.equal(end, ends[0]) for end in ends)


def test_a_parameter_whose_memory_is_replaced_is_followed() -> None:
    param, optimizer = prepared(2, 3)
    old = param.data
    kept = old.clone()
    for new in (torch.full((2, 3), 5.0), torch.full((3, 2), 5.0).t()):
        param.data = new
        stepped(optimizer, param)
        assert torch.allclose(new, torch.full((2, 3), 5.0 - 1e-3))
    assert torch.equal(old, kept)


def test_state_that_the_user_replaces_is_used() -> None:
    param, optimizer = prepared(3)
    twin = torch.ones(3, requires_grad=True)
    other = optim.Adam([twin])
    stepped(other, twin)
    optimizer.state[param]["exp_avg"] = torch.full((3,), 0.5)
    other.state[twin]["exp_avg"].fill_(0.5)
    stepped(optimizer, param)
    stepped(other, twin)
    assert torch.equal(param, twin)
    optimizer.state[param]["step"] = torch.tensor(0.0)
    other.state[twin]["step"].zero_()
    stepped(optimizer, param)
    stepped(other, twin)
    assert torch.equal(param, twin)
    optimizer.state.clear()  # begin again
    stepped(optimizer, param)
    assert optimizer.state[param]["step"] == 1
    moved = optimizer.state[param]["exp_avg"]
    moved.data = moved.data.clone()  # as those do that move state out of the way and back
    stepped(optimizer, param)
    assert torch.allclose(optimizer.state[param]["exp_avg"], torch.full((3,), 0.19))


def test_autograd_is_told_of_the_change() -> None:
    param, optimizer = prepared(3)
    loss = (param * param).sum()
    param.grad = torch.ones(3)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_libraries_are_not_shared_by_different_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    here = c_compiler._digest("source", parallel=True)
    monkeypatch.setattr(c_compiler, "_processor", lambda: "another")
    assert c_compiler._digest("source", parallel=True) != here
