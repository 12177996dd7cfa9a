"""Testing: a conformance kit for anyone's optimizer.

    from thalweg.testing import check_optimizer

    found = check_optimizer(lambda params: torch.optim.AdamW(params, lr=1e-2))
    print(found)
    assert found.passed

Each check is one thing that users of `torch.optim` count on and that a released library has got wrong. None knows a
formula: what is compared is an optimizer with itself under another circumstance (resumed, late, copied, maximized),
or with a reference that is given.
"""

import copy
import io
import pickle
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

Factory = Callable[[Any], torch.optim.Optimizer]
Outcome = Literal["passed", "failed", "refused", "skipped"]

SHAPES: tuple[tuple[int, ...], ...] = ((5, 3), (4, 3, 3, 3), (7,))


@dataclass(frozen=True)
class Finding:
    """What one check found: `refused` is a clear error in place of a result, `skipped` says what was missing."""

    check: str
    outcome: Outcome
    detail: str = ""
    number: float | None = None


@dataclass(frozen=True)
class Conformance:
    """What all checks found."""

    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The checks that failed."""
        return tuple(finding for finding in self.findings if finding.outcome == "failed")

    def __getitem__(self, check: str) -> Finding:
        return next(finding for finding in self.findings if finding.check == check)

    def __str__(self) -> str:
        lines = []
        for one in self.findings:
            number = "" if one.number is None else f"{one.number:.3g}"
            lines.append(f"{one.outcome:8} {one.check:32} {number} {one.detail}".rstrip())
        return "\n".join(lines)


def check_optimizer(
    factory: Factory,
    *,
    reference: Factory | None = None,
    tolerance: float = 1e-9,
    variants: Mapping[str, Factory] | None = None,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    only: Sequence[str] | None = None,
) -> Conformance:
    """Run every check on the optimizers that `factory(params)` makes.

    Args:
        factory: makes the optimizer for parameters, named parameters or groups, always at the same settings, which
            should include a weight decay if there is one
        reference: makes one to agree with, in float64 over 20 steps
        tolerance: the relative error of the whole change that is allowed to it
        variants: other ways to run the same optimizer, by name; each must agree to the last bit
        shapes: of the parameters that are trained; those of a rule for matrices need two dimensions
        only: names of the checks to run

    An exception counts as a failure, with its text.

    """
    kit = Kit(factory, reference, tolerance, dict(variants or {}), tuple(shapes))
    return Conformance(tuple(_carried_out(name, kit) for name in CHECKS if only is None or name in only))


class RefusedError(Exception):
    """The optimizer said clearly that it does not do this."""


class SkippedError(Exception):
    """There is nothing to check."""


@dataclass(frozen=True)
class Kit:
    """What a check works with."""

    factory: Factory
    reference: Factory | None
    tolerance: float
    variants: dict[str, Factory]
    shapes: tuple[tuple[int, ...], ...]

    def params(self, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """Fresh parameters, always the same."""
        generator = torch.Generator().manual_seed(1)
        drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in self.shapes]
        return [param.to(dtype).requires_grad_() for param in drawn]

    def made(self, params: Any, factory: Factory | None = None) -> torch.optim.Optimizer:
        """An optimizer for these parameters, ready to train."""
        optimizer = (factory or self.factory)(params)
        if callable(getattr(optimizer, "train", None)):
            optimizer.train()  # type: ignore[attr-defined]  # as schedule-free ones want to be told
        return optimizer


def _carried_out(name: str, kit: Kit) -> Finding:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            number = CHECKS[name](kit)
    except RefusedError as refusal:
        return Finding(name, "refused", _line(refusal))
    except SkippedError as reason:
        return Finding(name, "skipped", _line(reason))
    except AssertionError as failure:
        return Finding(name, "failed", _line(failure))
    except Exception as error:  # whatever another's optimizer raises is what was found
        return Finding(name, "failed", f"{type(error).__name__}: {_line(error)}")
    return Finding(name, "passed", number=number)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _gradients(params: Sequence[Tensor], step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return [
        (torch.randn(param.shape, generator=generator, dtype=torch.float64) + 0.3).to(param.dtype) for param in params
    ]


def _train(optimizer: torch.optim.Optimizer, params: Sequence[Tensor], steps: range) -> None:
    for step in steps:
        for param, grad in zip(params, _gradients(params, step), strict=True):
            param.grad = grad
        optimizer.step()


def _copied(params: Sequence[Tensor]) -> list[Tensor]:
    return [param.detach().clone().requires_grad_() for param in params]


def _assert_same(found: Sequence[Tensor], expected: Sequence[Tensor], what: str) -> None:
    for one, other in zip(found, expected, strict=True):
        if not torch.equal(one, other):
            worst = float((one.detach() - other.detach()).abs().max())
            raise AssertionError(f"{what}: off by {worst:.3g} for shape {tuple(one.shape)}")


def _change(factory: Factory, kit: Kit, num_steps: int = 20) -> Tensor:
    params = kit.params(torch.float64)
    optimizer = kit.made(params, factory)
    _train(optimizer, params, range(num_steps))
    return torch.cat(
        [(end - start).detach().flatten() for end, start in zip(params, kit.params(torch.float64), strict=True)]
    )


def _set(optimizer: torch.optim.Optimizer, **settings: Any) -> None:
    """Write settings into all groups; those that an optimizer does not have are left out."""
    for group in optimizer.param_groups:
        group.update({key: value for key, value in settings.items() if key in group})


# --- the checks -------------------------------------------------------------------------------------------------------


def agrees_with_the_reference(kit: Kit) -> float:
    """20 steps in float64 agree with a reference. Found: 45 wrong updates fixed in one release of one library."""
    if kit.reference is None:
        raise SkippedError("no reference was given")
    expected = _change(kit.reference, kit)
    error = float((_change(kit.factory, kit) - expected).norm() / expected.norm())
    assert error <= kit.tolerance, f"relative error of the change: {error:.3g}, allowed {kit.tolerance:.3g}"
    return error


def is_the_same_every_way(kit: Kit) -> None:
    """Each variant takes the same steps, to the last bit."""
    if not kit.variants:
        raise SkippedError("no variants were given")
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        ends = []
        for factory in (kit.factory, *kit.variants.values()):
            params = kit.params(dtype)
            _train(kit.made(params, factory), params, range(20))
            ends.append(params)
        for name, end in zip(kit.variants, ends[1:], strict=True):
            _assert_same(end, ends[0], f"{name} in {dtype}")


def is_an_optimizer(kit: Kit) -> None:
    """It is a `torch.optim.Optimizer`, which schedulers and scalers ask for. Found: schedule-free wrappers."""
    optimizer = kit.made(kit.params())
    assert isinstance(optimizer, torch.optim.Optimizer), f"it is a {type(optimizer).__name__}"


def moves_nothing_before_the_first_step(kit: Kit) -> None:
    """Making an optimizer leaves the parameters alone, and a first step of size 0 too. Found: weights made anew."""
    params = kit.params()
    optimizer = kit.made(params)
    _assert_same(params, kit.params(), "after it was made")
    _set(optimizer, lr=0.0, weight_decay=0.0)
    _train(optimizer, params, range(3))
    _assert_same(params, kit.params(), "at lr = 0 and weight_decay = 0")


def survives_a_tensor_lr_of_zero(kit: Kit) -> None:
    """Warm-up starts from lr = 0, which may be a tensor. Found: NaN parameters."""
    params = kit.params()
    optimizer = kit.made(params)
    for lr in (0.0, 1e-3, 1e-3):
        _set(optimizer, lr=torch.tensor(lr))
        _train(optimizer, params, range(1))
    assert all(param.isfinite().all() for param in params), "parameters are not finite"


def leaves_a_tensor_lr_alone(kit: Kit) -> None:
    """A tensor learning rate is the user's. Found: multiplied in place, 0.003 became 0.114 in four steps."""
    params = kit.params()
    optimizer = kit.made(params)
    lr = torch.tensor(3e-3)
    _set(optimizer, lr=lr)
    _train(optimizer, params, range(4))
    assert float(lr) == float(torch.tensor(3e-3)), f"the tensor went from 0.003 to {float(lr):.3g}"
    assert all(float(group["lr"]) == float(lr) for group in optimizer.param_groups if "lr" in group), (
        "group['lr'] moved"
    )


