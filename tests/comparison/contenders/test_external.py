"""External optimizers: loaded, read, searched and trained like ours."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from thalweg import tasks
from thalweg.comparison import Progress, Store, compare
from thalweg.comparison.contenders.external import load_optimizer
from thalweg.comparison.contenders.parsing import parse, resolve, split_list
from thalweg.errors import ComparisonInterrupted, KeywordError, SettingError, UnknownNameError
from thalweg.rules import Range

SHORT = replace(tasks.load("linear-regression"), passes=40)


class Averaged(torch.optim.SGD):
    """Evaluated at the average of its weights, trained at the last ones; steps only where it trains."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, lr=lr)
        self.training, self.count = False, 0

    def _swap(self) -> None:
        for param in self.param_groups[0]["params"]:
            average = self.state[param].setdefault("average", param.detach().clone())
            param.data, self.state[param]["average"] = average, param.data

    def train(self) -> None:
        if not self.training and self.count:
            self._swap()
        self.training = True

    def eval(self) -> None:
        if self.training and self.count:
            self._swap()
        self.training = False

    def step(self, closure: Any = None) -> Any:
        if not self.training:
            raise RuntimeError("step() in evaluation")
        super().step(closure)
        self.count += 1
        for param in self.param_groups[0]["params"]:
            average = self.state[param].setdefault("average", param.detach().clone())
            average.lerp_(param.detach(), 1 / self.count)


def test_settings_are_read_off_a_signature() -> None:
    settings = load_optimizer("torch.optim:NAdam").settings()
    assert settings == {
        "lr": 2e-3,
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "momentum_decay": 4e-3,
        "decoupled_weight_decay": False,
        "maximize": False,
        "capturable": False,
        "differentiable": False,
    }


def test_an_optimizer_from_elsewhere_is_made_with_the_settings_that_are_pinned_and_drawn() -> None:
    contender = parse("torch.optim:NAdam:beta2=0.9,lr=1e-4..1e-1,momentum_decay=0..0.01,decoupled_weight_decay=true")
    space = contender.space(1)
    assert (space["lr"].low, space["lr"].high, space["lr"].scale) == (1e-4, 1e-1, "log")
    assert space["momentum_decay"] == Range(0.0, 0.01, "linear")
    assert "beta2" not in contender.space(3)
    optimizer = contender.optimizer([nn.Parameter(torch.zeros(2))], {"lr": 0.05, "beta1": 0.8})
    assert type(optimizer) is torch.optim.NAdam
    (group,) = optimizer.param_groups
    assert (group["lr"], group["betas"], group["decoupled_weight_decay"]) == (0.05, (0.8, 0.9), True)


