"""Trajectories: real steps, the choice of learning rates, divergence, noise, and bad input."""

import math

import pytest
import torch

import thalweg
from thalweg.comparison import parse
from thalweg.errors import KeywordError, ParameterError, SettingError, SettingWarning, ThalwegError, UnknownNameError
from thalweg.trajectories import SURFACES, Surface, Trajectory, trace
from thalweg.trajectories.descent import can_descend_together, descend, descend_together, shape_for, task_of
from thalweg.trajectories.learning_rates import GRID, best_of, learning_rates_of
from thalweg.trajectories.trajectory import trajectory_of

BOWL = Surface(
    "bowl", "Bowl", "", "", lambda point: 0.5 * (point**2).sum(-1), start=(2.0, 1.0), minima=((0.0, 0.0),), best=0.0
)
ROSENBROCK = SURFACES["rosenbrock"]


def path_of(surface: str | Surface, name: str, **options: object) -> Trajectory:
    return trace(surface, name, **options).optimizers[0].trajectories[0]


def by_torch(make: object, surface: Surface, steps: int) -> list[list[float]]:
    """The points of an optimizer in a loop of our own."""
    point = torch.tensor(surface.start, dtype=torch.float64, requires_grad=True)
    optimizer = make([point])
    points = [point.tolist()]
    for _ in range(steps):
        optimizer.zero_grad()
        surface.height(point).backward()
        optimizer.step()
        points.append(point.tolist())
    return points


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("gd:lr=0.001", lambda params: torch.optim.SGD(params, lr=0.001)),
        ("momentum:lr=0.001,momentum=0.8", lambda params: torch.optim.SGD(params, lr=0.001, momentum=0.8)),
        ("adam:lr=0.1,beta2=0.9", lambda params: torch.optim.Adam(params, lr=0.1, betas=(0.9, 0.9))),
        ("adamw:lr=0.1", lambda params: torch.optim.Adam(params, lr=0.1)),  # weight decay is off
        ("torch.optim:NAdam:lr=0.1", lambda params: torch.optim.NAdam(params, lr=0.1)),
    ],
)
def test_a_path_has_the_steps_of_the_optimizer(name: str, make: object) -> None:
    points = path_of("rosenbrock", name, steps=30).points
    torch.testing.assert_close(
        torch.tensor(points), torch.tensor(by_torch(make, ROSENBROCK, 30)), rtol=1e-11, atol=1e-12
    )


def test_gradient_descent_on_a_bowl_is_a_geometric_sequence() -> None:
    path = path_of(BOWL, "sgd:lr=0.25", steps=10)
    for step, (x, y) in enumerate(path.points):
        assert (x, y) == pytest.approx((2 * 0.75**step, 0.75**step), rel=1e-12)
        assert path.heights[step] == pytest.approx(2.5 * 0.75 ** (2 * step), rel=1e-12)


