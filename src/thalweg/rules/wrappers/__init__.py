"""Wrappers: rules that change another rule, one a file."""

from thalweg.rules.composition.split import Split
from thalweg.rules.wrappers.asam import ASAM
from thalweg.rules.wrappers.cautious import Cautious
from thalweg.rules.wrappers.cautious_decay import CautiousDecay
from thalweg.rules.wrappers.centralized import Centralized
from thalweg.rules.wrappers.clip import Clip
from thalweg.rules.wrappers.clip_adaptive import ClipAdaptive
from thalweg.rules.wrappers.clip_norm import ClipNorm
from thalweg.rules.wrappers.clip_value import ClipValue
from thalweg.rules.wrappers.clip_weights import ClipWeights
from thalweg.rules.wrappers.coupled_decay import CoupledDecay
from thalweg.rules.wrappers.decoupled_decay import DecoupledDecay
from thalweg.rules.wrappers.fixed_norms import FixedNorms
from thalweg.rules.wrappers.fully_decoupled_decay import FullyDecoupledDecay
from thalweg.rules.wrappers.galore import GaLore
from thalweg.rules.wrappers.grokfast import Grokfast
from thalweg.rules.wrappers.lookahead import Lookahead
from thalweg.rules.wrappers.mars import Mars
from thalweg.rules.wrappers.mechanic import Mechanic
from thalweg.rules.wrappers.moving_average import MovingAverage
from thalweg.rules.wrappers.noisy import Noisy
from thalweg.rules.wrappers.orthogonalized import Orthogonalized
from thalweg.rules.wrappers.polyak_average import PolyakAverage
from thalweg.rules.wrappers.sam import SAM
from thalweg.rules.wrappers.warm_restarts import WarmRestarts

__all__ = [
    "ASAM",
    "SAM",
    "Cautious",
    "CautiousDecay",
    "Centralized",
    "Clip",
    "ClipAdaptive",
    "ClipNorm",
    "ClipValue",
    "ClipWeights",
    "CoupledDecay",
    "DecoupledDecay",
    "FixedNorms",
    "FullyDecoupledDecay",
    "GaLore",
    "Grokfast",
    "Lookahead",
    "Mars",
    "Mechanic",
    "MovingAverage",
    "Noisy",
    "Orthogonalized",
    "PolyakAverage",
    "Split",
    "WarmRestarts",
]
