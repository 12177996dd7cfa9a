"""Rounding: right in the mean, unrelated between neighbours, and no small step is lost."""

import itertools

import pytest
import torch
from torch import Tensor

from thalweg import optim
from thalweg.engine.core import precision
from thalweg.engine.core.precision import Rounding
from thalweg.rules import record
from thalweg.rules.math import hashing


def round_many(value: float, dtype: torch.dtype, rounding: Rounding) -> Tensor:
    """Round one number at 100,000 places."""
    values = torch.full((100_000,), value)
    c = record(**hashing.step_keys(seed=1, position=2, step=3))
    return precision.round_parameter(values, dtype, record(), c, torch.arange(100_000), rounding)[0].double()


def test_stochastic_rounding_is_right_in_the_mean() -> None:
    low, high = 1.0, 1.0078125  # adjacent in bfloat16
    for share in (0.1, 0.5, 0.9):
        value = low + share * (high - low)
        rounded = round_many(value, torch.bfloat16, "stochastic")
        assert set(rounded.unique().tolist()) == {low, high}
        # Three standard errors of a share of 100,000 draws.
        assert abs(float((rounded == high).double().mean()) - share) < 3 * (share * (1 - share) / 100_000) ** 0.5
    assert round_many(low, torch.bfloat16, "stochastic").unique().tolist() == [low]
    assert round_many(torch.inf, torch.bfloat16, "stochastic").unique().tolist() == [torch.inf]
    assert round_many(torch.nan, torch.bfloat16, "stochastic").isnan().all()


def test_the_noise_of_neighbours_steps_and_parameters_is_unrelated() -> None:
    def noise(**where: int) -> Tensor:
        c = record(**hashing.step_keys(**{"seed": 0, "position": 0, "step": 1} | where))
        return (hashing.random_bits(torch.arange(65_536), c) & 0xFFFF).double() / 65_536 - 0.5

    streams = [noise(), noise(seed=1), noise(position=1), noise(step=2), noise().roll(1)]
    for left, right in itertools.combinations(streams, 2):
        # Uniform on an interval of length 1: the product has standard deviation 1/12, its mean over 65,536 that / 256.
        assert abs(float((left * right).mean())) < 4 / 12 / 256
    assert abs(float(streams[0].mean())) < 4 * (1 / 12) ** 0.5 / 256


@pytest.mark.parametrize("rounding", ["kahan", "stochastic"])
def test_small_steps_are_not_lost_in_half_precision(rounding: Rounding) -> None:
    def walk(dtype: torch.dtype, rounding: Rounding) -> float:
        param = torch.ones(4096, dtype=dtype, requires_grad=True)
        optimizer = optim.SGD([param], lr=1e-4, rounding=rounding)
        for _ in range(100):
            param.grad = torch.ones_like(param)
            optimizer.step()
        residual = optimizer.state[param].get("residual", torch.zeros(()))
        return float((param.detach().double() + residual).mean())

    assert walk(torch.bfloat16, "nearest") == 1.0  # each step is an eighth of half a unit: all are lost
    assert walk(torch.bfloat16, rounding) == pytest.approx(0.99, abs=5e-4)
    assert walk(torch.float32, rounding) == pytest.approx(0.99, abs=1e-5)  # nothing to round
