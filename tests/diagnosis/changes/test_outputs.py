"""Changes of outputs and losses: each does its one thing, and cures a small sick training."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cases.trainings import blobs, classes, curve, mlp, paste, repeat, score, train, values
from tests.diagnosis.changes.by_name import BY_NAME
from thalweg.diagnosis.changes.parts.output import class_dim
from thalweg.tasks import Training


class Ending(nn.Module):
    """A perceptron whose output passes through a function, as a tensor, a tuple or a dict."""

    def __init__(self, function: Any, form: str = "tensor", outputs: int = 3) -> None:
        super().__init__()
        self.body, self.function, self.form = mlp(4, 8, 8, outputs), function, form

    def forward(self, x: Tensor) -> Any:
        output = self.function(self.body(x))
        return {"tensor": output, "tuple": (output, x), "dict": {"logits": output}}[self.form]


def of_form(form: str) -> Any:
    """Return a cross-entropy of an output of some form."""
    pick = {"tensor": lambda o: o, "tuple": lambda o: o[0], "dict": lambda o: o["logits"]}[form]
    return lambda output, target: functional.cross_entropy(pick(output), target)


SOFTMAXES = {
    "method": lambda x: x.softmax(1),
    "functional": lambda x: functional.softmax(x, dim=-1),
    "torch": lambda x: torch.softmax(x, dim=1),
    "module": nn.Softmax(dim=1),
    "reshaped": lambda x: x.softmax(1).unsqueeze(0).squeeze(0),
    "bounded": lambda x: x.softmax(1).clamp(1e-7, 1.0),
}


@pytest.mark.parametrize("form", ["tensor", "tuple", "dict"])
@pytest.mark.parametrize("spelling", SOFTMAXES)
def test_a_softmax_before_the_loss_is_taken_away(spelling: str, form: str) -> None:
    change = BY_NAME["no softmax or sigmoid before the loss"]
    training = change.apply(classes(Ending(SOFTMAXES[spelling], form), loss_fn=of_form(form)), None)
    reference = classes(Ending(lambda x: x, form), loss_fn=of_form(form))
    reference.model.load_state_dict(training.model.state_dict())
    assert train(training, 4) == pytest.approx(train(reference, 4))


def test_a_softmax_module_is_taken_away_by_name_and_by_its_line() -> None:
    def make() -> Training:
        torch.manual_seed(0)
        return classes(mlp(4, 8, 3, last=nn.Softmax(dim=1)))

    change = BY_NAME["no softmax or sigmoid before the loss"]
    assert change.code(make(), "3").splitlines()[-1] == "model[3] = nn.Identity()"
    losses = train(change.apply(make(), "3"), 4)
    assert losses == pytest.approx(train(paste(make(), change.code(make(), "3")), 4))
    assert losses == pytest.approx(train(paste(make(), change.code(make(), None)), 4))
    assert losses != pytest.approx(train(make(), 4))


def test_a_softmax_of_a_forward_is_taken_away_by_its_lines() -> None:
    def make() -> Training:
        torch.manual_seed(0)
        return classes(Ending(SOFTMAXES["functional"]))

    change = BY_NAME["no softmax or sigmoid before the loss"]
    assert train(paste(make(), change.code(make(), None)), 4) == pytest.approx(train(change.apply(make(), None), 4))


def test_an_inner_softmax_is_no_output() -> None:
    training = classes(Ending(lambda x: 2 * x.softmax(1)))
    assert BY_NAME["no softmax or sigmoid before the loss"].why_not(training, None)


@pytest.mark.parametrize("binary", [False, True])
def test_a_loss_of_probabilities_keeps_the_outputs(binary: bool) -> None:
    x, y = blobs()

    def make(ending: Any) -> Training:
        torch.manual_seed(0)
        training = classes(Ending(ending, outputs=1 if binary else 3))
        if binary:
            training.loss_fn = nn.BCEWithLogitsLoss()
            training.batches = repeat(x, (y == 0).float().unsqueeze(1))
        return training

    change = BY_NAME["a loss of probabilities"]
    ending = torch.sigmoid if binary else SOFTMAXES["functional"]
    training, reference = change.apply(make(ending), None), make(lambda x: x)
    losses = train(training, 4)
    assert losses == pytest.approx(train(reference, 4), rel=1e-4)
    assert train(paste(make(ending), change.code(make(ending), None)), 4) == pytest.approx(losses)
    assert training.model(x).min() >= 0


def test_an_activation_at_the_output_is_taken_away_and_the_training_cured() -> None:
    def make() -> Training:
        torch.manual_seed(0)
        return values(mlp(4, 16, 1, last=nn.ReLU()), lr=1e-2)

    change = BY_NAME["no activation at the output"]
    sick, cured = make(), change.apply(make(), "3")
    train(sick, 150)
    train(cured, 150)
    assert score(sick) < 0.7
    assert score(cured) > 0.85


def test_a_softmax_runs_over_the_classes() -> None:
    change = BY_NAME["softmax over the classes"]

    def make(ending: Any) -> Training:
        torch.manual_seed(0)
        return classes(Ending(ending), loss_fn=nn.NLLLoss())

    right = train(make(lambda x: x.log_softmax(1)), 4)
    for wrong in (lambda x: x.log_softmax(0), lambda x: functional.log_softmax(x, dim=0), nn.LogSoftmax(dim=0)):
        assert train(change.apply(make(wrong), None), 4) == pytest.approx(right)
        assert train(paste(make(wrong), change.code(make(wrong), None)), 4) == pytest.approx(right)


@pytest.mark.parametrize(
    ("output", "target", "dim"),
    [((8, 5), (8,), -1), ((8, 5, 4, 4), (8, 4, 4), 1), ((8, 6, 5), (8, 6), -1), ((8, 6, 6), (8, 6), -1)],
)
def test_the_dimension_of_the_classes(output: tuple[int, ...], target: tuple[int, ...], dim: int) -> None:
    assert class_dim(torch.zeros(output), torch.zeros(target, dtype=torch.long)) == dim


def test_the_softmax_of_one_unit_becomes_a_sigmoid() -> None:
    x, y = blobs()

    def make(ending: Any) -> Training:
        torch.manual_seed(0)
        training = classes(Ending(ending, outputs=1), loss_fn=nn.BCELoss())
        training.batches = repeat(x, (y == 0).float().unsqueeze(1))
        return training

    change = BY_NAME["sigmoid instead of the softmax of one unit"]
    sick = make(SOFTMAXES["method"])
    losses = train(change.apply(make(SOFTMAXES["method"]), None), 4)
    assert losses == pytest.approx(train(make(torch.sigmoid), 4))
    assert train(paste(sick, change.code(make(SOFTMAXES["method"]), None)), 4) == pytest.approx(losses)
    assert "more than one unit" in change.why_not(classes(Ending(SOFTMAXES["method"])), None)


@pytest.mark.parametrize(
    ("loss_fn", "is_one_unit", "works"),
    [
        (nn.CrossEntropyLoss(), False, True),
        (nn.NLLLoss(), False, False),
        (nn.BCEWithLogitsLoss(), True, True),
        (nn.BCELoss(), True, False),
        (lambda output, target: functional.cross_entropy(2 * output, target, label_smoothing=0.1), False, True),
    ],
)
def test_before_a_loss_of_logits_no_softmax_is_right(loss_fn: Any, is_one_unit: bool, works: bool) -> None:
    x, y = blobs()

    def make(ending: Any) -> Training:
        torch.manual_seed(0)
        training = classes(Ending(ending, outputs=1 if is_one_unit else 3), loss_fn=loss_fn)
        if is_one_unit:
            training.batches = repeat(x, (y == 0).float().unsqueeze(1))
        return training

    change = BY_NAME["no softmax before the loss"]
    wrong = (lambda x: x.softmax(1)) if is_one_unit else (lambda x: x.softmax(0))
    if works:
        assert train(change.apply(make(wrong), None), 4) == pytest.approx(train(make(lambda x: x), 4))
    else:
        assert change.why_not(make(wrong), None) == "the loss takes probabilities"
    others = ("softmax over the classes", "sigmoid instead of the softmax of one unit")
    reasons = [BY_NAME[name].why_not(make(wrong), None) for name in others]
    assert ("the loss takes logits" in reasons) == works


def test_a_cross_entropy_over_one_class_becomes_a_binary_one() -> None:
    x, y = blobs()
    training = classes(mlp(4, 8, 1), loss_fn=nn.CrossEntropyLoss())
    training.batches = repeat(x, (y == 0).long() * 0)
    training = BY_NAME["binary cross-entropy"].apply(training, None)
    assert train(training, 1)[0] > 0


@pytest.mark.parametrize("ending", ["probabilities", "logits"])
def test_a_likelihood_gets_logarithms(ending: str) -> None:
    def make(end: Any) -> Training:
        torch.manual_seed(0)
        return classes(Ending(end), loss_fn=nn.NLLLoss())

    change = BY_NAME["logarithms of probabilities for the likelihood"]
    end = SOFTMAXES["method"] if ending == "probabilities" else lambda x: x
    losses = train(change.apply(make(end), None), 4)
    assert losses == pytest.approx(train(make(lambda x: x.log_softmax(1)), 4), rel=1e-4)
    assert train(paste(make(end), change.code(make(end), None)), 4) == pytest.approx(losses)


@pytest.mark.parametrize("own_step", [False, True])
def test_targets_get_the_shape_of_the_outputs(own_step: bool) -> None:
    def step(training: Training, x: Tensor, y: Tensor) -> Tensor:
        training.optimizer.zero_grad()
        loss = (training.model(x) - y).square().mean()
        loss.backward()
        training.optimizer.step()
        return loss.detach()

    x, y = curve()

    def make(flat: bool) -> Training:
        training = values(step=step if own_step else None, loss_fn=lambda o, t: (o - t).square().mean())
        training.batches = repeat(x, y[:, 0] if flat else y)
        return training

    change = BY_NAME["targets in the shape of the outputs"]
    losses = train(change.apply(make(flat=True), None), 4)
    assert losses == pytest.approx(train(make(flat=False), 4))
    assert train(paste(make(flat=True), change.code(make(flat=True), None)), 4) == pytest.approx(losses)
    assert change.why_not(make(flat=False), None) == "outputs and targets have one shape"


def test_a_sum_becomes_a_mean() -> None:
    change = BY_NAME["mean instead of sum"]
    reference = train(classes(), 4)
    summed = nn.CrossEntropyLoss(reduction="sum")
    assert train(change.apply(classes(loss_fn=summed), None), 4) == pytest.approx(reference)
    assert summed.reduction == "sum"
    by_hand = classes(loss_fn=lambda o, t: functional.cross_entropy(o, t, reduction="sum"))
    assert train(change.apply(by_hand, None), 4) == pytest.approx(reference)
