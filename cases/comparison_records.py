"""Records of a small comparison, for tests and benchmarks that need a store but no training."""

from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.protocol.design import Design, InterimAnalysis
from thalweg.comparison.protocol.score_scale import ScoreScale
from thalweg.comparison.training.workload_record import SPLITS, WorkloadRecord

WORKLOAD = WorkloadRecord("task", "a task without a model", {split: f"{split} loss" for split in SPLITS}, passes=1)
PLAN = ComparisonPlan(
    seed=0,
    design=Design(
        draws=4,
        retrained=1,
        reseeds=0,
        judged=0,
        ranking=(),
        finalists=0,
        refinals=0,
        race=(InterimAnalysis(5, 0.05),),
        value=5,
    ),
    scale=ScoreScale("log", dict.fromkeys(SPLITS, 1.0)),
    num_workers=1,
    schedules={},
    execution_modes={},
    ranges={},
    times_extended={},
    draws={},
    step_s={},
    optimum=None,
    target=None,
    selected_on="validation",
    judged_on="test",
)
