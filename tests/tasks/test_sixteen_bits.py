"""A model of 16 bits with data of 32, or the reverse: the error names the line and the cure, whatever the operation."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import thalweg
from thalweg.errors import TaskError
from thalweg.tasks import Task
from thalweg.tasks.user_code import line_of, remedy_of

X, IMAGES, SERIES, TARGETS = torch.rand(4, 3), torch.rand(2, 3, 8, 8), torch.rand(2, 5, 4), torch.rand(4, 1)
MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "linear": (lambda: nn.Linear(3, 1), X),
    "convolution": (lambda: nn.Conv2d(3, 4, 3), IMAGES),
    "transposed convolution": (lambda: nn.ConvTranspose2d(3, 2, 2), IMAGES),
    "lstm": (lambda: nn.LSTM(4, 3, batch_first=True), SERIES),
    "layer norm": (lambda: nn.LayerNorm(3), X),
    "group norm": (lambda: nn.GroupNorm(1, 3), IMAGES),
    "transformer": (lambda: nn.TransformerEncoderLayer(4, 2, batch_first=True), SERIES),
}
CURES = ('Task(..., precision="bfloat16")', "model(batch[0].bfloat16())", "torch.autocast")


def error_of(call: Callable[[], Any]) -> Exception:
    with pytest.raises((RuntimeError, ValueError)) as raised:
        call()
    return raised.value


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_16_bits_with_data_of_32(name: str, dtype: torch.dtype) -> None:
    make, inputs = MODELS[name]
    model = make().to(dtype)
    remedy = remedy_of(error_of(lambda: model(inputs)))
    assert remedy.startswith("The model has numbers of 16 bits where the data have 32.")
    assert all(cure in remedy for cure in CURES)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, w: x @ w,
        lambda x, w: torch.addmm(torch.zeros(1, dtype=w.dtype), x, w),
        lambda x, w: torch.einsum("bi,ij->bj", x, w),
        lambda x, w: functional.scaled_dot_product_attention(x[None], x[None].to(w.dtype), x[None]),
        lambda x, w: functional.huber_loss((x.to(w.dtype) @ w).requires_grad_(), TARGETS).backward(),
        lambda x, w: functional.binary_cross_entropy(torch.sigmoid(x.to(w.dtype) @ w), TARGETS),
    ],
    ids=["matmul", "addmm", "einsum", "attention", "huber", "cross-entropy"],
)
def test_an_operation_of_the_users_own(call: Callable[[Tensor, Tensor], Any]) -> None:
    weight = torch.rand(3, 1, dtype=torch.bfloat16)
    assert remedy_of(error_of(lambda: call(X, weight))).startswith("The model has numbers of 16 bits")


@pytest.mark.parametrize("name", ["linear", "convolution", "lstm", "transformer"])
def test_data_of_16_bits_with_a_model_of_32(name: str) -> None:
    make, inputs = MODELS[name]
    remedy = remedy_of(error_of(lambda: make()(inputs.bfloat16())))
    assert remedy.startswith("The data have fewer bits than the model: pass data.float()")


def test_other_errors_about_dtypes_keep_their_cures() -> None:
    double = error_of(lambda: nn.Linear(3, 1)(X.double()))
    assert remedy_of(double).startswith("The data are float64")
    labels = error_of(lambda: functional.cross_entropy(X.bfloat16(), torch.tensor([0, 1, 2, 0], dtype=torch.int32)))
    assert "16 bits" not in remedy_of(labels)
    assert remedy_of(RuntimeError("expected the same float in both files")) == ""


def test_the_error_of_a_task_names_the_users_line_and_the_cure() -> None:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        return functional.mse_loss(model(batch[0]), batch[1])

    task = Task(model=lambda: nn.Linear(3, 1).bfloat16(), loss=loss, data=(torch.rand(40, 3), torch.rand(40, 1)))
    with pytest.raises(TaskError) as raised:
        thalweg.compare(task, ["sgd"], budget="2trials", workers=1, quiet=True)
    file, _, line = line_of(loss).rpartition(":")
    message = str(raised.value)
    assert f"(at {file}:{int(line) + 1})" in message
    assert all(cure in message for cure in CURES)


@pytest.mark.parametrize("cure", ["precision", "cast"])
def test_the_cures_train(cure: str) -> None:
    def cast(model: nn.Module, batch: Any) -> Tensor:
        return functional.mse_loss(model(batch[0].bfloat16()).float(), batch[1])

    def plain(model: nn.Module, batch: Any) -> Tensor:
        return functional.mse_loss(model(batch[0]).float(), batch[1])

    data = (torch.rand(40, 3), torch.rand(40, 1))
    if cure == "precision":
        task = Task(model=lambda: nn.Linear(3, 1), loss=plain, data=data, precision="bfloat16", passes=2)
    else:
        task = Task(model=lambda: nn.Linear(3, 1).bfloat16(), loss=cast, data=data, passes=2)
    result = thalweg.compare(task, ["sgd"], budget="2trials", workers=1, quiet=True)
    assert not result.failures
