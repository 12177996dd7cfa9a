"""The monitor: what it measures is right, whatever trains, and it changes nothing."""

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import thalweg
from thalweg.diagnosis.monitoring import Monitor, Record, watch
from thalweg.errors import DiagnosisError

STEPS = 12


def perceptron(*, activation: Callable[[], nn.Module] = nn.ReLU, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 2))


def batches(count: int = STEPS, size: int = 16) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        x = torch.randn(size, 4, generator=generator)
        yield x, torch.stack([x.sum(1), x.square().sum(1)], 1)


def train(model: Any, optimizer: Any, monitor: Monitor | None, *, count: int = STEPS) -> list[float]:
    losses = []
    for x, y in batches(count):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if monitor is not None:
            monitor.step(loss)
    return losses


def hooks_of(model: nn.Module, optimizer: Any = None) -> int:
    count = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())
    if isinstance(optimizer, torch.optim.Optimizer):
        count += len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)
    return count


def test_gradient_norms_and_true_updates_are_those_of_an_independent_loop() -> None:
    model = perceptron()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.3, betas=(0.8, 0.9))
    monitor = thalweg.watch(model, optimizer, every=1)
    gradients, ratios, sizes, steepness, alignments = [], [], [], [], []
    with monitor:
        for x, y in batches(10):
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            before = [param.detach().clone() for param in model.parameters()]
            gradient = torch.cat([param.grad.flatten() for param in model.parameters()])
            gradients.append(model[2].weight.grad.norm().item())
            optimizer.step()
            update = [after.detach() - old for after, old in zip(model.parameters(), before, strict=True)]
            sizes.append(before[2].norm().item())
            ratios.append(update[2].norm().item())
            flat = torch.cat([part.flatten() for part in update])
            steepness.append((gradient, flat))
            alignments.append(-torch.cosine_similarity(gradient, flat, dim=0).item())
            monitor.step(loss)
    record = monitor.record
    assert record.gradient_norms["2.weight"] == pytest.approx(gradients, rel=1e-5)
    # The weight's own size is measured at every eighth step, and stands for the steps between.
    known = [sizes[0]] * 8 + [sizes[8]] * 2
    expected = [update / size for update, size in zip(ratios, known, strict=True)]
    assert record.update_ratios["2.weight"] == pytest.approx(expected, rel=1e-4)
    # So are slopes and successive gradients.
    assert record.alignments["AdamW"][::8] == pytest.approx(alignments[::8], rel=1e-4)
    for step in (0, 8):
        (gradient, update), (following, _) = steepness[step], steepness[step + 1]
        sharpness = 1 - (following @ update) / (gradient @ update)
        assert record.sharpness["AdamW"][step] == pytest.approx(sharpness.item(), rel=1e-3)
        cosine = torch.cosine_similarity(gradient, following, dim=0).item()
        assert record.cosines["AdamW"][step] == pytest.approx(cosine, rel=1e-3)
    second = torch.stack([gradient[:32].square().mean() for gradient, _ in steepness[:1]]).sqrt().item() / 1e-8
    assert record.second_moments["0.weight"][0] == pytest.approx(second, rel=1e-4)


