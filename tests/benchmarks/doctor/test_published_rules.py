"""The published rules fire at their thresholds and not beside them."""

import torch
from torch import nn

from benchmarks.doctor.judging.published_rules import NAMES, RULES, Memory, Tensors, fired_rules
from benchmarks.doctor.trainings.run import Run
from thalweg.diagnosis.kinds import KINDS
from thalweg.tasks import Training


def fires(rule: str, tensors: Tensors, losses: list[float] | None = None) -> bool:
    return bool(RULES[rule](tensors, Memory(losses=losses or [1.0])))


def test_every_rule_names_known_kinds() -> None:
    assert set(NAMES) == set(RULES)
    assert {kind for kinds in NAMES.values() for kind in kinds} <= set(KINDS)


def test_gradients() -> None:
    assert fires("vanishing_gradient", Tensors(gradients=[torch.ones(3), torch.full((2,), -0.9e-7)]))
    assert not fires("vanishing_gradient", Tensors(gradients=[torch.full((2,), -1.1e-7)]))
    assert fires("exploding_tensor", Tensors(gradients=[torch.tensor([1.0, float("inf")])], loss=1.0))
    assert fires("exploding_tensor", Tensors(loss=float("nan")))
    assert not fires("exploding_tensor", Tensors(gradients=[torch.tensor([1e30])], loss=1e30))


def test_units() -> None:
    active = torch.zeros(200, 4)
    active[0, 0] = active[0:2, 1:] = 1.0  # one unit on 0.5 % of the samples, three on 1 %
    assert not fires("dead_relu", Tensors(relu_outputs=[active]))
    active[1, 1:3] = 0.0  # three units of four
    assert fires("dead_relu", Tensors(relu_outputs=[active]))
    assert fires("saturated_activation", Tensors(tanh_inputs=[torch.full((8, 3), -9.6)]))
    assert not fires("saturated_activation", Tensors(tanh_inputs=[torch.full((8, 3), -9.4)]))
    assert fires("saturated_activation", Tensors(sigmoid_inputs=[torch.full((8, 3), 17.1)]))
    assert not fires("saturated_activation", Tensors(sigmoid_inputs=[torch.full((8, 3), -22.0)]))


def test_weights() -> None:
    before, after = [torch.ones(4)], [torch.full((4,), 12.0)]
    assert fires("weight_update_ratio", Tensors(before=before, after=after))
    assert not fires("weight_update_ratio", Tensors(before=before, after=[torch.full((4,), 10.9)]))
    assert fires("weight_update_ratio", Tensors(before=before, after=before))
    assert fires("all_zero", Tensors(after=[torch.zeros(2)]))
    assert not fires("all_zero", Tensors(after=[torch.tensor([0.0, 1e-30])]))
    assert fires("tensor_variance", Tensors(after=[torch.tensor([-4.0, 4.0])]))
    assert fires("tensor_variance", Tensors(after=[torch.tensor([1.0, 1.001])]))
    assert not fires("tensor_variance", Tensors(after=[torch.tensor([-1.0, 1.0])]))


def test_a_poor_initialization_needs_a_loss_that_is_stuck() -> None:
    uneven = Tensors(relu_inputs=[torch.tensor([0.0, 1.0]), torch.tensor([0.0, 3.3])])
    stuck, falling = [1.0, 1, 1, 1, 1, 1, 1], [7.0, 6, 5, 4, 3, 2, 1]
    assert fires("poor_weight_initialization", uneven, stuck)
    assert not fires("poor_weight_initialization", uneven, falling)
    assert not fires("poor_weight_initialization", uneven, [1.0] * 11)
    even = Tensors(relu_inputs=[torch.tensor([0.0, 1.0]), torch.tensor([0.0, 3.1])])
    assert not fires("poor_weight_initialization", even, stuck)
    assert fires("poor_weight_initialization", Tensors(gradients=[torch.linspace(0, 0.0011, 101)]), stuck)
    assert not fires("poor_weight_initialization", Tensors(gradients=[torch.linspace(0, 0.0012, 101)]), stuck)


def test_losses() -> None:
    def not_decreasing(last: float) -> bool:
        return fires("loss_not_decreasing", Tensors(), [1.0] * 10 + [last])

    assert not_decreasing(0.9995)
    assert not not_decreasing(0.998)
    assert not not_decreasing(1.04)  # an increase up to 5 % is allowed
    assert not_decreasing(1.06)
    assert not fires("loss_not_decreasing", Tensors(), [1.0] * 10)
    assert fires("unchanged_tensor", Tensors(), [2.0] + [9.0] * 9 + [2.0] + [9.0] * 9 + [2.00001])
    assert not fires("unchanged_tensor", Tensors(), [2.0] + [9.0] * 9 + [2.0] + [9.0] * 9 + [2.0001])


def test_classes_and_inputs() -> None:
    labels = torch.arange(512) % 2
    right = nn.functional.one_hot(labels, 2).float()
    assert not fires("class_imbalance", Tensors(output=right, batch=(torch.zeros(512), labels)))
    assert fires("class_imbalance", Tensors(output=torch.tensor([[1.0, 0.0]]).repeat(512, 1), batch=(None, labels)))
    assert not fires("class_imbalance", Tensors(output=right[:400], batch=(None, labels[:400])))
    rare = (torch.arange(512) < 40).long()
    one_hot = nn.functional.one_hot(rare, 2).float()
    assert fires("class_imbalance", Tensors(output=one_hot, batch=(None, rare)))
    assert fires("check_input_images", Tensors(batch=(torch.full((512, 3), 0.21), labels)))
    assert not fires("check_input_images", Tensors(batch=(torch.full((512, 3), -0.19), labels)))
    assert not fires("check_input_images", Tensors(batch=(torch.full((300, 3), 5.0), labels)))


def test_rules_watch_a_training_and_say_when_they_fired_first() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
    with torch.no_grad():
        model[0].bias.fill_(-50.0)
    batch = (torch.randn(32, 2), torch.randn(32, 1))
    training = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), [batch], nn.functional.mse_loss)
    fired = fired_rules(Run(training, goal=0.0, steps=81))
    assert fired["dead_relu"] == 0
    assert fired["all_zero"] == 0
    assert fired["unchanged_tensor"] > 0
    assert "saturated_activation" not in fired
    assert not any(module._forward_hooks for module in model.modules())
