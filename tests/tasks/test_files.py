"""Files of users as modules: a process that starts later finds what it is sent of them."""

import subprocess
import sys
from pathlib import Path

import pytest

TASK = """
import torch
from torch.utils.data import DataLoader, Dataset

import thalweg

NUMBERS = torch.rand(6)


class Rows(Dataset):
    def __len__(self):
        return len(NUMBERS)

    def __getitem__(self, index):
        return NUMBERS[index]


def loaders():
    loader = DataLoader(Rows(), batch_size=2, num_workers=1, multiprocessing_context="spawn")
    return thalweg.Splits(loader, None, None)


task = thalweg.Task(model=lambda: torch.nn.Linear(1, 1), loss=lambda model, batch: model(batch[0]).mean(), data=loaders)
numbers = NUMBERS
"""

# As on the command line, nothing that a new process imports on its own knows thalweg.
PROGRAM = """
import sys

if __name__ == "__main__":
    import torch
    from thalweg.tasks.catalogue import load, module_of_file
    from pathlib import Path

    task = load(sys.argv[1] + ":task")
    batches = torch.cat([part for (part,) in task.splits.train])
    assert batches.equal(module_of_file(Path(sys.argv[1])).NUMBERS), batches
"""


@pytest.mark.parametrize("name", ["loaders.py", "two words.py"])
def test_a_data_loader_that_spawns_its_workers_reads_the_dataset_of_a_task_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(TASK)
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py", tmp_path / name],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