def test_outputs_dead_and_saturated_units_are_measured_where_they_arise() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 6), nn.Tanh(), nn.Linear(6, 1))
    with torch.no_grad():
        model[0].bias[:3] = -100.0
        model[2].weight.zero_()
        model[2].bias.copy_(torch.tensor([9.0, -9.0, 0.1, 0.0, 9.0, 0.2]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    x = torch.randn(20, 4)
    with watch(model, optimizer, every=1) as monitor:
        monitor.step(_step(model, optimizer, x))
    record = monitor.record
    assert record.dead["0"] == pytest.approx([0.3])
    assert record.saturated["2"] == [0.5]
    with torch.no_grad():
        assert record.activation_scales["0"] == pytest.approx([model[0](x).square().mean().sqrt().item()])
    assert record.depths == {"0": 0, "2": 1, "4": 2}
    assert record.input_scale == pytest.approx(x.square().mean().sqrt().item())


def _step(model: Any, optimizer: Any, x: Tensor) -> Tensor:
    optimizer.zero_grad()
    loss = model(x).sum()
    loss.backward()
    optimizer.step()
    return loss


class Functional(nn.Module):
    """Activations as functions, a residual connection, a module that is called twice, several inputs, a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.zeros(8)
        self.enter, self.shared, self.out = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        h = self.enter(x)
        h = h + torch.relu(self.shared(h) - self.shift)
        h = h + torch.relu(self.shared(h))
        return {"score": self.out(h) + y}


def test_functional_activations_in_residual_branches_are_found() -> None:
    torch.manual_seed(0)
    model = Functional()
    model.shift[:4] = 100.0  # the second call activates those units,
    with torch.no_grad():
        model.shared.bias[:2] = -100.0  # and no call these ones
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with watch(model, optimizer, every=1) as monitor:
        for x, _ in batches(2):
            optimizer.zero_grad()
            loss = model(x, torch.zeros(1))["score"].square().mean()
            loss.backward()
            optimizer.step()
            monitor.step(loss)
    assert monitor.record.dead["shared"][0] == 0.25


def test_a_unit_is_dead_if_no_batch_of_the_last_steps_activates_it() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    both, first = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, -1.0]])
    with watch(model, optimizer, every=5) as monitor:
        for step in range(5 * 20):
            monitor.step(_step(model, optimizer, both if step == 0 else first))
    # The second unit is active in the first batch: that counts for this window of four and the next one.
    assert monitor.record.dead["0"] == [0.0] * 8 + [0.5] * 12


@pytest.mark.parametrize("fused", [True, False])
def test_the_spread_of_attention_logits_is_measured(fused: bool) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.query(x)[:, None], self.key(x)[:, None], x[:, None]
            if fused:
                mixed = nn.functional.scaled_dot_product_attention(q, k, v)
            else:
                mixed = (q @ k.transpose(-1, -2) / 2.0).softmax(-1) @ v
            return self.out(mixed)

    torch.manual_seed(0)
    model, x = Attention(), torch.randn(3, 5, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with watch(model, optimizer, every=1) as monitor:
        monitor.step(_step(model, optimizer, x))
    logits = (model.query(x)[0] @ model.key(x)[0].T) / 2.0
    expected = (logits.amax(-1) - logits.amin(-1)).amax().item()
    ((_, values),) = monitor.record.attention.items()
    assert values == pytest.approx([expected], rel=1e-3)


@pytest.mark.parametrize("every", [1, 3, None])
@pytest.mark.parametrize("make", [lambda p: torch.optim.SGD(p, 0.05, 0.9), lambda p: torch.optim.Adam(p, 0.01)])
def test_a_watched_training_is_bit_identical_and_no_hook_stays(every: int | None, make: Callable[..., Any]) -> None:
    results = []
    for watched in (False, True):
        model = nn.Sequential(perceptron(), nn.Dropout(0.5), nn.BatchNorm1d(2))
        optimizer = make(model.parameters())
        if watched:
            with watch(model, optimizer, every=every) as monitor:
                losses = train(model, optimizer, monitor)
            assert monitor.record.losses == losses
            assert hooks_of(model, optimizer) == 0
        else:
            losses = train(model, optimizer, None)
        results.append((losses, [*model.state_dict().values()], torch.random.get_rng_state()))
    (losses, state, rng), (other_losses, other_state, other_rng) = results
    assert losses == other_losses
    assert all(torch.equal(a, b) for a, b in zip(state, other_state, strict=True))
    assert torch.equal(rng, other_rng)


def test_hooks_are_gone_after_an_error_too() -> None:
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ZeroDivisionError), watch(model, optimizer, every=1) as monitor:
        train(model, optimizer, monitor, count=2)
        raise ZeroDivisionError
    assert hooks_of(model, optimizer) == 0
    assert monitor.record.steps == [0, 1]


@pytest.mark.parametrize(("every", "gap"), [(5, 5), (6, 6), (4, 8), (3, 9), (1, 8)])
def test_a_module_has_a_hook_during_full_measurements_only(every: int, gap: int) -> None:
    """At every fifth step or more rarely all measurements are full, else those that are eight steps apart."""
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    with watch(model, optimizer, every=every) as monitor:
        for x, _ in batches(2 * gap):
            seen.append(hooks_of(model) > 0)
            monitor.step(_step(model, optimizer, x))
    assert seen == [True, *[False] * (gap - 1)] * 2


def test_no_step_waits_for_the_device() -> None:
    class Reads(TorchFunctionMode):
        count = 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            waits = ("tolist", "item", "__float__", "__bool__", "__int__", "cpu", "numpy", "equal", "nonzero")
            self.count += getattr(func, "__name__", "") in waits
            return func(*args, **(kwargs or {}))

    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=True)
    with watch(model, optimizer, every=1) as monitor, Reads() as reads:
        for x, _ in batches(30):
            monitor.step(_step(model, optimizer, x))
        assert reads.count == 0
        assert len(monitor.record.steps) == 30
        assert reads.count > 0


@pytest.mark.parametrize("calls", ["each", "once"])
def test_accumulated_batches_belong_to_one_step(calls: str) -> None:
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected = []
    with watch(model, optimizer, every=1) as monitor:
        for number, (x, y) in enumerate(batches(12)):
            loss = (model(x) - y).square().mean()
            (loss / 3).backward()
            expected.append(loss.item())
            if number % 3 == 2:
                norm = model[0].weight.grad.norm().item()
                optimizer.step()
                optimizer.zero_grad()
            if calls == "each":
                monitor.step(loss)
            elif number % 3 == 2:
                monitor.step(torch.tensor(expected[-3:]).mean())
    record = monitor.record
    assert record.losses == pytest.approx([sum(expected[k : k + 3]) / 3 for k in range(0, 12, 3)], rel=1e-6)
    assert record.steps == [0, 1, 2, 3]
    assert record.micro_batches == (3 if calls == "each" else 1)
    assert record.gradient_norms["0.weight"][-1] == pytest.approx(norm)


def test_the_loss_may_be_passed_before_the_optimizer_steps() -> None:
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    with watch(model, optimizer, every=2) as monitor:
        for x, y in batches(7):
            loss = (model(x) - y).square().mean()
            losses.append(loss.item())
            monitor.step(losses[-1])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert monitor.record.losses == losses
    assert len(monitor.record.lrs) == 6  # the last step was not noted any more


def test_learning_rates_are_those_of_the_step_by_group() -> None:
    model = perceptron()
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.5}, {"params": model[2].parameters()}], lr=torch.tensor(0.1)
    )
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    with watch(model, optimizer) as monitor:
        for x, _ in batches(3):
            loss = _step(model, optimizer, x)
            schedule.step()
            monitor.step(loss)
    assert monitor.record.lrs == [pytest.approx((0.5 * 0.5**k, 0.1 * 0.5**k)) for k in range(3)]
    assert {name: info.group for name, info in monitor.record.parameters.items()} == {
        "0.weight": 0,
        "0.bias": 0,
        "2.weight": 1,
        "2.bias": 1,
        "4.weight": -1,
        "4.bias": -1,
    }


class Proxy:
    """An optimizer around another one, as trainers have."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def step(self) -> None:
        self.optimizer.step()

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups


class SignDescent:
    """An optimizer of its own, unknown to torch."""

    def __init__(self, params: Any) -> None:
        self.param_groups = [{"params": list(params), "lr": 0.01}]

    def zero_grad(self) -> None:
        for param in self.param_groups[0]["params"]:
            param.grad = None

    def step(self) -> None:
        with torch.no_grad():
            for param in self.param_groups[0]["params"]:
                param -= 0.01 * param.grad.sign()


@pytest.mark.parametrize(
    "make",
    [lambda p: Proxy(torch.optim.SGD(p, 0.01)), SignDescent, lambda p: thalweg.optim.AdamW(p, lr=0.01, backend="loop")],
)
def test_any_optimizer_can_be_watched(make: Callable[..., Any]) -> None:
    model = perceptron()
    optimizer = make(list(model.parameters()))
    with watch(model, optimizer, every=1) as monitor:
        train(model, optimizer, monitor, count=3)
    record = monitor.record
    assert record.steps == [0, 1, 2]
    assert all(0 < ratio < 1 for ratio in record.update_ratios["2.weight"])
    assert record.lrs == [(0.01,)] * 3
    assert "step" not in vars(optimizer)


def test_a_copy_of_a_watched_optimizer_of_its_own_steps_its_own_parameters() -> None:
    model = perceptron()
    optimizer = SignDescent(model.parameters())
    with watch(model, optimizer, every=1):
        twin_model, twin = copy.deepcopy((model, optimizer))
        before = model[0].weight.detach().clone()
        twin_model(torch.ones(2, 4)).sum().backward()
        twin.step()
        assert torch.equal(model[0].weight, before)
        assert not torch.equal(twin_model[0].weight, before)
    assert hooks_of(model) == 0


def test_several_optimizers_and_models_have_names_of_their_own() -> None:
    generator, critic = perceptron(), perceptron(seed=1)
    first, second = torch.optim.Adam(generator.parameters(), 1e-4), torch.optim.SGD(critic.parameters(), 0.1)
    with watch({"generator": generator, "critic": critic}, [first, second], every=1) as monitor:
        for x, _ in batches(4):
            for _ in range(2):  # the critic takes two steps for each of the generator's
                _step(critic, second, x)
            monitor.step(_step(generator, first, x))
    record = monitor.record
    assert record.steps == [0, 1, 2, 3]
    assert record.optimizer_steps == 12
    assert {"generator.0.weight", "critic.4.bias"} <= record.gradient_norms.keys()
    assert [group.optimizer for group in record.groups] == ["Adam", "SGD"]
    assert list(record.sharpness) == ["Adam0", "SGD1"]


def test_closures_are_measured_after_their_last_call() -> None:
    model = perceptron()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)
    x, y = next(batches())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        return loss

    with watch(model, optimizer, every=1) as monitor:
        for _ in range(2):
            monitor.step(optimizer.step(closure))
            norm = model[0].weight.grad.norm().item()
    assert monitor.record.gradient_norms["0.weight"][-1] == pytest.approx(norm)
    assert monitor.record.update_ratios["0.weight"][-1] > 0


def test_mixed_precision_with_a_scaler_is_measured_unscaled() -> None:
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    x, y = next(batches())
    with watch(model, optimizer, every=1) as monitor:
        for number in range(3):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = (model(x) - y).square().mean()
            scaler.scale(loss if number != 1 else loss * torch.inf).backward()
            scaler.step(optimizer)
            scaler.update()
            monitor.step(loss)
    record = monitor.record
    assert record.optimizer_steps == 2  # the scaler left out the step that was not finite
    assert record.gradient_norms["0.weight"][-1] == pytest.approx(model[0].weight.grad.norm().item(), rel=1e-3)
    assert record.non_finite is None


def test_parameters_that_are_frozen_or_added_later() -> None:
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer, every=1) as monitor:
        train(model, optimizer, monitor, count=2)
        model[0].requires_grad_(False)
        model[0].zero_grad()
        model.append(nn.Linear(2, 2))
        optimizer.add_param_group({"params": model[5].parameters(), "lr": 0.5})
        train(model, optimizer, monitor, count=2)
    record = monitor.record
    assert [value > 0 for value in record.gradient_norms["0.weight"]] == [True, True, False, False]
    assert record.update_ratios["0.weight"][2:] == [0.0, 0.0]
    assert [value > 0 for value in record.gradient_norms["5.weight"]] == [False, False, True, True]
    assert record.lrs[-1] == (0.01, 0.5)


