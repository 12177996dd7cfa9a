from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from thalweg.engine.core.precision import compute_dtype
from thalweg.engine.eager import loop
from thalweg.rules import Max, Mean, Norm, Sum


def test_tensors_advance_a_reduction_at_a_time() -> None:
    order: list[str] = []

    def generator(name: str, value: torch.Tensor, rounds: int):
        total = torch.zeros(())
        for index in range(rounds):
            order.append(f"{name}{index}")
            total = total + (yield Sum(value))
        return total

    results = loop.run_in_lockstep(
        [generator("a", torch.ones(2), 2), generator("b", torch.ones(3), 3), generator("c", torch.ones(1), 0)]
    )
    assert [float(result) for result in results] == [4.0, 9.0, 0.0]
    assert order == ["a0", "b0", "a1", "b1", "b2"]


def test_reductions_over_the_model_cover_every_tensor_once() -> None:
    parts = [torch.ones(2), torch.full((2, 3), 2.0), torch.tensor(4.0)]

    def generator(part: torch.Tensor):
        return (yield Sum(part, over="model")), (yield Mean(part, over="model"))

    for total, mean in loop.run_in_lockstep([generator(part) for part in parts]):
        assert float(total) == 18.0
        assert float(mean) == 2.0


def test_a_request_over_the_model_waits_for_all_tensors() -> None:
    def generator(part: torch.Tensor, rounds: int):
        for _ in range(rounds):
            yield Sum(part)
        return (yield Sum(part, over="model")), (yield Sum(part))

    parts = [torch.ones(2), torch.full((3,), 2.0), torch.tensor(4.0)]
    results = loop.run_in_lockstep([generator(part, rounds) for part, rounds in zip(parts, (0, 2, 1), strict=True)])
    assert [(float(total), float(local)) for total, local in results] == [(12, 2), (12, 6), (12, 4)]


def test_all_tensors_must_request_the_same_over_the_model() -> None:
    def generator(kind: type):
        yield kind(torch.ones(2), over="model")

    with pytest.raises(AssertionError, match="all tensors must request the same reduction"):
        loop.run_in_lockstep([generator(Sum), generator(Mean)])


def test_half_precisions_compute_in_float32() -> None:
    assert compute_dtype(torch.bfloat16) == compute_dtype(torch.float16) == torch.float32
    assert compute_dtype(torch.float64) == torch.float64


@pytest.mark.parametrize("kind", [Sum, Mean, Norm, Max])
def test_a_model_on_two_devices_has_one_sum(kind: Any) -> None:
    with FakeTensorMode():
        requests = {k: kind(torch.ones(3, device=f"cuda:{k}"), over="model") for k in range(2)}
        results = loop.reduce_over_model(requests, [None, None])
    assert [results[k].device for k in range(2)] == [torch.device("cuda", 0), torch.device("cuda", 1)]
    assert [results[k].dtype for k in range(2)] == [torch.float32, torch.float32]
