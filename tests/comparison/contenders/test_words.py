"""Settings that are words, and L-BFGS after another rule: parsed, checked, and written into the line to paste."""

from typing import Any, Literal

import pytest
import torch
from torch import nn

import thalweg
from thalweg import rules
from thalweg.comparison.contenders.parsing import parse, resolve
from thalweg.errors import SettingError


def worded(
    params: Any, lr: float = 0.1, mode: Literal["slow", "fast"] = "slow", kind: str | None = None
) -> torch.optim.Optimizer:
    if kind not in (None, "plain"):
        raise ValueError("no such kind")
    return torch.optim.SGD(params, lr=lr if mode == "slow" else 10 * lr)


WORDED = f"{__file__}:worded"


def pasted(text: str) -> torch.optim.Optimizer:
    """Return the optimizer of the line to paste."""
    line = parse(text).describe().line_of_code({})
    scope: dict[str, Any] = {"torch": torch, "thalweg": thalweg, "worded": worded, "model": nn.Linear(2, 2)}
    exec(line, scope)
    optimizer: torch.optim.Optimizer = scope["optimizer"]
    return optimizer


@pytest.mark.parametrize(
    ("text", "setting", "value"),
    [
        ("lbfgs:line_search_fn=fixed", "line_search_fn", "fixed"),
        ("lbfgs:line_search_fn=strong_wolfe,history_size=7", "line_search_fn", "strong_wolfe"),
        ("muon:adjust_lr_fn=match_rms_adamw", "adjust_lr_fn", "match_rms_adamw"),
        ("torch.optim:Muon:adjust_lr_fn=match_rms_adamw,lr=0.1", "adjust_lr_fn", "match_rms_adamw"),
        ("then(adam,lbfgs):lbfgs_line_search_fn=fixed", "lbfgs_line_search_fn", "fixed"),
    ],
)
def test_a_word_reaches_the_optimizer_and_the_line_to_paste(text: str, setting: str, value: str) -> None:
    contender = parse(text)
    assert contender.rule.settings()[setting] == value
    assert setting in contender.pinned
    made = contender.optimizer([nn.Parameter(torch.ones(2, 2))], {})
    assert made.param_groups[0].get(setting, value) == value
    if "muon" not in text.lower():  # which takes matrices alone
        assert pasted(text).param_groups[0][setting] == value
    else:
        assert f"{setting}={value!r}" in contender.describe().line_of_code({})


def test_words_of_a_function_of_the_users() -> None:
    assert pasted(f"{WORDED}:mode=fast").param_groups[0]["lr"] == pytest.approx(1.0)
    assert parse(f"{WORDED}:kind=none").rule.settings()["kind"] is None
    assert parse(f"{WORDED}:kind=plain,lr=0.3").rule.settings() == {"lr": 0.3, "kind": "plain"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lbfgs:line_search_fn=wolfe", "line_search_fn must be one of fixed, strong_wolfe, got 'wolfe'"),
        (f"{WORDED}:mode=fasd", r"mode must be one of slow, fast, got 'fasd'\. Did you mean fast\?"),
        (
            f"{WORDED}:kind=round",
            "kind must be a text that the optimizer accepts, got 'round': ValueError: no such kind",
        ),
        ("adam:lr=fast", "lr must be a number, true or false, got 'fast'"),
        ("torch.optim:NAdam:foreach=fast", "foreach must be a number, true or false, got 'fast'"),
    ],
)
def test_wrong_words_are_refused(text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        parse(text)


def test_a_rule_with_a_word_has_a_name() -> None:
    (contender,) = resolve([rules.LBFGS(line_search_fn="strong_wolfe", max_iter=7)])
    assert contender.name == "lbfgs:max_iter=7,line_search_fn=strong_wolfe"
    assert parse(contender.name).rule == contender.rule


def test_lbfgs_takes_over_on_the_full_batch() -> None:
    contender = parse("then(adam,lbfgs):switch_at=50")
    assert (contender.full_batch, contender.ends_on_full_batch, contender.schedule) == (False, True, None)
    assert contender.about == "adam, then lbfgs on the full batch"
    assert "lbfgs_lr" in contender.pinned
    assert contender.rule.settings()["lbfgs_line_search_fn"] == "strong_wolfe"
    assert set(contender.space(1)) == {"lr"}
    optimizer = pasted("then(adam,lbfgs):switch_at=50")
    assert optimizer.param_groups[0]["lbfgs_line_search_fn"] == "strong_wolfe"
    assert optimizer.param_groups[0]["switch_at"] == 50


@pytest.mark.parametrize("text", ["then(lbfgs,adam)", "then(adam,gd)", "lbfgs+adamw", "then(gd,lbfgs)"])
def test_other_combinations_with_full_batches_are_refused(text: str) -> None:
    with pytest.raises(SettingError, match="an optimizer on the full batch cannot be combined with another"):
        parse(text)
