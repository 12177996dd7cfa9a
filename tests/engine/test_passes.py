"""Passes: where a program is cut, what its loops run over, and what it moves."""

import pytest
import torch

from thalweg import optim, rules
from thalweg.engine.core.batch import ParameterBatch
from thalweg.engine.core.program import Program
from thalweg.engine.kernels.kernel_cache import KernelSpec
from thalweg.engine.kernels.passes import ROW, Passes
from thalweg.engine.kernels.recording import UnknownOperationError


def passes(rule: rules.Rule, *shape: int) -> Passes:
    return KernelSpec(ParameterBatch(Program(rule), [torch.empty(shape)], {})).passes


def test_an_elementwise_rule_is_one_pass_over_rows_of_a_fixed_length() -> None:
    found = passes(rules.AdamW(), 3, 4)
    assert (found.last, found.calls, found.axes) == (0, [range(1)], "m")
    assert found.moved_bytes() == (16, 12)
    assert found.sizes((3, 4)) == (1, 1, ROW, 12)
    assert found.sizes((2 * ROW + 1,)) == (1, 3, ROW, 2 * ROW + 1)


def test_sums_take_a_pass_more_for_each_answer_that_needs_another_first() -> None:
    lamb = passes(rules.LAMB(), 3, 4)  # two norms, at once
    assert (lamb.last, lamb.axes) == (1, "m")
    assert lamb.moved_bytes() == (16 + 16, 12)
    # Row and column means and the parameter's size; the mean of the rows; the update's size; the step.
    adafactor = passes(rules.Adafactor(), 3, 4)
    assert [len(adafactor.asked(number)) for number in range(4)] == [3, 1, 1, 0]
    assert adafactor.moved_bytes() == (8 + 4 + 8, 4)


@pytest.mark.parametrize(
    ("shape", "axes", "sizes"),
    [((5, 7), "nm", (1, 5, 7, 35)), ((2, 5, 7), "bnm", (2, 5, 7, 70)), ((3, 2, 5, 7), "bnm", (6, 5, 7, 210))],
)
def test_dimensions_that_are_reduced_together_are_one_axis(
    shape: tuple[int, ...], axes: str, sizes: tuple[int, ...]
) -> None:
    found = passes(rules.Adafactor(), *shape)
    assert (found.axes, found.sizes(shape)) == (axes, sizes)
    units = passes(rules.AdamMini(), *shape)  # a row is a unit, with all that follows
    assert units.axes == "nm"
    assert units.sizes(shape) == (1, shape[0], sizes[-1] // shape[0], sizes[-1])


def test_between_calls_answers_over_the_model_are_put_together() -> None:
    found = passes(rules.Clip(rules.LAMB()), 3, 4)
    assert found.calls == [range(1), range(1, 3)]
    assert passes(rules.LAMB(), 3, 4).calls == [range(2)]


def test_what_its_loops_cannot_run_over_is_left_to_the_other_ways() -> None:
    with pytest.raises(UnknownOperationError, match="more than two dimensions"):
        passes(rules.SM3(), 2, 3, 4, 5).sizes((2, 3, 4, 5))
    with pytest.raises(UnknownOperationError, match="a tensor of shape"):
        passes(rules.Mechanic(rules.AdamW()), 3, 4)


def test_parameters_without_a_kernel_bring_those_that_share_their_sums_to_the_loop() -> None:
    made = optim.optimizer_for(rules.Clip(rules.SGD(lr=0.5), max_norm=1.0))

    def stepped(**settings: str) -> list[torch.Tensor]:
        params = [torch.ones(4, 3), torch.ones(6, 4)[:, ::2], torch.ones(5)]
        optimizer = made([param.requires_grad_() for param in params], **settings)
        if not settings:
            lines = str(optimizer.prepare()).splitlines()
            assert [line.partition(":")[0] for line in lines if not line.startswith(" ")] == ["loop"] * 3
            assert "sums are shared with parameters that have no kernel" in lines[0]
        for param in params:
            param.grad = torch.arange(param.numel()).reshape(param.shape).float()
        optimizer.step()
        return [param.detach() for param in params]

    assert all(map(torch.equal, stepped(), stepped(backend="loop")))
