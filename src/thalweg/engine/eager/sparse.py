"""Sparse: steps with sparse gradients, as of large embeddings, that touch only the rows with a gradient.

This backend is for rules with the trait `noop_on_zero_grad`, whose dense step leaves the other rows unchanged, and for
those with the trait `lazy_sparse`, whose step is defined so.
"""

from thalweg.engine.core.batch import BatchStep, ParameterBatch
from thalweg.engine.eager import loop


def run(step: BatchStep) -> None:
    """Take a step in place, tensor by tensor. Some gradients are sparse; these must be coalesced."""
    for k, (param, grad, c) in enumerate(zip(step.batch.params, step.grads, step.coefficients, strict=True)):
        columns = {name: [column[k]] for name, column in step.batch.columns.items()}
        if not grad.is_sparse:
            loop.run([BatchStep(ParameterBatch(step.batch.program, [param], columns), [grad], [c])])
            continue
        rows = tuple(grad.indices())
        touched = {name: [column[rows]] for name, (column,) in columns.items()}
        part = ParameterBatch(step.batch.program, [param[rows]], touched)
        loop.run([BatchStep(part, [grad.values()], [c])])
        param[rows] = part.params[0]
        for name, (column,) in columns.items():
            column[rows] = touched[name][0]
