"""Policy gradient (REINFORCE with a baseline and an entropy bonus) in a grid with walls and slippery moves."""

import math

import torch
from torch import nn

from benchmarks.choosing_in_the_wild.data import report_points
from benchmarks.choosing_in_the_wild.training import Training

STEPS, EPISODES, HORIZON, DISCOUNT = 60, 48, 18, 0.95
SLIP, ENTROPY_BONUS = 0.1, 0.01
GRID = (
    "......#.",
    ".##...#.",
    ".#..#...",
    "...##.#.",
    ".#....#.",
    ".###.##.",
    "........",
    "..#.#..G",
)
SIZE = len(GRID)
WALLS = torch.tensor([[cell == "#" for cell in row] for row in GRID])
FREE = torch.tensor([(i, j) for i in range(SIZE) for j in range(SIZE) if GRID[i][j] == "."])
GOAL = SIZE - 1
MOVES = torch.tensor([(-1, 0), (1, 0), (0, -1), (0, 1)])


def observe(places):
    """Return a row with a one for the row and a one for the column of each place."""
    return torch.cat([nn.functional.one_hot(places[:, k], SIZE) for k in (0, 1)], dim=1).float()


def play(policy, episodes, generator=None):
    """Play episodes from random places.

    Returns:
        Log-probabilities of the actions, entropies, and whether the episode was still running, each (horizon,
        episodes); and the discounted return of each episode at its start, and the length of each.
    """
    places = FREE[torch.randint(len(FREE), (episodes,), generator=generator)]
    running = torch.ones(episodes, dtype=torch.bool)
    lengths = torch.full((episodes,), math.inf)
    logs, entropies, alive = [], [], []
    for t in range(HORIZON):
        log_probabilities = policy(observe(places)).log_softmax(1)
        actions = torch.multinomial(log_probabilities.detach().exp(), 1, generator=generator)
        logs.append(log_probabilities.gather(1, actions).squeeze(1))
        entropies.append(-(log_probabilities.exp() * log_probabilities).sum(1))
        alive.append(running)
        slipped = torch.rand(episodes, generator=generator) < SLIP
        random_actions = torch.randint(4, (episodes,), generator=generator)
        moved = places + MOVES[torch.where(slipped, random_actions, actions.squeeze(1))]
        inside = ((moved >= 0) & (moved < SIZE)).all(1)
        moved = moved.clamp(0, SIZE - 1)
        allowed = running & inside & ~WALLS[moved[:, 0], moved[:, 1]]
        places = torch.where(allowed.unsqueeze(1), moved, places)
        arrived = running & (places == GOAL).all(1)
        lengths[arrived] = t
        running = running & ~arrived
    return torch.stack(logs), torch.stack(entropies), torch.stack(alive), DISCOUNT**lengths


def mean_return(policy, episodes, seed):
    """Return the mean discounted return of a policy."""
    with torch.no_grad():
        return play(policy, episodes, torch.Generator().manual_seed(seed))[-1].mean().item()


def train(make_optimizer, report, steps=STEPS):
    """Improve the policy by the return of whole episodes."""
    policy = nn.Sequential(nn.Linear(2 * SIZE, 48), nn.Tanh(), nn.Linear(48, 4))
    optimizer = make_optimizer(policy)
    points = report_points(steps, 4)
    for step in range(1, steps + 1):
        logs, entropies, alive, returns = play(policy, EPISODES)
        # The return from each moment on: less discounted, the nearer the goal is.
        following = returns.unsqueeze(0) / DISCOUNT ** torch.arange(HORIZON).unsqueeze(1)
        count = alive.sum(1, keepdim=True).clamp(min=1)
        baseline = (following * alive).sum(1, keepdim=True) / count
        objective = ((following - baseline) * logs + ENTROPY_BONUS * entropies) * alive
        loss = -objective.sum() / alive.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not all(param.isfinite().all() for param in policy.parameters()):
            report(math.nan)
            return
        if step in points:
            report(mean_return(policy, 400, 1), test=mean_return(policy, 2000, 2) if step == steps else math.nan)


TRAINING = Training(
    name="grid-world",
    about="REINFORCE with a baseline in a slippery grid, 48 episodes a step",
    train=train,
    steps=STEPS,
    schedule="constant",
    metric="discounted return",
    worst=0.08,
    maximize=True,
    scale="linear",
    best_possible=1.0,
)