def test_compiled_models_are_not_recompiled() -> None:
    compilations = []

    def backend(graph: Any, inputs: Any) -> Any:
        compilations.append(graph)
        return graph.forward

    torch._dynamo.reset()
    model = perceptron()
    compiled = torch.compile(model, backend=backend)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(compiled, optimizer, every=2) as monitor:
        train(compiled, optimizer, monitor, count=6)
    torch._dynamo.reset()
    record = monitor.record
    assert len(compilations) == 1
    assert len(record.gradient_norms["0.weight"]) == 3
    assert record.activation_scales == {}
    assert "compiled" in record.limits[0]
    assert "compiled" in monitor.summary()


def test_distributed_models_are_named_as_inside(tmp_path: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        plain, model = perceptron(), perceptron()
        wrapped = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.05)
        with watch(wrapped, optimizer, every=1) as monitor:
            losses = train(wrapped, optimizer, monitor)
        assert losses == train(plain, torch.optim.SGD(plain.parameters(), lr=0.05), None)
    finally:
        torch.distributed.destroy_process_group()
    assert set(monitor.record.gradient_norms) == dict(plain.named_parameters()).keys()
    assert "0" in monitor.record.dead


def test_checkpointed_models_are_not_computed_anew() -> None:
    model = perceptron()
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer, every=1) as monitor:
        for x, _ in batches(3):
            optimizer.zero_grad()
            loss = torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False).sum()
            loss.backward()
            optimizer.step()
            monitor.step(loss)
    assert len(calls) == 6  # forward, and once more in the backward pass
    assert "checkpoints" in monitor.record.limits[0]
    assert len(monitor.record.activation_scales["0"]) == 3