def test_a_wrapper_with_a_closure_takes_its_own_step() -> None:
    x, y = ROSENBROCK.start

    def gradient(point: tuple[float, float]) -> torch.Tensor:
        at = torch.tensor(point, dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(ROSENBROCK.height(at), at)[0]

    first = gradient((x, y))
    perturbed = torch.tensor([x, y], dtype=torch.float64) + 0.05 * first / first.norm()
    expected = torch.tensor([x, y], dtype=torch.float64) - 0.001 * gradient(tuple(perturbed.tolist()))
    path = path_of("rosenbrock", "sam(sgd):lr=0.001,rho=0.05", steps=1)
    assert path.points[1] == pytest.approx(tuple(expected.tolist()), rel=1e-6)


def test_l_bfgs_counts_evaluations_as_steps() -> None:
    path = path_of("quadratic", "lbfgs", steps=30)
    assert len(path.points) == 31
    assert path.reached_at is not None
    still = [first == second for first, second in zip(path.points[:10], path.points[1:11], strict=True)]
    assert any(still), "a line search evaluates several times, and the point rests meanwhile"
    assert path_of("quadratic", "lbfgs", steps=1).points[1] != path.points[0]


def test_schedule_free_is_shown_at_its_average() -> None:
    point = torch.nn.Parameter(torch.tensor(BOWL.start, dtype=torch.float64))
    optimizer = thalweg.optim.ScheduleFreeSGD([point], lr=0.3)
    expected = [tuple(point.tolist())]
    for _ in range(12):
        optimizer.train()
        optimizer.zero_grad()
        BOWL.height(point).backward()
        optimizer.step()
        optimizer.eval()
        expected.append(tuple(point.tolist()))
    points = path_of(BOWL, "schedule_free_sgd:lr=0.3", steps=12).points
    torch.testing.assert_close(torch.tensor(points), torch.tensor(expected), rtol=1e-11, atol=1e-12)


def test_a_rule_for_matrices_takes_the_point_as_a_row() -> None:
    paths = trace("quadratic", "muon:lr=0.1,adam:lr=0.1", steps=1).optimizers
    assert [optimizer.is_matrix for optimizer in paths] == [True, False]
    x, y = SURFACES["quadratic"].start
    at = torch.tensor((x, y), dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(SURFACES["quadratic"].height(at), at)
    step = torch.tensor(paths[0].trajectories[0].points[1]) - torch.tensor((x, y))
    cosine = torch.nn.functional.cosine_similarity(-step.double(), gradient, dim=0)
    assert cosine.item() == pytest.approx(1, abs=1e-4)  # along the gradient, at a length of its own
    assert trace(BOWL, "torch.optim:Muon:lr=0.1", steps=1).optimizers[0].is_matrix


@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize(
    "name", ["momentum", "adamw", "muon", "cautious(adam)", "lamb", "rmsprop:schedule=cosine", "gd"]
)
def test_paths_that_descend_together_are_those_that_descend_alone(name: str, noise: float) -> None:
    contender = parse(name).keeping_the_optimum()
    assert can_descend_together(contender)
    task = task_of(ROSENBROCK, ROSENBROCK.start, shape_for(contender), 12, noise, 5)
    lrs = (0.0005, 0.01)
    together = descend_together(contender, ROSENBROCK, task, lrs, 12, 5)
    for lr, points in zip(lrs, together, strict=True):
        alone, shared = (trajectory_of(ROSENBROCK, path) for path in (descend(contender, task, lr, 12, 5), points))
        assert alone.diverged_at == shared.diverged_at
        torch.testing.assert_close(torch.tensor(shared.points), torch.tensor(alone.points), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["lbfgs", "prodigy", "sam(sgd)", "adahessian", "schedule_free_sgd", "torch.optim:SGD", "clip(sgd)"]
)
def test_a_rule_that_looks_beyond_one_tensor_descends_alone(name: str) -> None:
    assert not can_descend_together(parse(name))


def test_the_learning_rates_that_are_tried() -> None:
    def rates(name: str, lr: float | None = None) -> tuple[float, ...]:
        return learning_rates_of(parse(name), lr)

    assert GRID[:4] == (1e-5, 2e-5, 5e-5, 1e-4)
    assert GRID[-3:] == (2.0, 5.0, 10.0)
    assert len(GRID) == 19
    assert rates("adam") == GRID
    assert rates("adam:lr=0.3") == rates("adam:lr=0.3", lr=0.01) == (0.3,)
    assert rates("adam", lr=0.01) == (0.01,)
    assert rates("adam:lr=0.01..0.3") == (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
    assert rates("prodigy") == rates("lbfgs") == (1.0,)
    with pytest.raises(SettingError, match="lr must be"):
        rates("adam", lr=-1.0)


def straight(*heights: float, diverged_at: int | None = None, end: float = 0.0) -> Trajectory:
    return Trajectory(tuple((end * k / len(heights), 0.0) for k in range(len(heights))), heights, diverged_at, None)


def test_the_learning_rate_whose_path_ends_lowest_is_chosen() -> None:
    low, lower = straight(5, 4, 3), straight(5, 4, 2)
    assert best_of(BOWL, [[low], [lower]]) == 1
    assert best_of(BOWL, [[lower], [low]]) == 0
    assert best_of(BOWL, [[low], [straight(5, 6, 2)]]) == 0, "the second climbs above its start"
    assert best_of(BOWL, [[low], [straight(5, 4, 2, end=9.0)]]) == 0, "the second leaves the frame"
    assert best_of(BOWL, [[straight(5, 6, 3)], [straight(5, 6, 2)]]) == 1, "all climb"
    assert best_of(BOWL, [[straight(5, 4, diverged_at=2)], [straight(5, 9, 4)]]) == 1, "the first diverges"
    lucky, steady = straight(*[5] * 19, 0.1), straight(*[5] * 18, 1, 1)
    assert best_of(BOWL, [[lucky], [steady]]) == 1, "the mean of the last two of 20 heights counts"
    assert best_of(BOWL, [[low, straight(5, 4, 1e-3)], [lower, lower]]) == 0, "all starts count, in logarithms"


def test_the_chosen_rate_is_the_best_of_the_grid() -> None:
    chosen = trace("quadratic", "momentum", steps=40).optimizers[0]
    ends = {lr: path_of("quadratic", f"momentum:lr={lr}", steps=40) for lr in chosen.tried}
    steady = {
        lr: sum(path.heights[-4:])
        for lr, path in ends.items()
        if path.diverged_at is None
        and max(path.heights) <= path.heights[0]
        and all(SURFACES["quadratic"].holds(point) for point in path.points)
    }
    assert chosen.tried == GRID
    assert chosen.lr == min(steady, key=steady.__getitem__)
    assert not chosen.is_at_end
    assert trace("quadratic", "sgd:lr=1e-4..1e-3", steps=5).optimizers[0].is_at_end


def test_a_path_diverges_where_it_is_ten_diagonals_away() -> None:
    # Each step multiplies the point by 1 - 3 = -2; the diagonal of the frame is 6 √2, so the limit is 84.85.
    path = path_of(BOWL, "gd:lr=3", steps=20)
    step = next(k for k in range(21) if math.hypot(2, 1) * 2**k > 60 * math.sqrt(2))
    assert path.diverged_at == step == 6
    assert len(path.points) == step + 1
    assert path.final_height == math.inf
    assert path_of(BOWL, "gd:lr=3", steps=5).diverged_at is None


def test_a_path_that_is_not_finite_diverges_at_the_last_point_that_is() -> None:
    path = trajectory_of(BOWL, [(1.0, 1.0), (2.0, 2.0), (math.inf, 0.0), (math.nan, 0.0)])
    assert (path.diverged_at, path.points) == (2, ((1.0, 1.0), (2.0, 2.0)))


def test_the_minimum_is_reached_where_the_path_stays() -> None:
    near, far = (0.08, 0.0), (0.09, 0.0)  # a hundredth of the diagonal is 0.0849
    assert trajectory_of(BOWL, [far, near, far, near, near]).reached_at == 3
    assert trajectory_of(BOWL, [near, near, far]).reached_at is None
    assert trajectory_of(BOWL, [near, near]).reached_at == 0


def test_noise_is_the_same_for_all_but_absent_on_the_full_batch() -> None:
    flat = Surface("flat", "Flat", "", "", lambda point: 0 * point.sum(-1), x=(-99, 99), y=(-99, 99), start=(0.0, 0.0))
    paths = trace(flat, ["sgd", "torch.optim:SGD", "gd"], steps=200, lr=1.0, noise=0.5, seed=3).optimizers
    first, second, full = (torch.tensor(optimizer.trajectories[0].points) for optimizer in paths)
    torch.testing.assert_close(first, second)
    assert first.diff(dim=0).std().item() == pytest.approx(0.5, rel=0.1)
    assert full.abs().max() < 1e-12
    again = path_of(flat, "sgd", steps=200, lr=1.0, noise=0.5, seed=3)
    assert again.points == paths[0].trajectories[0].points
    assert path_of(flat, "sgd", steps=200, lr=1.0, noise=0.5, seed=4).points != again.points


def test_several_starts_share_a_learning_rate() -> None:
    trajectories = trace("himmelblau", "adam", start=[(4.0, 4.0), (-4.0, 4.0)], steps=60)
    (adam,) = trajectories.optimizers
    assert [path.points[0] for path in adam.trajectories] == [(4.0, 4.0), (-4.0, 4.0)] == list(trajectories.starts)
    assert adam.lr in GRID


def test_the_json_holds_all_numbers() -> None:
    value = trace(BOWL, "gd:lr=0.5,gd:lr=3", steps=8).to_json()
    good, lost = value["optimizers"]
    assert good["paths"][0]["points"][:2] == [[2.0, 1.0], [1.0, 0.5]]
    assert good["paths"][0]["reached_at"] == 5  # 2.236 / 2⁵ = 0.07
    assert value["tolerance"] == pytest.approx(0.06 * math.sqrt(2))
    assert (lost["paths"][0]["diverged_at"], lost["paths"][0]["final_height"]) == (6, None)


def test_settings_that_contradict_each_other_raise_one_warning() -> None:
    with pytest.warns(SettingWarning) as caught:
        trace(BOWL, "adam:beta1=0.99,beta2=0.5", steps=2)
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, SettingError, "steps must be a whole number from 1 to 5,000, got 0"),
        ({"steps": 5001}, SettingError, "got 5001"),
        ({"steps": 2.5}, SettingError, r"got 2\.5"),
        ({"steps": True}, SettingError, "got True"),
        ({"noise": -1}, SettingError, "noise must be a number >= 0, got -1"),
        ({"noise": math.nan}, SettingError, "got nan"),
        ({"start": (1.0,)}, SettingError, r"start must be a point \(x, y\)"),
        ({"start": []}, SettingError, "start must be"),
        ({"start": 3.0}, SettingError, "start must be"),
        ({"start": (math.inf, 0.0)}, SettingError, "start must be"),
        ({"start": [(0.0, 0.0)] * 9}, SettingError, "1 to 8 points"),
        ({"start": (1e200, 1e200)}, SettingError, "must have a height at the start"),
        ({"lr": math.nan}, SettingError, "lr must be"),
        ({"optimizers": "gdd"}, UnknownNameError, "Did you mean gd"),
        ({"optimizers": "adam:lrr=1"}, KeywordError, "lrr"),
        ({"optimizers": []}, SettingError, "at least one contender"),
        ({"optimizers": "gd,sgd,adam,adamw,lion,muon,nadam,adan,radam"}, SettingError, "at most 8 optimizers"),
        ({"optimizers": "muon+adamw"}, SettingError, "Write muon, say"),
        ({"optimizers": "torch.optim:LBFGS"}, ParameterError, "must step a parameter of two numbers"),
        ({"surface": "rosenbrok"}, UnknownNameError, "Did you mean rosenbrock"),
    ],
)
def test_bad_input_is_refused(options: dict, error: type[ThalwegError], message: str) -> None:
    with pytest.raises(error, match=message):
        trace(**{"surface": "rosenbrock", "optimizers": "gd", "steps": 3} | options)
