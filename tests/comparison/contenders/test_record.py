"""The stored description of a contender."""

import json

import pytest
import torch

from thalweg.comparison.contenders.named import CONTENDERS
from thalweg.comparison.contenders.parsing import parse, resolve
from thalweg.comparison.contenders.record import ContenderRecord
from thalweg.rules import Range

# As version 4 of the store holds it; a change of a key makes every store unreadable.
STORED = {
    "name": "sgd",
    "about": "stochastic gradient descent, no momentum",
    "optimizer": "thalweg.optim.SGD",
    "arguments": "model.parameters()",
    "then": "",
    "source": "",
    "full_batch": False,
    "schedule": None,
    "start": {"lr": 0.001, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False},
    "recommended": {"lr": 0.59},
    "defaults": {"lr": 0.001, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False},
    "keywords": {
        "lr": ["lr"],
        "momentum": ["momentum"],
        "dampening": ["dampening"],
        "weight_decay": ["weight_decay"],
        "nesterov": ["nesterov"],
    },
    "space": {"lr": {"low": 0.0001, "high": 10.0, "scale": "log"}},
    "remarkable": ["lr"],
    "state_numbers": 0,
    "state_bytes": 0,
    "searched": ["lr"],
}


def test_a_stored_record_is_read_and_written_with_the_same_keys() -> None:
    record = ContenderRecord.from_json(STORED)
    assert json.loads(json.dumps(record.to_json())) == STORED
    assert record.space == {"lr": Range(0.0001, 10.0, "log")}
    described = CONTENDERS["sgd"].keeping_the_optimum().describe()
    assert described.identity() == {key: STORED[key] for key in STORED.keys() - {"about", "state_bytes", "searched"}}


def test_a_record_of_an_older_store_lacks_some_keys() -> None:
    missing = ("arguments", "then", "source", "schedule")
    record = ContenderRecord.from_json({key: value for key, value in STORED.items() if key not in missing})
    assert record.line_of_code({}) == "optimizer = thalweg.optim.SGD(model.parameters())"
    assert record.schedule is None


@pytest.mark.parametrize("name", ["adam", "muon+adamw", "torch.optim:NAdam", "clip(sgd)", "lbfgs"])
def test_every_kind_of_contender_survives_the_store(name: str) -> None:
    record = parse(name).describe({"0.weight": "hidden"})
    assert ContenderRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_the_code_of_each_kind() -> None:
    assert parse("adam:beta2=0.95").describe().line_of_code({"lr": 0.5}) == (
        "optimizer = thalweg.optim.Adam(model.parameters(), lr=0.5, betas=(0.9, 0.95))"
    )
    routed = parse("muon+adamw").describe({"0.weight": "embedding"})
    assert routed.line_of_code({}) == (
        "optimizer = thalweg.optim.route(model, 'muon+adamw', roles={'0.weight': 'embedding'}).optimizer()"
    )
    (external,) = resolve([torch.optim.NAdam])
    assert external.describe().line_of_code({}) == "optimizer = torch.optim.NAdam(model.parameters(), lr=0.002)"
    assert CONTENDERS["gd"].describe().line_of_code({}).endswith("  # a step on the full batch")