def leaves_the_settings_alone(kit: Kit) -> None:
    """Steps change no setting of a group."""
    params = kit.params()
    optimizer = kit.made(params)
    kept = ("lr", "betas", "momentum", "weight_decay", "eps")
    before = [{key: copy.deepcopy(group[key]) for key in kept if key in group} for group in optimizer.param_groups]
    _train(optimizer, params, range(4))
    after = [{key: group[key] for key in kept if key in group} for group in optimizer.param_groups]
    assert before == after, f"from {before} to {after}"


def leaves_gradients_alone(kit: Kit) -> None:
    """After a step each gradient is there and unchanged: clipping, logging and accumulation read it. Found: cleared."""
    params = kit.params()
    optimizer = kit.made(params)
    for step in range(3):
        for param, grad in zip(params, _gradients(params, step), strict=True):
            param.grad = grad
        held = [param.grad for param in params]
        optimizer.step()
        assert all(param.grad is grad for param, grad in zip(params, held, strict=True)), "p.grad is another, or gone"
        _assert_same([param.grad for param in params if param.grad is not None], _gradients(params, step), "a gradient")


def gives_a_late_parameter_a_first_step(kit: Kit) -> None:
    """A parameter whose gradients begin late takes a fresh parameter's first step. Found: wrong bias corrections."""
    params, alone = kit.params(), kit.params()
    optimizer = kit.made(params)
    late = params[-1]
    for step in range(5):
        for param, grad in zip(params[:-1], _gradients(params[:-1], step), strict=True):
            param.grad = grad
        optimizer.step()
    _assert_same([late], [alone[-1]], "without a gradient")
    late.grad = _gradients([late], 9)[0]
    optimizer.step()
    fresh = kit.made(alone)
    for param, joined in zip(alone, params, strict=True):
        param.grad = torch.ones_like(param) if joined is not late else _gradients([late], 9)[0]
    fresh.step()
    change, expected = late - kit.params()[-1], alone[-1] - kit.params()[-1]
    error = float((change - expected).norm() / expected.norm())
    assert error < 1e-5, (
        f"its first step is {float(change.norm() / expected.norm()):.3g} times a fresh one, error {error:.3g}"
    )