def test_state_is_counted_after_a_step() -> None:
    assert parse("torch.optim:NAdam").state_numbers == 2
    assert parse("torch.optim:SGD").state_numbers == 0
    assert parse("torch.optim:SGD:momentum=0.9").state_numbers == 1
    assert parse("torch.optim:Adafactor").state_numbers == 0  # a row and a column


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("nowhere.at.all:Adam", UnknownNameError, "'nowhere.at.all:Adam' must be a module and a class in it"),
        ("torch.optim:NAdamm", UnknownNameError, "torch.optim: there is no optimizer 'NAdamm'. Did you mean"),
        ("torch.optim:NAdam:beta=1", KeywordError, "torch.optim:NAdam: the settings are lr, beta1"),
        ("torch.optim:NAdam:eps=true", SettingError, "torch.optim:NAdam: eps must be a number >= 0, got True."),
        ("torch.optim:NAdam:lr=1..0.1", SettingError, "torch.optim:NAdam: lr must be a range low..high, got '1..0.1'."),
        ("torch.optim:NAdam:schedule=zigzag", SettingError, "the schedule must be one of"),
        ("torch:zeros_like", SettingError, "torch:zeros_like: it must"),
        ("adam:lr=-1..1", SettingError, "adam: lr is searched in its logarithm, so low must be > 0, got '-1..1'."),
        ("adamw:weight_decay=0..0.1", SettingError, "weight_decay is searched in its logarithm, so low must be > 0"),
        ("adam:beta2=0.9..1", SettingError, "beta2 is searched by its distance to 1, so high must be < 1"),
        (":Adam", UnknownNameError, "':Adam' must be a module and a class in it"),
        (".x:Adam", UnknownNameError, "'.x:Adam' must be a module and a class in it"),
    ],
)
def test_what_cannot_compete_is_refused(text: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as error:
        parse(text)
    assert message in str(error.value)


def test_an_optimizer_that_wants_a_closure_is_refused_with_advice() -> None:
    (contender,) = resolve([torch.optim.LBFGS])
    with pytest.raises(SettingError) as error:
        _ = contender.state_numbers
    assert str(error.value) == (
        "torch.optim:LBFGS: an optimizer of another library must step without a closure, got a step that needs it. Use "
        "lbfgs, which is the same method and counts its evaluations as steps. Or wrap it in a function (params, "
        "lr=...) that steps without."
    )


def test_an_optimizer_that_cannot_step_says_why() -> None:
    with pytest.raises(
        SettingError, match="steps on dense gradients, got RuntimeError: SparseAdam does not support"
    ) as e:
        _ = parse("torch.optim:SparseAdam").state_numbers
    assert "closure" not in str(e.value)
    with pytest.raises(
        SettingError, match=r"an optimizer must be callable as \(params, lr=\.\.\.\).* got \(params, defaults\)"
    ):
        parse("torch.optim:Optimizer")


def test_whole_numbers_stay_whole_and_what_nobody_sets_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\n\ndef make(params, lr=0.1, inner=3, unit=None):\n"
        "    assert unit is None and all(range(1, inner))\n    return torch.optim.SGD(params, lr=lr)\n"
    )
    contender = parse(f"{file}:make:inner=1..9")
    assert contender.state_numbers == 0
    contender.optimizer([nn.Parameter(torch.zeros(2))], {"inner": 4.4})
    assert contender.rule.with_(inner=4.4).settings()["inner"] == 4


def test_who_edits_what_an_optimizer_calls_means_another_one(tmp_path: Path) -> None:
    file, text = (
        tmp_path / "mine.py",
        "import torch\nFACTOR = 1\n\ndef make(params, lr=0.1):\n    return torch.optim.SGD(",
    )
    file.write_text(text + "params, lr=lr * FACTOR)\n")
    before = parse(f"{file}:make").describe().source
    assert before == parse(f"{file}:make").describe().source
    file.write_text(text.replace("FACTOR = 1", "FACTOR = 2") + "params, lr=lr * FACTOR)\n")
    assert parse(f"{file}:make").describe().source != before


def test_a_range_of_the_users_is_kept_to() -> None:
    task = replace(tasks.load("linear-regression"), passes=4)  # the best rate is the largest after any number
    comparison = compare(task, ["adamw:lr=1e-6..1e-5,weight_decay=1e-3..1e-1"], budget="8trials")
    (summary,) = comparison.contenders
    for trial in summary.trials["search"]:
        assert 1e-6 <= trial.settings["lr"] <= 1e-5
        assert 1e-3 <= trial.settings["weight_decay"] <= 1e-1  # opened, though the optimum is known


def test_a_range_of_the_users_is_not_extended_before_the_studies_of_a_ranking() -> None:
    """The best rate of both is beyond the end of their range; a declared range grows, and that of the user stays."""
    task = replace(tasks.load("linear-regression"), passes=4)
    ranged, declared = "adamw:lr=1e-6..1e-5", "lion:beta1=0.9"
    store = Store(None)

    def stop_after_the_plan(progress: Progress) -> None:
        if progress.stage == "search":
            raise KeyboardInterrupt

    with pytest.raises(ComparisonInterrupted):
        compare(task, [ranged, declared], budget="6x8trials", store=store, watch=stop_after_the_plan)
    record = store.find()
    assert record is not None
    assert record.plan.times_extended[ranged] == 0
    assert record.plan.times_extended[declared] > 0
    assert "lr" not in record.plan.ranges[ranged]