def test_a_model_can_be_copied_and_pickled_meanwhile() -> None:
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, _ = next(batches())
    with watch(model, optimizer, every=1) as monitor:
        model(x)
        twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        for twin in twins:
            assert torch.equal(twin(x), model(x))
        monitor.step(_step(model, optimizer, x))
    assert hooks_of(model) == 0


def test_double_precision_and_sparse_gradients() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Flatten(), nn.Linear(6, 1)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    with watch(model, optimizer, every=1) as monitor:
        loss = _step(model, optimizer, torch.tensor([[0, 1], [0, 2]]))
        norm = model[0].weight.grad.to_dense().norm().item()
        monitor.step(loss)
    assert monitor.record.gradient_norms["0.weight"] == pytest.approx([norm])
    # The update is far below the precision of float32.
    expected = 1e-9 * model[2].weight.grad.norm() / model[2].weight.norm()
    assert monitor.record.update_ratios["2.weight"] == pytest.approx([expected.item()], rel=1e-5)


class Scalars:
    def __init__(self) -> None:
        self.rows: list[tuple[str, float, int]] = []

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.rows.append((tag, scalar_value, global_step))


def test_writers_get_every_monitored_step_once() -> None:
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    board, calls = Scalars(), []
    for writer in (board, lambda step, values: calls.append((step, values))):
        with watch(model, optimizer, every=50, writer=writer) as monitor:
            losses = train(model, optimizer, monitor, count=130)
    assert [step for step, _ in calls] == [0, 50, 100]
    assert [values["loss"] for _, values in calls] == [losses[0], losses[50], losses[100]]
    assert [step for tag, _, step in board.rows if tag == "gradient_norms/0.weight"] == [0, 50, 100]
    assert ("lr/0", 0.01, 50) in board.rows


