"""Scalars of many steps and members at once are those of `coefficients`, bit by bit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cases import rules as rule_cases
from cases import wrappers as wrapper_cases
from thalweg.engine.core.program import Program
from thalweg.engine.scalars.population import MAX_LOADED, ScalarSchedule, ScalarTable, schedule_for
from thalweg.rules import SGD, Adam, Prodigy, Rule, record


def at(rule: Rule, factor: Any) -> Rule:
    return rule.with_(lr=rule.settings()["lr"] * factor)


FACTORS = [1 - k / 70 for k in range(MAX_LOADED)]
CASES = [case.rule for case in (*rule_cases.CASES, *wrapper_cases.CASES) if case.rule.traits.supports_vmap]


def one_by_one(rules: list[Rule], factors: list[float], first: int) -> tuple[list[list[Any]], list[tuple[float, ...]]]:
    """Return the scalars of each step and member, and the recurrent scalars at the end."""
    recurrent, steps = [Program(rule).initial_recurrent_scalars() for rule in rules], []
    for count, factor in enumerate(factors, start=first):
        programs = [Program(at(rule, factor)) for rule in rules]
        steps.append([p.coefficients(count, previous=r) for p, r in zip(programs, recurrent, strict=True)])
        recurrent = [p.recurrent_scalars_of(c) for p, c in zip(programs, steps[-1], strict=True)]
    return steps, recurrent


@pytest.mark.parametrize("rule", CASES, ids=str)
def test_scalars_of_many_members_equal_those_of_each(rule: Rule) -> None:
    rules = [at(rule, share) for share in (0.3, 0.7, 1.0)]
    program = Program(rules[0])
    schedule = ScalarSchedule(program, rules[0], at)
    initial = [program.initial_recurrent_scalars()] * 3
    first = 3 if not initial[0] else 1
    computed = schedule.rows(rules, FACTORS, first, initial)
    if program.needs_keys:
        assert computed is None
        return
    assert computed is not None
    steps, recurrent = one_by_one(rules, FACTORS, first)
    assert schedule.record._fields == steps[0][0]._fields
    assert computed.rows.tolist() == [[list(map(float, c)) for c in members] for members in steps]
    assert computed.recurrent_scalars == recurrent


def test_members_whose_settings_are_all_different_have_their_own_rows() -> None:
    rules = [Adam(lr=0.1 * k, beta1=0.8 + 0.01 * k, beta2=0.99 + 0.001 * k, eps=10.0**-k) for k in range(1, 6)]
    computed = ScalarSchedule(Program(rules[0]), rules[0], at).rows(rules, FACTORS, 1, [()] * 5)
    assert computed is not None
    assert computed.rows.tolist() == [[list(c) for c in members] for members in one_by_one(rules, FACTORS, 1)[0]]


def test_members_with_other_switches_than_the_first_are_computed_one_by_one() -> None:
    schedule = ScalarSchedule(Program(Adam()), Adam(), at)
    assert schedule.rows([Adam(), Adam(amsgrad=True)], [1.0], 1, [(), ()]) is None


def test_numbers_that_no_float_holds_are_left_to_coefficients_which_raises() -> None:
    rules: list[Rule] = [Prodigy(lr=1.0), Prodigy(lr=1e308)]
    schedule = ScalarSchedule(Program(rules[0]), rules[0], at)
    initial = [Program(rule).initial_recurrent_scalars() for rule in rules]
    assert schedule.rows(rules, [1.0, 1e10], 1, initial) is None


def test_a_rule_that_looks_at_numbers_in_another_way_is_computed_one_by_one() -> None:
    def rounded(rule: Rule, factor: Any) -> Rule:
        return rule.with_(lr=float(factor))

    assert ScalarSchedule(Program(SGD()), SGD(), rounded).rows([SGD()], [0.5], 1, [()]) is None


def test_populations_share_what_does_not_depend_on_numbers() -> None:
    first = schedule_for(Program(Adam(lr=0.1)), Adam(lr=0.1), at)
    assert schedule_for(Program(Adam(lr=0.2)), Adam(lr=0.2), at) is first
    other: Callable[[Rule, Any], Rule] = lambda rule, factor: rule  # noqa: E731
    assert schedule_for(Program(Adam()), Adam(), other) is not first
    assert schedule_for(Program(Adam(amsgrad=True)), Adam(amsgrad=True), at) is not first


def test_a_table_gives_one_row_after_the_other_and_keeps_its_memory() -> None:
    table = ScalarTable(torch.device("cpu"), torch.float32)
    addresses = set()
    for start in (0, 100):
        rows = start + torch.arange(12, dtype=torch.float64).view(3, 1, 2, 2)
        table.load(type(record(lr=0.0, beta=0.0)), rows)
        for k in range(start, start + 12, 4):
            (taken,) = table.take()
            assert (taken.lr.tolist(), taken.beta.tolist()) == ([k, k + 2], [k + 1, k + 3])
        assert table._table is not None
        addresses.add(table._table.data_ptr())
    assert len(addresses) == 1