def test_optimizers_from_a_file_train_in_worker_processes(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import torch\n\ndef make(params, lr=0.1):\n    return torch.optim.SGD(params, lr=lr)\n")
    local, remote = (compare(SHORT, [f"{file}:make"], budget="4trials", workers=workers) for workers in (1, 2))
    assert remote.plan.num_workers == 2
    assert local.contenders[0].value == remote.contenders[0].value


def test_what_has_no_name_cannot_be_pasted_and_is_refused() -> None:
    with pytest.raises(SettingError, match="a class or a function with a name"):
        resolve([lambda params, lr=0.1: torch.optim.SGD(params, lr=lr)])


def test_a_list_holds_classes_with_settings() -> None:
    text = "adam,torch.optim:NAdam:lr=1e-4..1,eps=1e-6,mine.py:make"
    assert split_list(text) == ["adam", "torch.optim:NAdam:lr=1e-4..1,eps=1e-6", "mine.py:make"]


def test_ours_and_others_compete_on_the_same_seeds(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import torch\n\ndef make(params, lr=0.1):\n    return torch.optim.SGD(params, lr=lr)\n")
    entrants = ["sgd:weight_decay=0", f"{file}:make:lr=1e-4..10", Averaged]
    comparison = compare(SHORT, entrants, budget="4trials")
    summaries = {summary.name: summary for summary in comparison.contenders}
    ours, same, free = (summaries[record.name] for record in comparison.record.contenders)
    assert [contender.rule.settings()["lr"] for contender in resolve(entrants)] == [0.001, 0.1, 0.1]  # each has its own
    assert 1 / 4 < same.value.mean / ours.value.mean < 4  # each draws its own learning rates, and only four
    seeds = [{trial.seed for trial in summary.trials["search"]} for summary in (ours, same, free)]
    assert seeds[0] == seeds[1] == seeds[2]
    assert len(seeds[0]) == 1
    assert comparison.plan.execution_modes[same.name].reason.startswith("one by one: ")
    assert same.line == f"optimizer = make(model.parameters(), lr={same.settings['lr']!r})"
    assert "Averaged(model.parameters(), lr=" in free.line


def test_an_optimizer_with_two_sets_of_weights_is_told_which_are_wanted() -> None:
    from thalweg.comparison.training.runs import SingleRun, Trial

    task = tasks.load("linear-regression")
    (contender,) = resolve([Averaged])
    run = SingleRun(task, contender, Trial({"lr": 0.1}, 0))
    for _ in range(5):
        run.step(1.0)
    trained = [param.detach().clone() for param in run.model.parameters()]
    (evaluated,) = run.evaluate("train")
    assert all(map(torch.equal, trained, run.model.parameters()))  # it goes on where it was
    run.optimizer.eval()  # type: ignore[attr-defined]
    with torch.no_grad():
        assert float(task.loss(run.model, task.splits.train)) == pytest.approx(evaluated)  # type: ignore[arg-type]


@pytest.mark.parametrize("switch", ["fused", "foreach", "capturable"])
def test_switches_for_a_device_are_in_the_line_to_paste(switch: str) -> None:
    plain, contender = parse("torch.optim:AdamW"), parse(f"torch.optim:AdamW:{switch}=true")
    record = contender.describe()
    assert (
        record.line_of_code({"lr": 0.01})
        == f"optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, {switch}=True)"
    )
    # Counted on the CPU, where a capturable step is refused.
    assert record.state_numbers == plain.describe().state_numbers == 2
    assert "fused" not in plain.describe().defaults  # the key of a comparison without it stays as it was
    assert isinstance(contender.optimizer([torch.nn.Parameter(torch.ones(2))], {}), torch.optim.AdamW)


def test_a_switch_of_a_device_is_true_or_false() -> None:
    with pytest.raises(SettingError, match="fused must be true or false, got 3"):
        parse("torch.optim:AdamW:fused=3")