def test_the_summary_fits_a_terminal() -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU())) for _ in range(40)))
    model.add_module("a_name_that_is_far_too_long_for_a_table_of_eighty_columns", nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e3)
    with watch(model, optimizer) as monitor:
        train(model, optimizer, monitor)
    text = monitor.summary()
    assert max(map(len, text.splitlines())) <= 80
    assert "... 17 more ..." in text
    assert "0.0.0" in text
    assert all(f"{finding.severity}: {finding.kind}" in text for finding in monitor.findings)


def test_an_empty_loop_has_an_empty_record() -> None:
    model = perceptron()
    with watch(model, torch.optim.SGD(model.parameters(), lr=0.1)) as monitor:
        pass
    assert (monitor.record.losses, monitor.record.steps, monitor.findings) == ([], [], [])
    assert monitor.summary().startswith("0 steps")


def test_a_loop_whose_optimizer_never_steps_still_has_losses() -> None:
    model = perceptron()
    other = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, torch.optim.SGD(model.parameters(), lr=0.1)) as monitor:
        losses = train(model, other, monitor)
    assert monitor.record.losses == losses
    assert monitor.record.optimizer_steps == 0


MODEL = nn.Linear(2, 2)
OPTIMIZER = torch.optim.SGD(MODEL.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: watch(3, OPTIMIZER), r"watch: the model must be a torch.nn.Module, .* got 3\."),
        (lambda: watch([], OPTIMIZER), r"the model must be"),
        (lambda: watch(MODEL, None), r"watch: the optimizer must have a method step, got None\."),
        (lambda: watch(MODEL, []), r"there must be an optimizer, got none"),
        (lambda: watch(MODEL, OPTIMIZER, every=0), r"every must be a whole number from 1, got 0\."),
        (lambda: watch(MODEL, OPTIMIZER, every=True), r"every must be a whole number"),
        (lambda: watch(MODEL, OPTIMIZER, writer="log"), r"the writer must have a method add_scalar, .* got 'log'\."),
        (lambda: watch(MODEL, OPTIMIZER).step(1.0), r"step must be called inside of the with block"),
    ],
)
def test_bad_arguments_are_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(DiagnosisError, match=message):
        make()


@pytest.mark.parametrize(
    ("loss", "message"),
    [(torch.ones(3), r"a tensor of one element, got shape \(3,\)"), ("low", r"got 'low'"), (True, r"got True")],
)
def test_a_loss_is_a_scalar(loss: Any, message: str) -> None:
    with watch(MODEL, OPTIMIZER) as monitor, pytest.raises(DiagnosisError, match=message):
        monitor.step(loss)
    with watch(MODEL, OPTIMIZER) as monitor, pytest.raises(DiagnosisError, match="once at a time"), monitor:
        pass


def test_a_record_is_plain_numbers() -> None:
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer) as monitor:
        train(model, optimizer, monitor)
    twin: Record = pickle.loads(pickle.dumps(monitor.record))
    assert twin.losses == monitor.record.losses
