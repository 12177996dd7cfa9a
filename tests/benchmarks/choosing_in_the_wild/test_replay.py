"""The worlds and the policies by which the search for a setting was designed."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.choosing_in_the_wild.bank import Bank
from benchmarks.choosing_in_the_wild.emulator import World
from benchmarks.choosing_in_the_wild.replay import NOISE, POLICIES, Source, as_table, judge, main, summary
from benchmarks.choosing_in_the_wild.stops import product, replay
from benchmarks.choosing_in_the_wild.trainings import TRAININGS
from thalweg.comparison.protocol.trial import RECOMMENDED, TrialRequest

TRAINING = TRAININGS["vae"]


@pytest.fixture(scope="module")
def world() -> World:
    return World(Bank(None, trains=False), TRAINING, 0)


def test_a_world_passes_near_the_bank_and_is_random_elsewhere(world: World) -> None:
    bank = Bank(None, trains=False)
    rows = [row for row in bank.rows(TRAINING, "momentum") if row["seed"] == 0 and row["validation"] is not None]
    gaps = [world.mean("momentum", row["settings"]) - TRAINING.cost(row["validation"]) for row in rows]
    assert np.median(np.abs(gaps)) < 0.03
    other = World(bank, TRAINING, 1)
    far = {"lr": 2.3e-4, "momentum": 0.97, "weight_decay": 3e-3}
    assert other.mean("momentum", far) != world.mean("momentum", far)
    assert World(bank, TRAINING, 0).mean("momentum", far) == world.mean("momentum", far)


def test_the_mean_over_seeds_is_the_truth(world: World) -> None:
    settings = {"lr": 0.1, "momentum": 0.9}
    costs = [world.cost("momentum", settings, seed, "test") for seed in range(300)]
    error = math.hypot(world.noise.shared, world.noise.own) / math.sqrt(300)
    assert np.mean(costs) == pytest.approx(world.truth("momentum", settings), abs=4 * error)
    assert np.std(costs) == pytest.approx(math.hypot(world.noise.shared, world.noise.own), rel=0.2)


def test_a_world_without_noise_has_the_same_cost_from_every_seed_and_on_all_data(world: World) -> None:
    quiet = World(Bank(None, trains=False), TRAINING, 0, noisy=False)
    settings = {"lr": 0.03}
    costs = {quiet.cost("adam", settings, seed, split) for seed in range(3) for split in ("validation", "test")}
    assert costs == {quiet.truth("adam", settings)} == {world.mean("adam", settings)}


def test_seeds_share_a_part_of_the_noise(world: World) -> None:
    pairs = [[world.cost(name, {"lr": 0.03}, seed, "test") for name in ("sgd", "adam")] for seed in range(300)]
    share = world.noise.shared**2 / (world.noise.shared**2 + world.noise.own**2)
    assert np.corrcoef(np.array(pairs).T)[0, 1] == pytest.approx(share, abs=0.15)


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "search alone"])
def test_policies_are_judged_on_the_same_world(world: World, policy: str) -> None:
    row = judge(world, POLICIES[policy], 20, seed=3)
    assert row["regret"] > -0.05
    assert row["contender"] in world.spaces
    assert row["spent"] <= 20 or policy == "equal quotas"
    numbers = summary([row, {**row, "regret": row["regret"] + 1, "covered": False}])
    assert numbers["median"] == pytest.approx(row["regret"] + 0.5)
    assert numbers["runs"] == 2


def test_a_source_counts_what_it_spends(world: World) -> None:
    source = Source(world, 2.0, seed=0)
    requests = [TrialRequest("final", "sgd", 0, RECOMMENDED.trial, ("final", 0, k)) for k in range(3)]
    done = source.run_trials(requests)
    assert list(done) == requests[:2]
    assert source.trainings_left() == 0
    assert len({score.selection_score for score in done.values()}) == 2


def test_a_stop_saves_the_rest_of_a_training() -> None:
    good = [[3.0 - 0.01 * k, 2.0, 1.0, 0.1 * k] for k in range(6)]
    assert replay(good, product) == (1.0, 0.0)
    spent, regret = replay([*good, [9.0, 9.0, 9.0, -1.0]], product)
    assert spent == pytest.approx((6 + 1 / 4) / 7)
    assert regret == pytest.approx(1.0)  # the stopped one would have won


def test_a_record_tells_regrets_with_noise_from_those_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "replay.json"
    flags = ["--worlds", "2", "--budgets", "12", "--policies", "random", "tpe", "--trainings", "vae", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["replay", *flags])
    main()
    record = json.loads(out.read_text())
    assert record["rows"] == len(Bank(None, trains=False).rows(TRAINING))
    assert set(record["with"]) == set(record["without"]) == {"random, 12", "tpe, 12"}
    assert record["with"]["tpe, 12"] != record["without"]["tpe, 12"]
    assert {numbers["runs"] for noise in NOISE for numbers in record[noise].values()} == {2}
    record["with"]["tpe, 12"] |= {"median": 0.25, "p90": 1.5, "worse_than_start": 0.5}
    record["without"]["tpe, 12"] |= {"median": 0.012, "p90": 0.3, "worse_than_start": 0.0}
    row = next(line for line in as_table(record).splitlines() if line.startswith("| tpe"))
    assert row == "| tpe, 12 trainings | 25 % | 150 % | 50 % | 1.2 % | 30 % | 0.0 % |"
