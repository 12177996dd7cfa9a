"""Clues about formats, precision and weight decay."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cases.small_trainings import CLASSES, FEATURES, classes, inspected, named, network, training, values
from thalweg import Training, optim


def adam(model: nn.Module, **options: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), **{"lr": 1e-3, **options})


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, optim.AdamW])
def test_gradients_below_epsilon(make: type[torch.optim.Optimizer]) -> None:
    model = network()
    tiny = training(
        model, loss_fn=lambda o, y: 1e-10 * functional.cross_entropy(o, y), optimizer=make(model.parameters(), lr=1e-3)
    )
    (clue,) = inspected(tiny)
    assert (clue.kind, clue.certainty) == ("adam_eps_underflow", "likely")
    assert clue.evidence["epsilon"] == 1e-8


def test_a_small_loss_and_gradients_above_epsilon_give_no_clue() -> None:
    model = network()
    assert (
        named(training(model, loss_fn=lambda o, y: 1e-3 * functional.cross_entropy(o, y), optimizer=adam(model))) == []
    )
    model = network()
    (clue,) = inspected(training(model, optimizer=adam(model, eps=1.0)))
    assert clue.kind == "adam_eps_underflow"


def half(batches: list[tuple[Tensor, Tensor]], dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    return [(x.to(dtype), y) for x, y in batches]


def test_updates_below_the_precision_of_the_weights() -> None:
    model = network().bfloat16()
    sick = training(model, half(classes(), torch.bfloat16), optimizer=torch.optim.SGD(model.parameters(), lr=1e-4))
    (clue,) = inspected(sick)
    assert (clue.kind, clue.certainty) == ("update_below_precision", "likely")
    assert clue.evidence["dtype"] == "bfloat16"
    model = network().bfloat16()
    assert named(training(model, half(classes(), torch.bfloat16), optimizer=adam(model, lr=1e-2))) == []


class Infinite(nn.Module):
    """A mask by a large number, which half precision does not have."""

    def __init__(self, large: float) -> None:
        super().__init__()
        self.net = network()
        self.register_buffer("large", torch.tensor(large))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) - self.large * torch.zeros(())


@pytest.mark.parametrize("large", [1e10, 1e4])
def test_a_buffer_that_overflows_in_half_precision(large: float) -> None:
    model = Infinite(large).half()

    def loss_fn(output: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(output.float(), y)

    kinds = named(training(model, half(classes(), torch.float16), loss_fn, adam(model, eps=1e-4)))
    assert kinds == ([("fp16_overflow", "certain", None)] if large > 65504 else [])


def test_an_exponential_that_overflows_in_half_precision() -> None:
    model = network().half()

    def loss_fn(output: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(output.float(), y) + 1e-3 * (output + 12).exp().sum().log().float()

    assert ("fp16_overflow", "likely", None) in named(
        training(model, half(classes(), torch.float16), loss_fn, adam(model, eps=1e-4))
    )


class Made(nn.Module):
    """A network whose first step computes with zeros."""

    def __init__(self, function: str, eps: float) -> None:
        super().__init__()
        self.net, self.function, self.eps = network(1), function, eps

    def forward(self, x: Tensor) -> Tensor:
        output = self.net(x)
        zero = output - output
        if self.function == "log":
            return output + (zero + self.eps).log() * zero
        if self.function == "division":
            return output + zero / (zero + self.eps)
        return output + (zero.square() + self.eps).sqrt()


@pytest.mark.parametrize("function", ["log", "division", "sqrt"])
def test_values_that_are_not_finite_are_traced_to_their_function(function: str) -> None:
    assert named(training(Made(function, 0.0), values(), nn.MSELoss())) == [(f"nan_from_{function}", "likely", None)]
    assert named(training(Made(function, 1e-3), values(), nn.MSELoss())) == []


def test_infinities_of_a_mask_give_no_clue() -> None:
    def loss_fn(output: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(output.masked_fill(torch.arange(3) > y[:, None], -torch.inf), y)

    assert named(training(network(), loss_fn=loss_fn)) == []


def test_decay_that_takes_the_weights() -> None:
    model = network()
    strong = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=10.0)
    (clue,) = inspected(training(model, optimizer=strong))
    assert (clue.kind, clue.certainty) == ("weight_decay_too_strong", "likely")
    assert clue.evidence["share of a weight that decay takes in a step"] == pytest.approx(0.1, rel=0.01)


def test_usual_decay_gives_no_clue() -> None:
    model = network()
    assert named(training(model, optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1))) == []
    model = network()
    usual = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    assert named(training(model, optimizer=usual)) == []


def test_decay_on_norms_is_possible_only_where_it_acts() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(FEATURES, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, CLASSES))
    acting = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1.0)
    assert named(training(model, optimizer=acting)) == [("decay_on_norms", "possible", "1")]
    body = [param for place in (0, 3) for param in model[place].parameters()]
    groups = [{"params": body}, {"params": model[1].parameters(), "weight_decay": 0.0}]
    assert named(training(model, optimizer=torch.optim.AdamW(groups, lr=1e-2, weight_decay=1.0))) == []


def test_strong_decay_of_vectors_alone_is_decay_on_norms() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(FEATURES, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, CLASSES))
    matrices = [param for param in model.parameters() if param.dim() > 1]
    vectors = {"params": [param for param in model.parameters() if param.dim() < 2], "weight_decay": 50.0}
    alone = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.0}, vectors], lr=1e-2)
    assert named(training(model, optimizer=alone)) == [("decay_on_norms", "possible", "1")]
    everywhere = torch.optim.AdamW([{"params": matrices, "weight_decay": 50.0}, vectors], lr=1e-2)
    assert named(training(model, optimizer=everywhere)) == [("weight_decay_too_strong", "likely", None)]
    plain = network()
    biases = {"params": [param for param in plain.parameters() if param.dim() < 2], "weight_decay": 50.0}
    without_norm = [{"params": [param for param in plain.parameters() if param.dim() > 1], "weight_decay": 0.0}, biases]
    assert named(training(plain, optimizer=torch.optim.AdamW(without_norm, lr=1e-2))) == [
        ("weight_decay_too_strong", "likely", None)
    ]


def test_a_line_search_that_calls_a_closure_gives_no_clue() -> None:
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)

    def step(subject: Training, x: Tensor, y: Tensor) -> Tensor:
        def closure() -> Tensor:
            subject.optimizer.zero_grad()
            loss = functional.cross_entropy(subject.model(x), y)
            loss.backward()
            return loss

        return subject.optimizer.step(closure).detach()

    assert named(training(model, optimizer=optimizer, step=step)) == []
