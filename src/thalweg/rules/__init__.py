"""Rules: the formulas of optimizers, each written once, as pure functions."""

from thalweg.rules import wrappers
from thalweg.rules.adabelief import AdaBelief
from thalweg.rules.adadelta import Adadelta
from thalweg.rules.adafactor import Adafactor
from thalweg.rules.adagrad import AdaGrad
from thalweg.rules.adahessian import AdaHessian
from thalweg.rules.adam import Adam
from thalweg.rules.adam_mini import AdamMini
from thalweg.rules.adamax import Adamax
from thalweg.rules.adamw import AdamW
from thalweg.rules.adan import Adan
from thalweg.rules.ademamix import AdEMAMix
from thalweg.rules.adopt import ADOPT
from thalweg.rules.aggmo import AggMo
from thalweg.rules.asgd import ASGD
from thalweg.rules.came import CAME
from thalweg.rules.composition.routed import Routed
from thalweg.rules.composition.switched import Switched
from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.hyper import Hyper, Range, choice, count, hyper, switch
from thalweg.rules.core.matrix_requests import OperationGroup
from thalweg.rules.core.records import record
from thalweg.rules.core.reductions import Max, Mean, Norm, Sum, resolve_reductions
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import copy_of_param, like_param, of_shape
from thalweg.rules.dadapt_adam import DAdaptAdam
from thalweg.rules.dadapt_sgd import DAdaptSGD
from thalweg.rules.dion import Dion
from thalweg.rules.dog import DoG
from thalweg.rules.dowg import DoWG
from thalweg.rules.explanation.explain import Explanation, explain
from thalweg.rules.heavy_ball import HeavyBall
from thalweg.rules.lamb import LAMB
from thalweg.rules.laprop import LaProp
from thalweg.rules.lars import LARS
from thalweg.rules.lbfgs import LBFGS
from thalweg.rules.ldog import LDoG
from thalweg.rules.lion import Lion
from thalweg.rules.madgrad import MADGRAD
from thalweg.rules.math.operations import Eigenbasis, InverseRoot, Orthogonal, PowerIteration
from thalweg.rules.math.roots import root
from thalweg.rules.muon import Muon
from thalweg.rules.nadam import NAdam
from thalweg.rules.nadamw import NAdamW
from thalweg.rules.normuon import NorMuon
from thalweg.rules.novograd import NovoGrad
from thalweg.rules.prodigy import Prodigy
from thalweg.rules.psgd_kron import PSGDKron
from thalweg.rules.qhadam import QHAdam
from thalweg.rules.qhm import QHM
from thalweg.rules.radam import RAdam
from thalweg.rules.radamw import RAdamW
from thalweg.rules.rmsprop import RMSprop
from thalweg.rules.rprop import Rprop
from thalweg.rules.schedule_free_adamw import ScheduleFreeAdamW
from thalweg.rules.schedule_free_sgd import ScheduleFreeSGD
from thalweg.rules.scion import Scion
from thalweg.rules.sgd import SGD
from thalweg.rules.shampoo import Shampoo
from thalweg.rules.signum import Signum
from thalweg.rules.sm3 import SM3
from thalweg.rules.soap import SOAP
from thalweg.rules.sophia import Sophia
from thalweg.rules.sparse_adam import SparseAdam
from thalweg.rules.stable_adamw import StableAdamW
from thalweg.rules.wrappers import (
    ASAM,
    SAM,
    Cautious,
    CautiousDecay,
    Centralized,
    Clip,
    ClipAdaptive,
    ClipNorm,
    ClipValue,
    ClipWeights,
    CoupledDecay,
    DecoupledDecay,
    FixedNorms,
    FullyDecoupledDecay,
    GaLore,
    Grokfast,
    Lookahead,
    Mars,
    Mechanic,
    MovingAverage,
    Noisy,
    Orthogonalized,
    PolyakAverage,
    Split,
    WarmRestarts,
)
from thalweg.rules.yogi import Yogi

__all__ = [
    "ADOPT",
    "ASAM",
    "ASGD",
    "CAME",
    "LAMB",
    "LARS",
    "LBFGS",
    "MADGRAD",
    "QHM",
    "SAM",
    "SGD",
    "SM3",
    "SOAP",
    "AdEMAMix",
    "AdaBelief",
    "AdaGrad",
    "AdaHessian",
    "Adadelta",
    "Adafactor",
    "Adam",
    "AdamMini",
    "AdamW",
    "Adamax",
    "Adan",
    "AggMo",
    "Cautious",
    "CautiousDecay",
    "Centralized",
    "Clip",
    "ClipAdaptive",
    "ClipNorm",
    "ClipValue",
    "ClipWeights",
    "CoupledDecay",
    "DAdaptAdam",
    "DAdaptSGD",
    "DecoupledDecay",
    "Dion",
    "DoG",
    "DoWG",
    "Eigenbasis",
    "Explanation",
    "FixedNorms",
    "FullyDecoupledDecay",
    "GaLore",
    "Grokfast",
    "HeavyBall",
    "Hyper",
    "InverseRoot",
    "LDoG",
    "LaProp",
    "Lion",
    "Lookahead",
    "Mars",
    "Max",
    "Mean",
    "Mechanic",
    "MovingAverage",
    "Muon",
    "NAdam",
    "NAdamW",
    "Noisy",
    "NorMuon",
    "Norm",
    "NovoGrad",
    "OperationGroup",
    "Orthogonal",
    "Orthogonalized",
    "PSGDKron",
    "PolyakAverage",
    "PowerIteration",
    "Prodigy",
    "QHAdam",
    "RAdam",
    "RAdamW",
    "RMSprop",
    "Range",
    "Routed",
    "Rprop",
    "Rule",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "Scion",
    "Shampoo",
    "Signum",
    "Sophia",
    "SparseAdam",
    "Split",
    "StableAdamW",
    "Sum",
    "Switched",
    "WarmRestarts",
    "Wrapper",
    "Yogi",
    "choice",
    "copy_of_param",
    "count",
    "explain",
    "hyper",
    "like_param",
    "of_shape",
    "record",
    "resolve_reductions",
    "root",
    "switch",
    "wrappers",
]
