"""Passes: where a program is cut, what its loops run over, and what it moves."""

import pytest
import torch

from thalweg import optim, rules
from thalweg.engine.core.batch import ParameterBatch
from thalweg.engine.core.program import Program
from thalweg.engine.kernels.kernel_spec import KernelSpec
from thalweg.engine.kernels.passes import ROW, Passes
from thalweg.engine.kernels.recording import UnknownOperationError


def passes(rule: rules.Rule, *shape: int) -> Passes:
    return KernelSpec(ParameterBatch(Program(rule), [torch.empty(shape)], {})).passes


def test_an_elementwise_rule_is_one_pass_over_rows_of_a_fixed_length() -> None:
    adamw = passes(rules.AdamW(), 3, 4)
    assert (adamw.last, adamw.calls, adamw.axes) == (0, [range(1)], "m")
    assert adamw.moved_bytes() == (16, 12)
    assert adamw.sizes((3, 4)) == (1, 1, ROW, 12)
    assert adamw.sizes((2 * ROW + 1,)) == (1, 3, ROW, 2 * ROW + 1)


def test_a_sum_of_the_result_of_another_takes_one_more_pass() -> None:
    lamb = passes(rules.LAMB(), 3, 4)  # two norms, at once
    assert (lamb.last, lamb.axes) == (1, "m")
    assert lamb.moved_bytes() == (16 + 16, 12)
    # Row and column means and the parameter's size; the mean of the rows; the update's size; the step.
    adafactor = passes(rules.Adafactor(), 3, 4)
    assert [len(adafactor.reductions_of(number)) for number in range(4)] == [3, 1, 1, 0]
    assert adafactor.moved_bytes() == (8 + 4 + 8, 4)


@pytest.mark.parametrize(
    ("shape", "axes", "sizes"),
    [((5, 7), "nm", (1, 5, 7, 35)), ((2, 5, 7), "bnm", (2, 5, 7, 70)), ((3, 2, 5, 7), "bnm", (6, 5, 7, 210))],
)
def test_dimensions_that_are_reduced_together_are_one_axis(
    shape: tuple[int, ...], axes: str, sizes: tuple[int, ...]
) -> None:
    adafactor = passes(rules.Adafactor(), *shape)
    assert (adafactor.axes, adafactor.sizes(shape)) == (axes, sizes)
    units = passes(rules.AdamMini(), *shape)  # a row is a unit, with all that follows
    assert units.axes == "nm"
    assert units.sizes(shape) == (1, shape[0], sizes[-1] // shape[0], sizes[-1])


def test_reductions_over_the_model_are_combined_between_calls() -> None:
    clipped = passes(rules.Clip(rules.LAMB()), 3, 4)
    assert clipped.calls == [range(1), range(1, 3)]
    assert passes(rules.LAMB(), 3, 4).calls == [range(2)]


def test_shapes_that_its_loops_cannot_cover_are_left_to_other_backends() -> None:
    with pytest.raises(UnknownOperationError, match="more than two dimensions"):
        passes(rules.SM3(), 2, 3, 4, 5).sizes((2, 3, 4, 5))
    with pytest.raises(UnknownOperationError, match="a tensor of shape"):
        passes(rules.Mechanic(rules.AdamW()), 3, 4)


def test_parameters_without_a_kernel_bring_those_that_share_their_sums_to_the_loop() -> None:
    optimizer_class = optim.optimizer_for(rules.Clip(rules.SGD(lr=0.5), max_norm=1.0))

    def run(**settings: str) -> list[torch.Tensor]:
        params = [torch.ones(4, 3), torch.ones(6, 4)[:, ::2], torch.ones(5)]
        optimizer = optimizer_class([param.requires_grad_() for param in params], **settings)
        if not settings:
            lines = str(optimizer.prepare()).splitlines()
            assert [line.partition(":")[0] for line in lines if not line.startswith(" ")] == ["loop"] * 3
            assert "its sums over the model include parameters that have no kernel" in lines[0]
        for param in params:
            param.grad = torch.arange(param.numel()).reshape(param.shape).float()
        optimizer.step()
        return [param.detach() for param in params]

    assert all(map(torch.equal, run(), run(backend="loop")))
