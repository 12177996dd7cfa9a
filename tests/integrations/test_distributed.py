"""Training in two gloo processes: DDP, FSDP1, FSDP2, tensor parallelism and ZeroRedundancyOptimizer."""

import warnings

import pytest

from tests.integrations import process_pair

with warnings.catch_warnings():
    # torch.distributed.optim warns of other modules of torch when it is imported.
    warnings.simplefilter("ignore", DeprecationWarning)
    from tests.integrations.distributed_cases import CASES


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The outcome of each case in both processes, which are started once for all cases."""
    return process_pair.run("tests.integrations.distributed_cases", tmp_path_factory.mktemp("pair"))


@pytest.mark.parametrize("name", CASES)
def test_two_processes(name: str, outcomes: dict[str, list[str]]) -> None:
    assert name in outcomes, f"was not run, since {list(outcomes)[-1]} failed"
    for outcome in outcomes[name]:
        assert outcome == "passed", outcome
