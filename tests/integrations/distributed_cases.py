"""All cases of distributed training, which two processes run together: `python -m ... FOLDER RANK`."""

import sys
from functools import partial
from pathlib import Path

from tests.integrations import placement_cases, refusal_cases, training_cases
from tests.integrations.process_pair import Case, serve
from tests.integrations.sharded_training import OPTIMIZERS, STRATEGIES

CASES: dict[str, Case] = {
    **{
        f"{strategy}: {optimizer}": partial(training_cases.trains_as_one_process, strategy, optimizer)
        for strategy in STRATEGIES
        for optimizer in OPTIMIZERS
    },
    **{
        f"sums: {placement}": partial(placement_cases.sums_cover_all_shards, placement)
        for placement in placement_cases.PLACEMENTS
    },
    **{
        case.__name__: case
        for case in (
            training_cases.resumes_from_files,
            training_cases.whole_checkpoints_of_an_evaluation_resume,
            training_cases.mixed_precision_steps_as_torch,
            placement_cases.gradients_are_placed_as_parameters,
            placement_cases.tensor_parallel_trains_as_one_process,
            placement_cases.whole_dtensors_take_every_rule,
            refusal_cases.every_rule_is_right_or_refused,
            refusal_cases.document_agrees,
            refusal_cases.refusals_cover_groups_wrappers_and_rounding,
            refusal_cases.zero_hands_on_groups,
            training_cases.models_sharded_later_are_noticed,
            training_cases.original_parameters_may_be_wrapped_later,
            training_cases.plans_do_not_depend_on_wrappers,
            training_cases.curvature_is_averaged,
            training_cases.gauss_newton_is_right_in_every_way,
        )
    },
}


if __name__ == "__main__":
    serve(CASES, Path(sys.argv[1]), int(sys.argv[2]))
