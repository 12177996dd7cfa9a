"""Optimizers: the rules as ``torch.optim.Optimizer`` classes.

If torch has the algorithm, a change of the import is enough.
"""

from thalweg import rules
from thalweg.optim.optimizer import RuleOptimizer
from thalweg.optim.routing import Routing, RoutingPlan, route
from thalweg.optim.rule_classes import optimizer_for
from thalweg.optim.transfer import Transferred, transfer


class AdaBelief(RuleOptimizer, rule=rules.AdaBelief): ...


class Adadelta(RuleOptimizer, rule=rules.Adadelta): ...


class Adafactor(RuleOptimizer, rule=rules.Adafactor): ...


class AdaGrad(RuleOptimizer, rule=rules.AdaGrad):
    _has_state_from_start = True


class AdaHessian(RuleOptimizer, rule=rules.AdaHessian): ...


class Adam(RuleOptimizer, rule=rules.Adam): ...


class Adamax(RuleOptimizer, rule=rules.Adamax): ...


class AdamMini(RuleOptimizer, rule=rules.AdamMini): ...


class AdamW(RuleOptimizer, rule=rules.AdamW): ...


class Adan(RuleOptimizer, rule=rules.Adan): ...


class AdEMAMix(RuleOptimizer, rule=rules.AdEMAMix): ...


class ADOPT(RuleOptimizer, rule=rules.ADOPT): ...


class AggMo(RuleOptimizer, rule=rules.AggMo): ...


class ASGD(RuleOptimizer, rule=rules.ASGD): ...


class CAME(RuleOptimizer, rule=rules.CAME): ...


class DAdaptAdam(RuleOptimizer, rule=rules.DAdaptAdam): ...


class DAdaptSGD(RuleOptimizer, rule=rules.DAdaptSGD): ...


class Dion(RuleOptimizer, rule=rules.Dion): ...


class DoG(RuleOptimizer, rule=rules.DoG): ...


class DoWG(RuleOptimizer, rule=rules.DoWG): ...


class HeavyBall(RuleOptimizer, rule=rules.HeavyBall): ...


class LAMB(RuleOptimizer, rule=rules.LAMB): ...


class LaProp(RuleOptimizer, rule=rules.LaProp): ...


class LARS(RuleOptimizer, rule=rules.LARS): ...


class LBFGS(RuleOptimizer, rule=rules.LBFGS): ...


class LDoG(RuleOptimizer, rule=rules.LDoG): ...


class Lion(RuleOptimizer, rule=rules.Lion): ...


class MADGRAD(RuleOptimizer, rule=rules.MADGRAD): ...


class Muon(RuleOptimizer, rule=rules.Muon): ...


class NAdam(RuleOptimizer, rule=rules.NAdam): ...


class NAdamW(RuleOptimizer, rule=rules.NAdamW): ...


class NorMuon(RuleOptimizer, rule=rules.NorMuon): ...


class NovoGrad(RuleOptimizer, rule=rules.NovoGrad): ...


class Prodigy(RuleOptimizer, rule=rules.Prodigy): ...


class PSGDKron(RuleOptimizer, rule=rules.PSGDKron): ...


class QHAdam(RuleOptimizer, rule=rules.QHAdam): ...


class QHM(RuleOptimizer, rule=rules.QHM): ...


class RAdam(RuleOptimizer, rule=rules.RAdam): ...


class RAdamW(RuleOptimizer, rule=rules.RAdamW): ...


class RMSprop(RuleOptimizer, rule=rules.RMSprop): ...


class Rprop(RuleOptimizer, rule=rules.Rprop): ...


class ScheduleFreeAdamW(RuleOptimizer, rule=rules.ScheduleFreeAdamW): ...


class ScheduleFreeSGD(RuleOptimizer, rule=rules.ScheduleFreeSGD): ...


class Scion(RuleOptimizer, rule=rules.Scion): ...


class SGD(RuleOptimizer, rule=rules.SGD): ...


class Shampoo(RuleOptimizer, rule=rules.Shampoo): ...


class Signum(RuleOptimizer, rule=rules.Signum): ...


class SM3(RuleOptimizer, rule=rules.SM3): ...


class SOAP(RuleOptimizer, rule=rules.SOAP): ...


class Sophia(RuleOptimizer, rule=rules.Sophia): ...


class SparseAdam(RuleOptimizer, rule=rules.SparseAdam): ...


class StableAdamW(RuleOptimizer, rule=rules.StableAdamW): ...


class Yogi(RuleOptimizer, rule=rules.Yogi): ...


Adagrad = AdaGrad  # torch's spelling

__all__ = [
    "ADOPT",
    "ASGD",
    "CAME",
    "LAMB",
    "LARS",
    "LBFGS",
    "MADGRAD",
    "QHM",
    "SGD",
    "SM3",
    "SOAP",
    "AdEMAMix",
    "AdaBelief",
    "AdaGrad",
    "AdaHessian",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamMini",
    "AdamW",
    "Adamax",
    "Adan",
    "AggMo",
    "DAdaptAdam",
    "DAdaptSGD",
    "Dion",
    "DoG",
    "DoWG",
    "HeavyBall",
    "LDoG",
    "LaProp",
    "Lion",
    "Muon",
    "NAdam",
    "NAdamW",
    "NorMuon",
    "NovoGrad",
    "PSGDKron",
    "Prodigy",
    "QHAdam",
    "RAdam",
    "RAdamW",
    "RMSprop",
    "Routing",
    "RoutingPlan",
    "Rprop",
    "RuleOptimizer",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "Scion",
    "Shampoo",
    "Signum",
    "Sophia",
    "SparseAdam",
    "StableAdamW",
    "Transferred",
    "Yogi",
    "optimizer_for",
    "route",
    "transfer",
]
