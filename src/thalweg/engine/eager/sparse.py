"""Sparse: steps with sparse gradients, as those of large embeddings: only the rows that have a gradient are touched.

For rules that rest where the gradient is zero (`Rule.rests`), so that the dense step would leave the other rows alone.
"""

from thalweg.engine.core.batch import BatchStep, ParameterBatch
from thalweg.engine.eager import loop


def run(step: BatchStep) -> None:
    """Take a step in place, some of whose gradients are sparse (and coalesced), tensor by tensor."""
    for k, (param, grad, row) in enumerate(zip(step.batch.params, step.grads, step.rows, strict=True)):
        columns = {name: [column[k]] for name, column in step.batch.columns.items()}
        if not grad.is_sparse:
            loop.run([BatchStep(ParameterBatch(step.batch.program, [param], columns), [grad], [row])])
            continue
        at = tuple(grad.indices())
        touched = {name: [column[at]] for name, (column,) in columns.items()}
        part = ParameterBatch(step.batch.program, [param[at]], touched)
        loop.run([BatchStep(part, [grad.values()], [row])])
        param[at] = part.params[0]
        for name, (column,) in columns.items():
            column[at] = touched[name][0]
