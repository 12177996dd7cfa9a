"""Checkpoints with one thing wrong are refused and change nothing, or training goes on right.

`benchmarks/faults/checkpoints.py` tries all mutations on all optimizers; here each optimizer gets an eighth of them.
"""

import pytest

from cases.checkpoint_mutations import OPTIMIZERS, Trial, mutations


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_wrong_checkpoint_is_refused_whole_or_continued_right(name: str) -> None:
    trial = Trial(OPTIMIZERS[name])
    chosen = mutations(trial.saved)[list(OPTIMIZERS).index(name) % 8 :: 8]
    assert len(chosen) >= 14
    assert not [problem for mutation in chosen if (problem := trial.run(mutation))]