def survives_a_zero_first_gradient(kit: Kit) -> None:
    """A first gradient of zero, as of a fresh LoRA, gives no NaN and stops nothing. Found: a crash."""
    params = kit.params()
    optimizer = kit.made(params)
    for param in params:
        param.grad = torch.zeros_like(param)
    optimizer.step()
    _train(optimizer, params, range(3))
    assert all(param.isfinite().all() for param in params), "parameters are not finite"
    assert not any(torch.equal(*pair) for pair in zip(params, kit.params(), strict=True)), "a parameter never moved"


def _resumed(kit: Kit, dtype: torch.dtype, save: Callable[[Any], Any]) -> None:
    whole, halved = kit.params(dtype), kit.params(dtype)
    _train(kit.made(whole), whole, range(20))
    begun = kit.made(halved)
    _train(begun, halved, range(10))
    saved = save(begun.state_dict())
    params = _copied(halved)
    resumed = kit.made(params)
    resumed.load_state_dict(saved)
    if callable(getattr(resumed, "train", None)):
        resumed.train()  # type: ignore[attr-defined]
    _train(resumed, params, range(10, 20))
    _assert_same(params, whole, "10 steps, a checkpoint and 10 steps are not 20 steps")


def _through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _through_a_distributed_checkpoint(state: Any) -> Any:
    from torch.distributed.checkpoint.state_dict_loader import load  # a slow import
    from torch.distributed.checkpoint.state_dict_saver import save

    flat = {f"state.{index}.{key}": value for index, entry in state["state"].items() for key, value in entry.items()}
    with tempfile.TemporaryDirectory() as folder:
        save(flat, checkpoint_id=folder, no_dist=True)
        loaded = {key: torch.zeros_like(value) if isinstance(value, Tensor) else value for key, value in flat.items()}
        load(loaded, checkpoint_id=folder, no_dist=True)
    entries: dict[Any, dict[str, Any]] = {index: {} for index in state["state"]}
    for name, value in loaded.items():
        index, key = name.removeprefix("state.").split(".", 1)
        entries[int(index)][key] = value
    return {"state": entries, "param_groups": state["param_groups"]}


