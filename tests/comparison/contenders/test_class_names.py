"""Class names and classes are names of contenders, too."""

import pytest
import torch

import thalweg.optim
from thalweg.comparison.contenders.named import CONTENDERS, short_name
from thalweg.comparison.contenders.parsing import parse, resolve
from thalweg.errors import SettingError, UnknownNameError
from thalweg.registry import RULES


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("AdamW", "adamw"),
        ("adamW", "adamw"),
        ("SGD", "sgd"),
        ("RMSprop:schedule=cosine", "rmsprop:schedule=cosine"),
        ("AdamW:lr=1e-4..1.5,beta1=0.8", "adamw:lr=1e-4..1.5,beta1=0.8"),
        ("torch.optim.NAdam", "torch.optim:NAdam"),
        ("torch.optim.NAdam:lr=1e-4..1", "torch.optim:NAdam:lr=1e-4..1"),
        ("torch.optim:NAdam", "torch.optim:NAdam"),
    ],
)
def test_a_class_name_is_a_name(text: str, name: str) -> None:
    contender = parse(text)
    assert contender.name == name
    assert contender.describe() == parse(name).describe()


def test_each_rule_is_known_by_the_name_of_its_class() -> None:
    assert {name: short_name(kind.__name__) for name, kind in RULES.items()} == {name: name for name in RULES}
    assert {short_name(name) for name in CONTENDERS} == set(CONTENDERS)


def test_a_wrapper_takes_class_names() -> None:
    assert parse("cautious(AdamW)").rule == parse("cautious(adamw)").rule
    assert parse("Muon+AdamW").rule == parse("muon+adamw").rule


def test_a_class_is_named_by_the_shortest_module_that_has_it() -> None:
    named = [contender.name for contender in resolve([torch.optim.AdamW, thalweg.optim.Adam, "SGD"])]
    assert named == ["torch.optim:AdamW", "adam", "sgd"]
    assert resolve([thalweg.optim.Adam])[0].thalweg_rule is not None  # it can train in a population
    with pytest.raises(SettingError, match="named once, got 'adamw' twice"):
        resolve(["adamw", "AdamW"])


def test_an_unknown_name_is_told_as_it_was_written() -> None:
    with pytest.raises(UnknownNameError, match="no optimizer is called 'AdamX'. Did you mean adamax"):
        parse("AdamX")
    with pytest.raises(UnknownNameError, match="no optimizer is called 'mine.py'"):
        parse("mine.py")
    with pytest.raises(UnknownNameError, match="'nowhere:Mine' must be a module and a class in it"):
        parse("nowhere.Mine")
