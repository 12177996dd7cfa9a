"""What the examples of a page must give beyond running: outputs of pages are compared here, each after its one run.

An output that a page shows must be printed exactly, unless `OUTPUTS` has a comparison for it: where a test has a
smaller budget, or where processors round differently.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tests.handbook.blocks import PageRun, blocks_of
from thalweg.cli.main import cli

ROOT = Path(__file__).parents[2]
LINE = r"^optimizer = thalweg\.optim\.\w+\(model\.parameters\(\), lr="


def as_shown(printed: str, shown: str) -> None:
    assert printed == shown


def last_numbers(text: str, pattern: str) -> dict[str, float]:
    """Return the number that ends each line, by the text before it."""
    return {name.strip(): float(number.rstrip("%")) for name, number in re.findall(pattern, text, flags=re.MULTILINE)}


def without_numbers(text: str) -> list[str]:
    return re.sub(r"\d[\d.,]*(e[+-]?\d+)?", "#", text).split()


# --- Outputs ---


def a_valley_over_the_learning_rate(printed: str, shown: str) -> None:
    rows = {float(row.split()[0]): [float(loss) for loss in row.split()[1:]] for row in printed.splitlines()}
    assert [*rows] == [float(row.split()[0]) for row in shown.splitlines()]
    means = {lr: sum(losses) / len(losses) for lr, losses in rows.items()}
    assert min(means, key=means.__getitem__) == 0.03
    assert means[0.001] > 4 * means[0.03]
    assert means[0.3] > 2 * means[0.03]
    for row in shown.splitlines():  # rounding of another processor may change the last digits
        lr, *losses = map(float, row.split())
        assert rows[lr] == pytest.approx(losses, rel=0.2)


def a_loss_that_fresh_statistics_lower(printed: str, shown: str) -> None:
    for text in (printed, shown):
        stale, fresh = (float(row.split()[-1]) for row in text.splitlines())
        assert fresh < 0.7 * stale


def a_loss_that_jumps_with_a_new_optimizer(printed: str, shown: str) -> None:
    for text in (printed, shown):
        before, loaded, new = (float(row.split()[-1]) for row in text.splitlines())
        assert loaded < 1.5 * before
        assert new > 4 * loaded


def noise_that_grows(printed: str, shown: str) -> None:
    measured, expected = ([float(row.split()[-1]) for row in text.splitlines()] for text in (printed, shown))
    assert measured[0] == pytest.approx(expected[0], rel=0.1)
    assert measured[-1] > 3 * measured[0] > 3 * min(measured[1:-1])


def ratios_of_gradients(printed: str, shown: str) -> None:
    measured, expected = (last_numbers(text, r"^(.*?) first .* ratio (\S+)$") for text in (printed, shown))
    assert expected.keys() == measured.keys()
    for kind, ratio in expected.items():  # one digit is shown
        assert ratio / 2 < measured[kind] < 2 * ratio
    assert expected["sigmoid"] < 1e-10 < expected["ReLU"] < 1e-4
    assert all(0.1 < expected[kind] < 10 for kind in ("ReLU, He", "ReLU, LayerNorm", "ReLU, residual"))


def one_repair_that_is_not_enough(printed: str, shown: str) -> None:
    for text in (printed, shown):
        accuracy = last_numbers(text, r"^(.*?)\s+(\d+%)$")
        assert accuracy.pop("ReLU, LayerNorm, SGD") > 85
        assert len(accuracy) == 5
        assert max(accuracy.values()) < 45


def epsilon_that_matters_where_gradients_are_as_small(printed: str, shown: str) -> None:
    measured, expected = (last_numbers(text, r"^(loss times .*) loss at the end (\S+)$") for text in (printed, shown))
    assert measured == pytest.approx(expected, rel=0.1)
    assert len(expected) == 6
    assert sorted(expected.values())[-1] > 50 * sorted(expected.values())[-2]


def a_verdict_of_the_same_shape(printed: str, shown: str) -> None:
    """The budget is cut: what is compared is the shape of the answer, not its quality."""
    for words in (without_numbers(printed), without_numbers(shown)):
        assert words[1:6] == ["reaches", "a", "test", "loss", "of"]
        assert "thalweg.optim" in " ".join(words)
        assert "torch.optim.lr_scheduler.LinearLR(optimizer," in words


OUTPUTS: dict[tuple[str, int], Callable[[str, str], None]] = {
    ("README.md", 0): a_verdict_of_the_same_shape,
    ("docs/choosing/tuning.md", 0): a_valley_over_the_learning_rate,
    ("docs/choosing/schedules.md", 1): a_loss_that_fresh_statistics_lower,
    ("docs/choosing/schedules.md", 2): a_loss_that_jumps_with_a_new_optimizer,
    ("docs/choosing/batch_size.md", 0): noise_that_grows,
    ("docs/diagnosis/gradients.md", 0): ratios_of_gradients,
    ("docs/diagnosis/gradients.md", 1): one_repair_that_is_not_enough,
    ("docs/diagnosis/epsilon.md", 0): epsilon_that_matters_where_gradients_are_as_small,
}


# --- Pages ---


def comments_are_printed(run: PageRun) -> None:
    """The comment behind each print is the whole output."""
    comments = [
        comment
        for block in run.blocks
        for comment in re.findall(r"^\s*print\(.*\)  # (.*)$", block.code, flags=re.MULTILINE)
    ]
    assert comments
    assert run.output.splitlines() == comments


def readme(run: PageRun) -> None:
    verdict, diagnosis = run.blocks
    assert len([line for line in verdict.code.splitlines() if line.strip()]) <= 16
    assert len([line for line in diagnosis.code.splitlines() if line.strip()]) <= 11
    assert (run.folder / "report.html").exists()


def start(run: PageRun) -> None:
    task, _ = run.blocks
    text = run.page.read_text()
    shown, diagnosis = re.findall(r"```text\n(.*?)```", text, flags=re.DOTALL)
    (run.folder / "mine.py").write_text(task.code)
    assert "reaches a test loss of" in run.output
    assert re.search(LINE, run.output, flags=re.MULTILINE)
    assert re.search(LINE, shown, flags=re.MULTILINE)
    assert (run.folder / "report.html").exists()
    command = re.search(r"^\$ thalweg (compare mine.py:task .*)$", text, flags=re.MULTILINE)
    assert command is not None
    arguments = command[1].replace("40trials", "2trials").replace("sgd,momentum,adamw", "sgd").split()
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    first, header = done.stdout.splitlines()[:2]
    assert first == shown.splitlines()[0] == "mine:task: test loss"
    columns = {name for row in shown.splitlines() if row[:9] == "contender" for name in re.split(r"\s{2,}", row)}
    assert {"contender", "value", "training loss", "lost", "state", "settings"} <= columns
    assert {name for name in re.split(r"\s{2,}", header) if name} - {"seeds", "untuned"} <= columns
    assert "learning rate too low" in diagnosis


def batch_size(run: PageRun) -> None:
    from thalweg.comparison.training.workload import TaskWorkload
    from thalweg.tasks.tuning import task_at, tunables_of_task

    task = run.namespace["task"]
    assert [*tunables_of_task(task)] == ["batch_size"]
    steps = [
        TaskWorkload(task_at(task, {"batch_size": size})).task.batches_per_pass(full_batch=False) for size in (16, 64)
    ]
    assert steps[0] == pytest.approx(4 * steps[1], rel=0.05)


def training_loops(run: PageRun) -> None:
    """The lines to paste that a comparison of a training loop prints are valid."""
    body, head = torch.nn.Linear(2, 16), torch.nn.Linear(16, 1)
    calls: list[dict] = []
    names = {"body": body, "head": head, "make_optimizer": None, "report": None}
    names["train"] = lambda make_optimizer, report, **values: calls.append(values)
    exec(run.output, run.namespace | names)
    assert [sorted(values) for values in calls] == [["batch_size", "clip"]]


def transfer(run: PageRun) -> None:
    (comment,) = re.findall(r"print\(result\)  # (.*)\n", run.blocks[0].code)
    assert run.output.strip() == comment
    (fragment,) = [block.code for block in blocks_of(run.page) if block.reason]
    model = run.namespace["model"]
    torch.manual_seed(0)

    def train_on(batch: torch.Tensor) -> None:
        model.zero_grad()
        model(batch).square().mean().backward()

    exec(fragment, run.namespace | {"batches": torch.randn(30, 4, 8), "train_on": train_on})


def warm_restarts(run: PageRun) -> None:
    assert "WarmRestarts" in repr(run.namespace["optimizer"].rule)


def conformance(run: PageRun) -> None:
    failures = [finding.check for finding in run.namespace["result"].failures]
    assert failures == ["keeps_float32_state_of_bfloat16_parameters"]


def trainers(run: PageRun) -> None:
    assert (run.folder / "runs" / "accelerate" / "optimizer.bin").exists()
    assert run.namespace["validation_loss"].isfinite()
    assert run.namespace["trainer"].state.global_step == 4


def pictures(run: PageRun) -> None:
    assert all(block.shown for block in run.blocks)
    assert (run.folder / "rosenbrock.png").stat().st_size > 10_000


def rule_page(run: PageRun) -> None:
    """The example of a rule trains: its loss is below that of the model at its start."""
    start: dict = {}
    exec(run.blocks[0].code.partition("optimizer = ")[0], start)
    untrained = torch.nn.functional.mse_loss(start["model"](start["inputs"]), start["targets"]).item()
    assert float(run.output.split()[-1]) < 0.8 * untrained


CHECKS: dict[str, Callable[[PageRun], None]] = {
    "README.md": readme,
    "docs/start.md": start,
    "docs/choosing/batch_size.md": batch_size,
    "docs/choosing/training_loops.md": training_loops,
    "docs/choosing/transfer.md": transfer,
    "docs/diagnosis/index.md": comments_are_printed,
    "docs/diagnosis/minima.md": warm_restarts,
    "docs/extending/conformance.md": conformance,
    "docs/learning/linear_regression.md": comments_are_printed,
    "docs/learning/logistic_regression.md": comments_are_printed,
    "docs/learning/small_network.md": comments_are_printed,
    "docs/learning/pictures.md": pictures,
    "docs/running/trainers.md": trainers,
}


def check(run: PageRun) -> None:
    """Compare the outputs of a page with those that it shows, and make the checks of this page."""
    name = str(run.page.relative_to(ROOT))
    for place, (block, printed) in enumerate(zip(run.blocks, run.printed, strict=True)):
        if block.shown:
            OUTPUTS.get((name, place), as_shown)(printed, block.shown)
    if name in CHECKS:
        CHECKS[name](run)
    elif name.startswith("docs/optimizers/rules/"):
        rule_page(run)
