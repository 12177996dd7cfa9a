"""Kernels: when they are made, when they are not, and what they are never given."""

import os
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from thalweg import optim, rules
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
    monkeypatch.setattr(compiled, "_in_background", lambda *_: Future())
    param = torch.ones(3, requires_grad=True)
    optimizer = optim.Adam([param])
    stepped(optimizer, param, num_steps=3)
    assert str(optimizer.plan).startswith("flat: until its kernel, which is compiled in the background, is ready")


def test_the_compilers_thread_ends_with_its_work(fresh_machine: Path) -> None:
    # While it lives it holds a team of OpenMP threads, which slows every small operation of the process tenfold.
    optim.Adam([torch.ones(3, requires_grad=True)]).prepare()
    for thread in threading.enumerate():
        if thread.name.startswith("thalweg-compiler"):
            thread.join(timeout=10)
            assert not thread.is_alive()


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
    assert str(optim.Adam([gaps]).plan).startswith("loop: a parameter has gaps in memory")


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
    assert batch.where([elsewhere]) is None
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


def test_a_checkpoint_of_another_shape_is_refused() -> None:
    small, large = torch.ones(4, 4, requires_grad=True), torch.ones(4096, 4, requires_grad=True)
    begun, resumed = optim.Adam([small]), optim.Adam([large])
    stepped(begun, small)
    resumed.load_state_dict(begun.state_dict())
    with pytest.raises(ParameterError, match=r"must have shape \(4096, 4\), got \(4, 4\)"):
        stepped(resumed, large)
    param, optimizer = prepared(3)
    optimizer.state[param]["exp_avg"] = torch.zeros(7)
    with pytest.raises(ParameterError, match=r"must have shape \(3,\), got \(7,\)"):
        stepped(optimizer, param)


@pytest.mark.parametrize(
    ("before", "after"), [(slice(1000), slice(10)), (slice(10), slice(1000))], ids=["less", "more"]
)
def test_a_parameter_that_changes_its_size_in_place_is_followed(before: slice, after: slice) -> None:
    memory = torch.ones(1000)
    param = torch.nn.Parameter(memory[before])
    optimizer = optim.SGD([param], lr=0.25, way="compiled")
    stepped(optimizer, param)
    memory.fill_(1.0)
    param.grad = None
    param.data = memory[after]
    stepped(optimizer, param)
    assert torch.equal(memory[after], torch.full_like(memory[after], 0.75))
    assert memory.sum() == 1000 - 0.25 * len(memory[after])


def test_a_parameter_that_changes_its_dtype_in_place_is_followed() -> None:
    memory = torch.ones(64)
    param = torch.nn.Parameter(memory)
    optimizer = optim.SGD([param], lr=0.5, way="compiled")
    stepped(optimizer, param)
    param.grad = None
    param.data = memory.view(torch.bfloat16)[:16].fill_(1.0)
    stepped(optimizer, param)
    assert torch.equal(param, torch.full((16,), 0.5, dtype=torch.bfloat16))


def test_the_default_device_and_dtype_are_none_of_our_business(fresh_machine: Path) -> None:
    param = torch.ones(3, requires_grad=True)
    param.grad = torch.ones(3)
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float64)
    try:
        optimizer = optim.Adam([param], lr=0.1, way="compiled")
        optimizer.step()
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert optimizer.state[param]["step"].dtype == torch.float32
    assert torch.allclose(param.detach(), torch.full((3,), 0.9))


def test_zeros_without_memory_are_gradients() -> None:
    param, empty = torch.ones(3, requires_grad=True), torch.zeros(0, requires_grad=True)
    optimizer = optim.SGD([param, empty], lr=0.5, weight_decay=1.0, way="compiled")
    param.grad, empty.grad = torch._efficientzerotensor((3,)), torch.zeros(0)
    optimizer.step()
    assert torch.equal(param, torch.full((3,), 0.5))


def test_a_tensor_class_of_its_own_is_left_to_the_loop() -> None:
    class Own(torch.Tensor):
        pass

    param = torch.ones(3).as_subclass(Own).requires_grad_()
    assert str(optim.SGD([param]).plan).startswith("loop: a parameter is of a tensor class of its own")


def test_a_view_that_is_yet_to_be_negated_is_refused() -> None:
    param = torch._neg_view(torch.ones(3)).requires_grad_()
    param.grad = torch.ones(3)
    with pytest.raises(ParameterError, match=r"must hold its own numbers, got a view of shape \(3,\)"):
        optim.SGD([param]).step()


def test_another_state_put_in_place_of_ours_is_used() -> None:
    param, optimizer = prepared(3)
    optimizer.state = defaultdict(dict)
    stepped(optimizer, param)
    assert optimizer.state[param]["step"] == 1
    assert len(optimizer.state_dict()["state"]) == 1


