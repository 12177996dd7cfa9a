"""What a task leaves behind does not keep the program alive."""

import subprocess
import sys
from pathlib import Path

LEAVES_A_THREAD = """
import threading

import torch


def train(make_optimizer, report):  # it passes make_optimizer on, so it is run in this process up to its first step
    threading.Thread(target=threading.Event().wait, name="uploader").start()
    loop(make_optimizer, report)


def loop(make_optimizer, report):
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = make_optimizer([weight])
    for _ in range(3):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
    report(weight.square().item())
"""

PROGRAM = """
import sys

from thalweg.cli import ending
from thalweg.cli.main import main

ending.PATIENCE_S = 0.0
main(["compare", "mine.py:train", "--with", "sgd", "--budget", "2trials", "--workers", sys.argv[1], "--out", "out"])
"""


def test_a_thread_without_end_is_told_and_ended_with_the_program(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(LEAVES_A_THREAD)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "1"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "the task left a thread running (uploader" in done.stderr
    assert "lr=" in done.stdout
    assert (tmp_path / "out" / "report.html").exists()
