"""The exported names: a name that appears, disappears or is renamed is a change of the public interface."""

import importlib

import pytest

import thalweg
from thalweg import errors

EXPORTS = {
    "thalweg": """
        Comparison Contender Diagnosis Splits Suite Task ThalwegError Training __version__ choice compare compare_suite
        diagnose log_range optim range rules show supervised tasks watch
    """,
    "thalweg.comparison": """
        CONTENDERS Comparison Contender CsvLog DEFAULT Progress Store Suite TaskProgress TensorBoardLog TrialTable
        Verdict compare compare_suite folder_name open_suite parse split_list
    """,
    "thalweg.optim": """
        ADOPT ASGD AdEMAMix AdaBelief AdaGrad AdaHessian Adadelta Adafactor Adagrad Adam AdamMini
        AdamW Adamax Adan AggMo CAME DAdaptAdam DAdaptSGD Dion DoG DoWG HeavyBall LAMB LARS LBFGS
        LDoG LaProp Lion MADGRAD Muon NAdam NAdamW NorMuon NovoGrad PSGDKron Prodigy QHAdam QHM
        RAdam RAdamW RMSprop Routing RoutingPlan Rprop RuleOptimizer SGD SM3 SOAP ScheduleFreeAdamW
        ScheduleFreeSGD Scion Shampoo Signum Sophia SparseAdam StableAdamW Transferred Yogi optimizer_for route
        transfer
    """,
    "thalweg.rules": """
        ADOPT ASAM ASGD AdEMAMix AdaBelief AdaGrad AdaHessian Adadelta Adafactor Adam AdamMini AdamW
        Adamax Adan AggMo CAME Cautious CautiousDecay Centralized Clip ClipAdaptive ClipNorm
        ClipValue ClipWeights CoupledDecay DAdaptAdam DAdaptSGD DecoupledDecay Dion DoG DoWG
        Eigenbasis Explanation FixedNorms FullyDecoupledDecay GaLore Grokfast HeavyBall Hyper InverseRoot LAMB LARS
        LBFGS LDoG LaProp Lion Lookahead MADGRAD Mars Max Mean Mechanic MovingAverage Muon NAdam NAdamW
        Noisy NorMuon Norm NovoGrad OperationGroup Orthogonal Orthogonalized PSGDKron PolyakAverage PowerIteration
        Prodigy QHAdam QHM RAdam
        RAdamW RMSprop Range Routed Rprop Rule SAM SGD SM3 SOAP ScheduleFreeAdamW ScheduleFreeSGD Scion
        Shampoo Signum Sophia SparseAdam Split StableAdamW Sum Switched WarmRestarts Wrapper Yogi choice
        copy_of_param count explain hyper like_param of_shape record resolve_reductions root switch
        wrappers
    """,
    "thalweg.rules.wrappers": """
        ASAM Cautious CautiousDecay Centralized Clip ClipAdaptive ClipNorm ClipValue ClipWeights
        CoupledDecay DecoupledDecay FixedNorms FullyDecoupledDecay GaLore Grokfast Lookahead Mars
        Mechanic MovingAverage Noisy Orthogonalized PolyakAverage SAM Split WarmRestarts
    """,
    "thalweg.tasks": """
        BUILT_IN Batch SUITE Split Splits Task Training TrainingFunction as_task choice load log_range range seeded
        split_at_random supervised
    """,
    "thalweg.trajectories": """
        MAX_OPTIMIZERS MAX_STEPS OptimizerPaths SURFACES Surface Trajectories Trajectory find_surface trace
    """,
    "thalweg.testing": """
        CHECKS CheckResult ConformanceResult OptimizerFactory check_optimizer
    """,
}
ERRORS = """
    BudgetError ComparisonInterrupted DeviceError DiagnosisError DiagnosisInterrupted KeywordError MissingPackageError
    ParameterError ParameterTypeError ResultInterrupted RoutingError SettingError SettingWarning StoreError TaskError
    ThalwegError UnknownNameError is_hidden letters_of nearest nearest_setting printable shown
"""


@pytest.mark.parametrize("module", EXPORTS)
def test_a_module_exports_these_names_and_no_other(module: str) -> None:
    home = importlib.import_module(module)
    assert sorted(home.__all__) == EXPORTS[module].split()
    assert len(set(home.__all__)) == len(home.__all__)
    assert all(hasattr(home, name) for name in home.__all__)


def test_the_errors_are_these() -> None:
    defined = {name for name, value in vars(errors).items() if getattr(value, "__module__", "") == errors.__name__}
    assert sorted(name for name in defined if not name.startswith("_")) == ERRORS.split()


def test_the_package_lists_what_it_exports() -> None:
    assert sorted(dir(thalweg)) == EXPORTS["thalweg"].split()
    with pytest.raises(AttributeError, match="module 'thalweg' has no attribute 'adamw'"):
        thalweg.adamw  # noqa: B018