def test_parameters_that_are_replaced_or_reordered_in_a_group_keep_their_state() -> None:
    ends = []
    for kind in (torch.optim.Adam, optim.Adam):
        first, second = (torch.ones(2, requires_grad=True) for _ in range(2))
        optimizer = kind([first, second], lr=0.1)
        stepped(optimizer, first, num_steps=3)
        optimizer.param_groups[0]["params"].reverse()
        first.grad = second.grad = torch.ones(2)
        optimizer.step()
        grown = torch.ones(3, requires_grad=True)  # as Gaussian splatting does
        kept = optimizer.state.pop(first)
        for key in ("exp_avg", "exp_avg_sq"):
            kept[key] = torch.cat([kept[key], torch.zeros(1)])
        optimizer.state[grown] = kept
        optimizer.param_groups[0]["params"][1] = grown
        stepped(optimizer, grown, second)
        ends.append([first.detach(), second.detach(), grown.detach()])
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other)


def test_a_note_of_the_users_in_the_state_is_no_step() -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = optim.Adam([param])
    optimizer.state[param]["name"] = "w"
    stepped(optimizer, param)
    assert optimizer.state[param]["step"] == 1


def test_state_in_another_order_in_memory_is_taken() -> None:
    param, optimizer = prepared(2, 3, 4, 4)
    twin, other = prepared(2, 3, 4, 4)
    entry = optimizer.state[param]["exp_avg"]
    optimizer.state[param]["exp_avg"] = entry.to(memory_format=torch.channels_last)
    stepped(optimizer, param)
    stepped(other, twin)
    assert torch.equal(param, twin)


def test_a_sparse_gradient_of_a_transposed_parameter_is_read_right() -> None:
    param = torch.zeros(4, 3).t().requires_grad_()
    param.grad = torch.sparse_coo_tensor([[1]], [[1.0, 2.0, 3.0, 4.0]], (3, 4), check_invariants=True)
    optim.SGD([param], lr=1.0, momentum=0.9).step()
    assert param.tolist() == [[0.0] * 4, [-1.0, -2.0, -3.0, -4.0], [0.0] * 4]


def test_a_rounding_written_into_a_group_is_checked() -> None:
    param, optimizer = prepared(3)
    optimizer.param_groups[0]["rounding"] = "kahn"
    with pytest.raises(SettingError, match="rounding must be one of nearest, kahan, stochastic, got 'kahn'"):
        stepped(optimizer, param)
    half = torch.ones(3, dtype=torch.float16, requires_grad=True)
    resumed = optim.SGD([half])
    brains = optim.SGD([torch.ones(3, dtype=torch.bfloat16)], rounding="stochastic")
    resumed.load_state_dict(brains.state_dict())
    with pytest.raises(ParameterError, match="stochastic rounding is for bfloat16"):
        stepped(resumed, half)


@dataclass(frozen=True, kw_only=True)
class Wilful(rules.Rule, scope="elementwise"):
    """A rule that no kernel can be made of."""

    lr: float = rules.hyper(0.5, ">= 0", symbol="η", doc="length of the step")

    def coefficients(self, step: int) -> Any:
        return rules.row(lr=self.lr, d=0.1 / step)

    def direction(self, param: torch.Tensor, grad: torch.Tensor, state: Any, c: Any) -> Any:
        return grad * (2.0 if float(grad.amax()) > 10.0 else 1.0), state


def test_a_rule_that_cannot_be_recorded_runs_another_way() -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = optim.optimizer_for(Wilful)([param])
    stepped(optimizer, param)
    assert torch.equal(param, torch.full((3,), 0.5))
    assert str(optimizer.plan).startswith("flat: the rule cannot be recorded: RuntimeError")


def test_a_number_that_a_rule_reads_off_itself_is_not_baked_into_a_kernel() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Baked(rules.Rule, scope="elementwise"):
        """A rule that does not take its number from the coefficients."""

        lr: float = rules.hyper(0.5, ">= 0", symbol="η", doc="length of the step")

        def coefficients(self, step: int) -> Any:
            return rules.row()

        def direction(self, param: torch.Tensor, grad: torch.Tensor, state: Any, c: Any) -> Any:
            return grad, state

        def apply(self, param: torch.Tensor, direction: torch.Tensor, state: Any, c: Any) -> Any:
            return param - self.lr * direction, state

    for lr in (0.5, 0.25):
        param = torch.ones(3, requires_grad=True)
        optimizer = optim.optimizer_for(Baked)([param], lr=lr)
        stepped(optimizer, param, num_steps=2)
        assert torch.equal(param, torch.full((3,), 1 - 2 * lr))
        assert str(optimizer.plan).startswith("flat: kernels do not know a number that the rule reads off itself")


def test_steps_work_in_inference_mode(fresh_machine: Path) -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = optim.SGD([param], lr=0.25)
    param.grad = torch.ones(3)
    with torch.inference_mode():
        optimizer.step()
        optimizer.prepare()
        optimizer.step()
    assert torch.equal(param, torch.full((3,), 0.5))


def test_a_process_that_was_forked_compiles_its_own() -> None:
    script = (
        "import os, torch\n"
        "from thalweg import optim\n"
        "optim.Adam([torch.ones(3)], way='compiled').plan\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    optim.SGD([torch.ones(3)], way='compiled').plan\n"
        "    os._exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"XDG_CACHE_HOME": cache}
        run = [sys.executable, "-W", "ignore", "-c", script]
        done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == "7\n", done.stderr
