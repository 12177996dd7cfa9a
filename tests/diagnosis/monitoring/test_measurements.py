"""What the monitor measures is right: gradients, updates, activations, attention, losses and learning rates."""

import pytest
import torch
from torch import Tensor, nn

import thalweg
from tests.diagnosis.monitoring.training import batches, perceptron, step_on_sum
from thalweg.diagnosis.monitoring import watch


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
        monitor.step(step_on_sum(model, optimizer, x))
    record = monitor.record
    assert record.dead["0"] == pytest.approx([0.3])
    assert record.saturated["2"] == [0.5]
    with torch.no_grad():
        assert record.activation_scales["0"] == pytest.approx([model[0](x).square().mean().sqrt().item()])
    assert record.depths == {"0": 0, "2": 1, "4": 2}
    assert record.input_scale == pytest.approx(x.square().mean().sqrt().item())


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
            monitor.step(step_on_sum(model, optimizer, both if step == 0 else first))
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
        monitor.step(step_on_sum(model, optimizer, x))
    logits = (model.query(x)[0] @ model.key(x)[0].T) / 2.0
    expected = (logits.amax(-1) - logits.amin(-1)).amax().item()
    ((_, values),) = monitor.record.attention.items()
    assert values == pytest.approx([expected], rel=1e-3)


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
            loss = step_on_sum(model, optimizer, x)
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


def test_double_precision_and_sparse_gradients() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Flatten(), nn.Linear(6, 1)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    with watch(model, optimizer, every=1) as monitor:
        loss = step_on_sum(model, optimizer, torch.tensor([[0, 1], [0, 2]]))
        norm = model[0].weight.grad.to_dense().norm().item()
        monitor.step(loss)
    assert monitor.record.gradient_norms["0.weight"] == pytest.approx([norm])
    # The update is far below the precision of float32.
    expected = 1e-9 * model[2].weight.grad.norm() / model[2].weight.norm()
    assert monitor.record.update_ratios["2.weight"] == pytest.approx([expected.item()], rel=1e-5)
