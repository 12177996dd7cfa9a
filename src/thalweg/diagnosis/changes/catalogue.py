"""The changes that a diagnosis may try, and those for a kind of cause.

Within a kind, the order is that of the sizes, then that of this file: likelier cures first.
"""

import torch

from thalweg import optim
from thalweg.diagnosis.changes.clipping import ClipAdaptively, ClipGradients, ClipWeights, LooserClipping
from thalweg.diagnosis.changes.data.augmentation import WithoutAugmentation
from thalweg.diagnosis.changes.data.classes import BalanceClasses, WeightClasses
from thalweg.diagnosis.changes.data.order import FixedSubset, LargerBatches, Shuffle
from thalweg.diagnosis.changes.data.scale import NormalizeInputs, NormalizeTargets
from thalweg.diagnosis.changes.escape import GradientNoise, PerturbedRestarts, Restarts, ThenOther
from thalweg.diagnosis.changes.loops import PlainStep, TrainingMode, ZeroGradients
from thalweg.diagnosis.changes.model.activations import AddResiduals, InsertNonlinearity, ReplaceActivations
from thalweg.diagnosis.changes.model.initialization import (
    Initialize,
    LayerSequentialUnitVariance,
    ResetParameters,
    ScaleWeights,
)
from thalweg.diagnosis.changes.model.normalization import (
    BatchNormStatistics,
    InsertNorm,
    NormalizeQueries,
    ReplaceBatchNorm,
    WeightNorm,
)
from thalweg.diagnosis.changes.numbers import DropNonFinite, FillNonFinite, FiniteConstants, Float32, Guard, ScaleLoss
from thalweg.diagnosis.changes.outputs import (
    BinaryLoss,
    LogForNll,
    LossOfProbabilities,
    MeanLoss,
    RemoveActivation,
    ReshapeTargets,
)
from thalweg.diagnosis.changes.parts.change import Change
from thalweg.diagnosis.changes.parts.output import ACTIVATIONS, PROBABILITIES
from thalweg.diagnosis.changes.several import LowerWeight, SlowDiscriminator, SlowTarget
from thalweg.diagnosis.changes.softmaxes import MendSoftmaxDim, SigmoidForOneUnit, WithoutSoftmax
from thalweg.diagnosis.changes.steps import (
    ConstantSchedule,
    DecayOnlyMatrices,
    OtherOptimizer,
    ScaleLearningRate,
    SetSetting,
    WarmUp,
    lower_first_beta,
    lower_momentum,
    no_decay,
    smaller_eps,
)
from thalweg.diagnosis.changes.wiring import AddParameters, Attach, RebuildOptimizer, Register, StepOnce, Unfreeze

_FLAT = ("Sigmoid", "Tanh", "Hardtanh", "Hardsigmoid", "Softsign")
_EXPLODING = ("exploding_gradient", "loss_spike")

