"""The guides to failing trainings: their numbers and tables. tests/handbook/checks.py has their examples."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "diagnosis"


def test_the_table_of_escapes_is_the_record() -> None:
    record = json.loads((ROOT / "benchmarks" / "records" / "escape.json").read_text())["problems"]
    table = (FOLDER / "minima.md").read_text().partition("<!-- escapes -->")[2].partition("\n\n")[0]
    head, _, *rows = table.strip().splitlines()
    assert re.findall(r"of (\d+)", head) == [
        str(record[name]["starts"]) for name in ("ackley", "rastrigin", "modular-addition")
    ]
    shown = {}
    for row in rows:
        name, *counts = (cell.strip() for cell in row.strip("|").split("|"))
        shown[name.removeprefix("Adam ") if name == "Adam as it is" else name] = [int(count) for count in counts]
    assert shown == {
        name: [record[problem]["rows"][name]["reached"] for problem in ("ackley", "rastrigin", "modular-addition")]
        for name in record["ackley"]["rows"]
    }


def steps_until_forgotten(times: float, beta2: float) -> tuple[float, int]:
    """The mean square after one gradient that is so many times the usual one, and the steps until it is 2 again."""
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.Adam([weight], betas=(0.0, beta2))
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    state = optimizer.state[weight]
    state["exp_avg_sq"].fill_(1.0)  # of gradients of 1 for a long time
    weight.grad = torch.full_like(weight, times)
    optimizer.step()
    first = state["exp_avg_sq"].item()
    square, steps = first, 0
    while square > 2:  # as in the next steps of the optimizer, with gradients of 1
        square, steps = beta2 * square + 1 - beta2, steps + 1
    return first, steps


def test_a_single_large_gradient_is_forgotten_after_the_steps_that_the_pages_say() -> None:
    text = " ".join((FOLDER / "gradients.md").read_text().split())
    first, steps = steps_until_forgotten(1000.0, 0.999)
    assert first == pytest.approx((1 - 0.999) * 1000**2, rel=0.01)
    assert steps == pytest.approx(math.log((1 - 0.999) * 1000**2) / (1 - 0.999), rel=0.01)
    assert f"steps are {math.sqrt(first):.0f} times too short at first; that takes {round(steps, -2):,} steps" in text
    first, steps = steps_until_forgotten(1000.0, 0.95)
    assert f"steps are {round(math.sqrt(first), -1):.0f} times too short, for about 220 steps" in text
    assert steps == pytest.approx(220, rel=0.05)
    page = " ".join((FOLDER / "causes" / "loss_spike.md").read_text().split())
    assert "makes steps 32 times shorter at beta2 = 0.999, and 6,900 steps pass" in page
