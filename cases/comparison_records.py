"""Records of a small comparison, for tests and benchmarks that need a store but no training."""

import math

from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.protocol.design import Design, InterimAnalysis
from thalweg.comparison.protocol.score_scale import ScoreScale
from thalweg.comparison.results.estimate import Estimate
from thalweg.comparison.results.summary import STAGES, Summary
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
SUMMARY = Summary(
    name="sgd",
    about="",
    settings={"lr": 0.1},
    searched=["lr"],
    values=[1.0] * 5,
    value=Estimate(1.0, 0.9, 1.1, 5),
    untuned=Estimate(2.0, 1.9, 2.1, 5),
    recommended=None,
    example_error=math.nan,
    rank=None,
    studies=0,
    worse_by=0.0,
    train_loss=1.0,
    seeds=[1, 2, 3, 4, 5],
    diverged=0,
    failed=0,
    missed=0,
    seconds=1.0,
    state_bytes=0,
    state_numbers=0,
    line="",
    at_edge=[],
    good_rates=None,
    trials={stage: [] for stage in STAGES},
)