_WIRING: list[Change] = [
    Register(name="layers registered", cures=("unregistered_parameters", "no_gradient"), size=2),
    AddParameters(
        name="missing parameters added to the optimizer",
        cures=("stale_optimizer", "unregistered_parameters", "no_gradient", "frozen_parameters"),
    ),
    RebuildOptimizer(name="optimizer of the model's own parameters", cures=("stale_optimizer", "no_gradient")),
    Unfreeze(name="parameters unfrozen", cures=("frozen_parameters", "no_gradient")),
    Unfreeze(name="all parameters unfrozen", cures=("frozen_parameters",), size=2, everywhere=True),
    Attach(name="graph not cut", cures=("detached_graph", "no_gradient"), size=2),
    StepOnce(name="each parameter stepped once", cures=("parameter_twice",)),
]
_OUTPUTS: list[Change] = [
    RemoveActivation(
        name="no softmax or sigmoid before the loss",
        cures=("softmax_before_cross_entropy", "sigmoid_before_bce_logits"),
        functions=PROBABILITIES,
    ),
    LossOfProbabilities(
        name="a loss of probabilities", cures=("softmax_before_cross_entropy", "sigmoid_before_bce_logits")
    ),
    WithoutSoftmax(name="no softmax before the loss", cures=("softmax_wrong_dim", "softmax_of_one_unit")),
    RemoveActivation(name="no activation at the output", cures=("output_activation",), functions=ACTIVATIONS),
    MendSoftmaxDim(name="softmax over the classes", cures=("softmax_wrong_dim",)),
    SigmoidForOneUnit(name="sigmoid instead of the softmax of one unit", cures=("softmax_of_one_unit",)),
    BinaryLoss(name="binary cross-entropy", cures=("softmax_of_one_unit",), changes_loss=True),
    LogForNll(name="logarithms of probabilities for the likelihood", cures=("nll_without_log",), changes_loss=True),
    ReshapeTargets(name="targets in the shape of the outputs", cures=("broadcast_targets",), changes_loss=True),
    MeanLoss(name="mean instead of sum", cures=("loss_summed", "lr_too_high"), changes_loss=True),
]
_LOOP: list[Change] = [
    ZeroGradients(name="gradients zeroed before each step", cures=("no_zero_grad",)),
    TrainingMode(name="training mode before each step", cures=("left_in_eval_mode", "batchnorm_eval_gap")),
    ConstantSchedule(name="constant learning rate", cures=("schedule_kills_lr",)),
    LooserClipping(name="no clipping", cures=("clip_too_small",)),
    LooserClipping(name="clipping at norm 1", cures=("clip_too_small",), limit=1.0),
    PlainStep(
        name="the plain step",
        cures=("no_zero_grad", "schedule_kills_lr", "clip_too_small", "left_in_eval_mode"),
        size=3,
    ),
]
_STEPS: list[Change] = [
    ScaleLearningRate(name="learning rate x 10", cures=("lr_too_low", "plateau", "vanishing_gradient"), factor=10.0),
    ScaleLearningRate(
        name="learning rate / 10",
        cures=(
            "lr_too_high",
            "dead_relu",
            "saturation",
            "gradient_noise",
            "edge_of_stability",
            "bootstrap_divergence",
            "no_warmup",
            "attention_logit_growth",
            *_EXPLODING,
        ),
        factor=0.1,
    ),
    ScaleLearningRate(name="learning rate x 100", cures=("lr_too_low", "update_below_precision"), factor=100.0),
    ScaleLearningRate(name="learning rate / 100", cures=("lr_too_high", "bootstrap_divergence"), factor=0.01),
    ScaleLearningRate(name="learning rate x 1000", cures=("lr_too_low",), factor=1000.0),
    ScaleLearningRate(name="learning rate x 10000", cures=("lr_too_low",), factor=10000.0),
    SetSetting(
        name="no weight decay",
        cures=("weight_decay_too_strong", "posterior_collapse"),
        setting="weight_decay",
        new=no_decay,
    ),
    DecayOnlyMatrices(name="no weight decay on norms and biases", cures=("decay_on_norms", "weight_decay_too_strong")),
    WarmUp(
        name="warm-up over 100 steps", cures=("no_warmup", "lr_too_high", "edge_of_stability", "attention_logit_growth")
    ),
    SetSetting(
        name="lower momentum",
        cures=("momentum_too_high", "loss_spike", "edge_of_stability", "bootstrap_divergence"),
        setting="momentum",
        new=lower_momentum,
    ),
    SetSetting(name="lower first beta", cures=("momentum_too_high",), setting="betas", new=lower_first_beta),
    SetSetting(name="smaller epsilon", cures=("adam_eps_underflow",), setting="eps", new=smaller_eps),
    OtherOptimizer(
        name="Adam",
        cures=(
            "sgd_on_badly_scaled",
            "plateau",
            "vanishing_gradient",
            "inputs_not_normalised",
            "update_below_precision",
        ),
        size=2,
        make=torch.optim.Adam,
        settings={"lr": 1e-3},
        spelling="torch.optim.Adam",
    ),
    OtherOptimizer(
        name="Adam at learning rate 0.01",
        cures=("sgd_on_badly_scaled", "plateau"),
        size=2,
        make=torch.optim.Adam,
        settings={"lr": 1e-2},
        spelling="torch.optim.Adam",
    ),
    OtherOptimizer(
        name="SGD with momentum",
        cures=("adam_eps_underflow", "plateau"),
        size=2,
        make=torch.optim.SGD,
        settings={"lr": 0.05, "momentum": 0.9},
        spelling="torch.optim.SGD",
    ),
    OtherOptimizer(
        name="RAdam",
        cures=("no_warmup",),
        size=2,
        make=optim.RAdam,
        spelling="thalweg.optim.RAdam",
        imports="import thalweg.optim",
    ),
    OtherOptimizer(
        name="StableAdamW",
        cures=("loss_spike", "no_warmup"),
        size=2,
        make=optim.StableAdamW,
        spelling="thalweg.optim.StableAdamW",
        imports="import thalweg.optim",
    ),
]
_CLIPPING: list[Change] = [
    ClipGradients(name="gradients clipped at norm 1", cures=(*_EXPLODING, "edge_of_stability", "lr_too_high"), size=2),
    ClipGradients(name="gradients clipped at 0.1 by value", cures=_EXPLODING, size=2, limit=0.1, by_value=True),
    ClipAdaptively(name="adaptive clipping", cures=_EXPLODING, size=2),
    ClipWeights(name="weights clipped at 1", cures=("exploding_gradient", "init_too_large"), size=2),
]
_NUMBERS: list[Change] = [
    DropNonFinite(name="examples that are not finite left out", cures=("nan_in_data",), size=2),
    FillNonFinite(name="inputs that are not finite set to 0", cures=("nan_in_data",), size=2),
    Guard(name="roots guarded", cures=("nan_from_sqrt",), guards="roots"),
    Guard(name="logarithms guarded", cures=("nan_from_log",), guards="logarithms"),
    Guard(name="divisions guarded", cures=("nan_from_division",), guards="divisions"),
    Guard(
        name="exponentials guarded",
        cures=("fp16_overflow", "nan_from_log", "nan_from_division"),
        size=2,
        guards="exponentials",
    ),
    FiniteConstants(name="constants within the range of the format", cures=("fp16_overflow",)),
    Float32(name="float32", cures=("fp16_overflow", "update_below_precision"), size=2),
    ScaleLoss(name="loss x 1e6", cures=("adam_eps_underflow",), size=2, factor=1e6, changes_loss=True),
]
_SIGNALS: list[Change] = [
    ResetParameters(name="constant weights drawn at random", cures=("zero_init",), size=2, only_constant=True),
    ResetParameters(
        name="default initialization",
        cures=(
            "init_too_large",
            "exploding_gradient",
            "dead_relu",
            "saturation",
            "attention_logit_growth",
            "zero_init",
        ),
        size=3,
    ),
    ReplaceActivations(
        name="ReLU instead of sigmoid and tanh",
        cures=("vanishing_gradient", "saturation"),
        size=3,
        old=_FLAT,
        new="ReLU()",
    ),
    Initialize(
        name="He initialization",
        cures=("vanishing_gradient", "dead_relu", "exploding_gradient", "init_too_large", "zero_init"),
        size=3,
        initializer="he",
    ),
    Initialize(
        name="Xavier initialization",
        cures=("vanishing_gradient", "saturation", "exploding_gradient", "init_too_large", "zero_init"),
        size=3,
        initializer="xavier",
    ),
    Initialize(
        name="orthogonal initialization",
        cures=("vanishing_gradient", "exploding_gradient", "init_too_large"),
        size=3,
        initializer="orthogonal",
    ),
    LayerSequentialUnitVariance(
        name="LSUV initialization",
        cures=("vanishing_gradient", "exploding_gradient", "init_too_large", "saturation"),
        size=3,
    ),
    ScaleWeights(
        name="weights scaled to their default size",
        cures=("init_too_large", "attention_logit_growth", "saturation"),
        size=2,
    ),
    NormalizeQueries(name="queries and keys normalized", cures=("attention_logit_growth",), size=3),
    ReplaceActivations(
        name="LeakyReLU instead of ReLU", cures=("dead_relu",), size=3, old=("ReLU", "ReLU6"), new="LeakyReLU(0.1)"
    ),
    ReplaceActivations(name="GELU instead of ReLU", cures=("dead_relu",), size=3, old=("ReLU", "ReLU6"), new="GELU()"),
    InsertNonlinearity(name="ReLU between layers", cures=("no_nonlinearity",), size=3),
    AddResiduals(name="residual connections", cures=("vanishing_gradient", "exploding_gradient"), size=4),
    InsertNorm(
        name="LayerNorm after hidden layers",
        cures=(
            "vanishing_gradient",
            "exploding_gradient",
            "saturation",
            "dead_relu",
            "init_too_large",
            "inputs_not_normalised",
            "attention_logit_growth",
        ),
        size=4,
    ),
    InsertNorm(
        name="BatchNorm after hidden layers",
        cures=("vanishing_gradient", "exploding_gradient", "saturation", "dead_relu", "init_too_large"),
        size=4,
        over_batch=True,
    ),
    WeightNorm(name="weight normalization", cures=("init_too_large", "exploding_gradient"), size=4),
    BatchNormStatistics(name="statistics of batch normalization that follow", cures=("batchnorm_eval_gap",)),
    BatchNormStatistics(
        name="no running statistics", cures=("batchnorm_eval_gap", "left_in_eval_mode"), size=2, momentum=None
    ),
    ReplaceBatchNorm(
        name="GroupNorm instead of BatchNorm", cures=("batchnorm_eval_gap", "batchnorm_tiny_batch"), size=3
    ),
    ReplaceBatchNorm(name="no BatchNorm", cures=("batchnorm_eval_gap", "batchnorm_tiny_batch"), size=3, drop=True),
]
_DATA: list[Change] = [
    NormalizeInputs(
        name="inputs normalized",
        cures=("inputs_not_normalised", "sgd_on_badly_scaled", "saturation", "dead_relu"),
        size=2,
    ),
    NormalizeTargets(
        name="targets normalized", cures=("targets_not_normalised", "lr_too_high"), size=2, changes_loss=True
    ),
    Shuffle(name="shuffled batches", cures=("batches_sorted",), size=2),
    WeightClasses(name="classes weighted", cures=("class_imbalance",), size=2, changes_loss=True),
    BalanceClasses(name="classes balanced", cures=("class_imbalance",), size=2, changes_loss=True),
    WithoutAugmentation(name="no augmentation", cures=("augmentation_too_strong",), size=2),
    LargerBatches(name="larger batches", cures=("batchnorm_tiny_batch", "gradient_noise"), size=2),
]
_SEVERAL: list[Change] = [
    SlowDiscriminator(name="discriminator's learning rate / 10", cures=("gan_discriminator_wins",), factor=0.1),
    SlowDiscriminator(name="discriminator's learning rate / 100", cures=("gan_discriminator_wins",), factor=0.01),
    SlowTarget(name="targets of a slow copy", cures=("bootstrap_divergence",), size=2),
    LowerWeight(name="divergence weighted / 100", cures=("posterior_collapse",), factor=0.01),
    LowerWeight(name="divergence weighted / 10", cures=("posterior_collapse",), factor=0.1),
]
ESCAPES: list[Change] = [
    Restarts(name="warm restarts", cures=("plateau",), size=2),
    GradientNoise(name="gradient noise", cures=("plateau",), size=2),
    ThenOther(
        name="SGD with momentum after 100 steps",
        cures=("plateau",),
        size=2,
        make=lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9),
        spelling="torch.optim.SGD(params, lr=lr, momentum=0.9)",
    ),
    ThenOther(
        name="Adam at every other step",
        cures=("plateau",),
        size=2,
        make=lambda params, lr: torch.optim.Adam(params, lr=1e-3),
        spelling="torch.optim.Adam(params, lr=1e-3)",
        switch_at=0,
    ),
    PerturbedRestarts(name="restarts from perturbed weights", cures=("plateau",), size=3),
]
"""Changes that leave a poor minimum or a plateau."""

CHANGES: list[Change] = [
    *_WIRING,
    *_OUTPUTS,
    *_LOOP,
    *_STEPS,
    *_CLIPPING,
    *_NUMBERS,
    *_SIGNALS,
    *_DATA,
    *_SEVERAL,
    *ESCAPES,
]
"""All changes that cure some kind of cause."""

FIXED_SUBSET = FixedSubset(name="one batch again and again", cures=(), changes_loss=True)
"""A probe: a model that can learn anything learns one batch."""


def changes_for(kind: str, where: str | None) -> list[Change]:
    """Return the changes that cure a kind of cause, the smallest first.

    Args:
        kind: The kind, a name of ``KINDS``.
        where: The module or parameter to blame; None if none is.

    Example:
        >>> [change.name for change in changes_for("no_zero_grad", None)]
        ['gradients zeroed before each step', 'the plain step']
    """
    return sorted((change for change in CHANGES if kind in change.cures), key=lambda change: change.size)