def resumes_exactly(kit: Kit) -> None:
    """A float32 run resumed from `torch.save` goes on to the last bit; the file loads with `weights_only=True`."""
    _resumed(kit, torch.float32, _through_a_file)


def resumes_exactly_in_bfloat16(kit: Kit) -> None:
    """The same with bfloat16 parameters. Found: never exact, in all 37 optimizers of one library."""
    _resumed(kit, torch.bfloat16, _through_a_file)


def resumes_from_a_distributed_checkpoint(kit: Kit) -> None:
    """The same through `torch.distributed.checkpoint`, which can write tensors and plain values only."""
    _resumed(kit, torch.float32, _through_a_distributed_checkpoint)


def keeps_float32_state_of_bfloat16_parameters(kit: Kit) -> None:
    """float32 moments of bfloat16 parameters come out of a checkpoint as float32. Found: cast (pytorch#43706)."""
    params = kit.params(torch.bfloat16)
    begun = kit.made(params)
    _train(begun, params, range(2))
    saved = copy.deepcopy(begun.state_dict())
    for entry in saved["state"].values():
        for key, value in entry.items():
            if isinstance(value, Tensor) and value.dtype == torch.bfloat16:
                entry[key] = value.float()
    resumed = kit.made(_copied(params))
    resumed.load_state_dict(copy.deepcopy(saved))
    for index, entry in resumed.state_dict()["state"].items():
        for key, value in entry.items():
            if isinstance(value, Tensor):
                before = saved["state"][index][key].dtype
                assert value.dtype == before, f"{key} went in as {before} and came out as {value.dtype}"


def follows_the_lr_after_resuming(kit: Kit) -> None:
    """A changed learning rate acts after a resume. Found: no effect, since closures kept the old groups."""
    params = kit.params()
    begun = kit.made(params)
    _train(begun, params, range(3))
    copies = _copied(params)
    resumed = kit.made(copies)
    resumed.load_state_dict(begun.state_dict())
    _set(resumed, lr=0.0, weight_decay=0.0)
    _train(resumed, copies, range(3, 6))
    _assert_same(copies, params, "at lr = 0 after a resume")


def copies_go_on_alike(kit: Kit) -> None:
    """`deepcopy` gives an optimizer of its own parameters that goes on as the original does."""
    params = kit.params()
    optimizer = kit.made(params)
    _train(optimizer, params, range(3))
    other = copy.deepcopy(optimizer)
    _train(optimizer, params, range(3, 6))
    copies = [param for group in other.param_groups for param in group["params"]]
    _train(other, copies, range(3, 6))
    _assert_same(copies, params, "the copy")


def pickles_go_on_alike(kit: Kit) -> None:
    """The same for `pickle`, which processes and clusters send objects with."""
    params = kit.params()
    optimizer = kit.made(params)
    _train(optimizer, params, range(3))
    other = pickle.loads(pickle.dumps(optimizer))  # noqa: S301  (our own)
    _train(optimizer, params, range(3, 6))
    copies = [param for group in other.param_groups for param in group["params"]]
    _train(other, copies, range(3, 6))
    _assert_same(copies, params, "the pickle")


def leaves_parameters_without_a_gradient_alone(kit: Kit) -> None:
    """`grad is None` means no step, for a parameter and for its state."""
    params = kit.params()
    optimizer = kit.made(params)
    _train(optimizer, params, range(2))
    resting = params[0].detach().clone()
    for step in range(2, 4):
        for param, grad in zip(params, _gradients(params, step), strict=True):
            param.grad = grad
        params[0].grad = None
        optimizer.step()
    _assert_same([params[0]], [resting], "a parameter without a gradient")
    with torch.no_grad():
        assert not torch.equal(params[1], kit.params()[1]), "the others stopped too"


