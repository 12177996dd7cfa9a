"""Names that users bring from papers, libraries and memory: each message names what thalweg calls it."""

from pathlib import Path

import pytest
import torch

from thalweg import optim
from thalweg.comparison.contenders.parsing import parse
from thalweg.errors import TaskError, ThalwegError, nearest, nearest_setting
from thalweg.tasks import as_task, load


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("adam:learning_rate=0.1", "Did you mean lr?"),
        ("adamw:Learning-Rate=0.1", "Did you mean lr?"),
        ("adam:step_size=0.1..1", "Did you mean lr?"),
        ("adam:momentum=0.9", "Did you mean beta1?"),
        ("sgd:beta1=0.9", "Did you mean momentum?"),
        ("adam:betas=0.9", "Did you mean beta1 or beta2?"),
        ("adam:epsilon=1e-6", "Did you mean eps?"),
        ("rmsprop:beta2=0.9", "Did you mean alpha?"),
        ("adamw:wd=0.1", "Did you mean weight_decay?"),
        ("lookahead(adam):k=5", "Did you mean every?"),
        ("clip(adam):max_grad_norm=5", "Did you mean max_norm?"),
        ("torch.optim:NAdam:learning_rate=3", "Did you mean lr?"),
        ("Adam-W", "Did you mean adamw?"),
        ("ada_factor", "Did you mean adafactor?"),
        ("Schedule-Free-AdamW", "Did you mean schedule_free_adamw?"),
        ("torch.optim:adamw", "Did you mean AdamW?"),
        ("torch.optim:nadam", "Did you mean NAdam?"),
    ],
)
def test_the_advice_names_what_was_meant(text: str, advice: str) -> None:
    with pytest.raises(ThalwegError) as caught:
        parse(text)
    assert advice in str(caught.value)


def test_advice_of_an_optimizer_in_python() -> None:
    params = [torch.nn.Parameter(torch.ones(2))]
    with pytest.raises(ThalwegError, match="Did you mean lr"):
        optim.Adam(params, learning_rate=0.1)  # type: ignore[call-arg]
    with pytest.raises(ThalwegError, match="Did you mean betas"):
        optim.Adam(params, momentum=0.9)  # type: ignore[call-arg]


def test_a_name_that_nothing_resembles_gets_the_list() -> None:
    assert nearest_setting("zzz", ["lr", "eps"]) == nearest("zzz", ["lr", "eps"]) == "Known: eps, lr."


def test_a_file_that_is_not_there_names_its_neighbour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "signals.py").write_text("")
    with pytest.raises(TaskError, match=rf"got no such file\. Did you mean signals\.py, in {tmp_path}\? Relative"):
        load(f"{tmp_path}/signal.py:task")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskError, match=r"Did you mean signals\.py\? Relative"):
        load("signal.py:task")
    with pytest.raises(TaskError, match=r"got no such file\. Relative"):
        load("xyzzy_quux.py:task")


class Network(torch.nn.Module):
    pass


def test_a_class_in_the_place_of_a_task_gets_the_line_to_write() -> None:
    with pytest.raises(
        TaskError, match=r"got a model, Network \(at .*test_wrong_names\.py:\d+\)\. Write task = .*model=Network"
    ):
        as_task(Network)
    with pytest.raises(TaskError, match=r"got a class, Path\. Make an instance of Path"):
        as_task(Path)