def takes_groups_with_their_own_settings(kit: Kit) -> None:
    """Groups have their own learning rates, also those that are added on the way."""
    params = kit.params()
    optimizer = kit.made([{"params": params[:1]}, {"params": params[1:2]}])
    if "lr" not in optimizer.param_groups[0]:
        raise SkippedError("no lr in its groups")
    optimizer.param_groups[1].update(
        lr=0.0, **({"weight_decay": 0.0} if "weight_decay" in optimizer.param_groups[1] else {})
    )
    _train(optimizer, params[:2], range(2))
    optimizer.add_param_group({"params": params[2:]})
    _train(optimizer, params, range(2, 5))
    moved = [not torch.equal(one, other) for one, other in zip(params, kit.params(), strict=True)]
    assert moved == [True, False, *[True] * (len(params) - 2)], f"which parameters moved: {moved}"


def takes_named_parameters(kit: Kit) -> None:
    """`model.named_parameters()` is taken, and the names are kept in the groups."""
    model = nn.Linear(4, 4, bias=False)
    optimizer = kit.made(model.named_parameters())
    assert optimizer.param_groups[0].get("param_names") == ["weight"], "no param_names in the group"
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()


def calls_closures(kit: Kit) -> None:
    """`step(closure)` computes the loss with gradients on, and returns it."""
    params = kit.params()
    optimizer = kit.made(params)
    called = 0

    def closure() -> Tensor:
        nonlocal called
        called += 1
        assert torch.is_grad_enabled(), "gradients are off in the closure"
        optimizer.zero_grad()
        loss = torch.stack([param.square().sum() for param in params]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    expected = float(sum(param.detach().square().sum() for param in params))
    loss = optimizer.step(closure)  # type: ignore[arg-type]
    assert called >= 1, "the closure was never called"
    assert loss is not None, "the loss is not returned"
    assert abs(float(loss) - expected) <= 1e-5 * expected, f"the loss returned is {float(loss):.4g}, not {expected:.4g}"


def obeys_schedulers(kit: Kit) -> None:
    """A scheduler of torch attaches, and its learning rate is the one used."""
    params = kit.params()
    optimizer = kit.made(params)
    _set(optimizer, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step >= 2 else 1.0)
    for step in range(2):
        _train(optimizer, params, range(step, step + 1))
        schedule.step()
    at = _copied(params)
    _train(optimizer, params, range(2, 4))
    _assert_same(params, at, "after the schedule has ended at 0")


def calls_hooks(kit: Kit) -> None:
    """Hooks before and after a step are called, once each."""
    params = kit.params()
    optimizer = kit.made(params)
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    _train(optimizer, params, range(2))
    assert seen == ["before", "after"] * 2, f"called: {seen}"


def climbs_when_maximizing(kit: Kit) -> None:
    """`maximize=True` is a step along the opposite gradient."""
    ends = []
    for sign in (1.0, -1.0):
        params = kit.params()
        optimizer = kit.made(params)
        if "maximize" not in optimizer.param_groups[0]:
            raise SkippedError("it has no maximize")
        _set(optimizer, maximize=sign < 0)
        for step in range(4):
            for param, grad in zip(params, _gradients(params, step), strict=True):
                param.grad = sign * grad
            optimizer.step()
        ends.append(params)
    _assert_same(ends[0], ends[1], "maximize against the negative gradient")


def _one(kit: Kit, param: Tensor, what: str) -> None:
    """Train one odd parameter beside the usual ones."""
    before = param.detach().clone()
    beside = kit.params()
    try:
        optimizer = kit.made([*beside, param])
    except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
        raise RefusedError(str(error)) from error
    for step in range(3):
        for one, grad in zip(beside, _gradients(beside, step), strict=True):
            one.grad = grad
        param.grad = torch.ones_like(param) * (1 + step)
        optimizer.step()
    assert param.isfinite().all(), f"{what} became not finite"
    assert param.numel() == 0 or not torch.equal(param, before), f"{what} never moved"


def takes_single_numbers(kit: Kit) -> None:
    """Parameters without a dimension are trained. Found: a crash."""
    _one(kit, torch.tensor(1.0, requires_grad=True), "a 0-d parameter")


def takes_empty_parameters(kit: Kit) -> None:
    """Parameters without an element do no harm."""
    _one(kit, torch.zeros(0, 3, requires_grad=True), "an empty parameter")


def takes_complex_parameters(kit: Kit) -> None:
    """Complex parameters are trained, or refused with an error that says so."""
    try:
        _one(kit, torch.tensor([[1.0 + 1.0j, -2.0j], [0.5, 1.0]], requires_grad=True), "a complex parameter")
    except Exception as error:
        if "complex" in f"{type(error).__name__} {error}".lower() and not isinstance(error, AssertionError):
            raise RefusedError(str(error)) from error
        raise


def takes_any_order_in_memory(kit: Kit) -> None:
    """A transposed parameter takes the steps of a contiguous one."""
    generator = torch.Generator().manual_seed(5)
    values, grads = (torch.randn(6, 4, generator=generator) for _ in range(2))
    ends = []
    for param in (values.clone(), values.t().contiguous().t()):
        param.requires_grad_()
        optimizer = kit.made([param])
        for _ in range(3):
            param.grad = grads.clone()
            optimizer.step()
        ends.append(param.detach())
    error = float((ends[0] - ends[1]).norm() / (ends[0] - values).norm())
    assert error < 1e-5, f"relative error {error:.3g}"


def learns(kit: Kit) -> float:
    """A bowl gets lower in 100 steps."""
    params = kit.params()
    optimizer = kit.made(params)

    def loss() -> Tensor:
        return torch.stack([(param - 0.1).square().sum() for param in params]).sum()

    start = float(loss().detach())
    for _ in range(100):
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    end = float(loss().detach())
    assert end < start, f"the loss went from {start:.4g} to {end:.4g}"
    return end / start


class _Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of torch
    """Counts operations, and how often a computed tensor is read back to Python."""

    def __init__(self, own: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.own, self.operations, self.reads = own, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        # torch keeps its count of steps on the CPU: to read that one waits for nothing.
        self.reads += "_local_scalar_dense" in str(func) and args[0].data_ptr() not in self.own
        return func(*args, **(kwargs or {}))


def _counted(kit: Kit, copies: int) -> _Counted:
    params = [param for _ in range(copies) for param in kit.params()]
    optimizer = kit.made(params)
    _train(optimizer, params, range(3))
    state = getattr(optimizer, "state", {})
    steps = {entry["step"].data_ptr() for entry in state.values() if isinstance(entry.get("step"), Tensor)}
    for param, grad in zip(params, _gradients(params, 3), strict=True):
        param.grad = grad
    with _Counted(steps) as counted:
        optimizer.step()
    return counted


def waits_for_no_parameter(kit: Kit) -> float:
    """The number of times that a step waits for a device does not grow with the model. Found: 296 a step."""
    few, many = (_counted(kit, copies).reads for copies in (1, 4))
    assert many <= few, f"reads of a tensor: {few} for {len(kit.shapes)} parameters, {many} for {4 * len(kit.shapes)}"
    return few


def dispatches_a_parameter(kit: Kit) -> float:
    """A number to keep an eye on: operations that each further parameter adds to a step."""
    few, many = (_counted(kit, copies).operations for copies in (1, 4))
    return (many - few) / (3 * len(kit.shapes))


CHECKS: dict[str, Callable[[Kit], float | None]] = {
    check.__name__: check
    for check in (
        agrees_with_the_reference,
        is_the_same_every_way,
        is_an_optimizer,
        moves_nothing_before_the_first_step,
        survives_a_tensor_lr_of_zero,
        leaves_a_tensor_lr_alone,
        leaves_the_settings_alone,
        leaves_gradients_alone,
        gives_a_late_parameter_a_first_step,
        survives_a_zero_first_gradient,
        resumes_exactly,
        resumes_exactly_in_bfloat16,
        resumes_from_a_distributed_checkpoint,
        keeps_float32_state_of_bfloat16_parameters,
        follows_the_lr_after_resuming,
        copies_go_on_alike,
        pickles_go_on_alike,
        leaves_parameters_without_a_gradient_alone,
        takes_groups_with_their_own_settings,
        takes_named_parameters,
        calls_closures,
        obeys_schedulers,
        calls_hooks,
        climbs_when_maximizing,
        takes_single_numbers,
        takes_empty_parameters,
        takes_complex_parameters,
        takes_any_order_in_memory,
        learns,
        waits_for_no_parameter,
        dispatches_a_parameter,
    )
}
