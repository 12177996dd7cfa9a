"""Sentences of the lesson with numbers in them, filled with what the examples compute."""

import json
from functools import cache

import linear_regression as line
import logistic_regression as tumours
import numpy as np
import small_network as network
from drawings import RECORD
from lesson import minima, mistakes
from lesson.numpy_optimizers import SGD, Adam, Momentum, RMSprop, descend, full_batches, random_batches
from lesson.side_by_side import SIX, numpy_path, steps_to_settle

# Numbers that are chosen and not measured: settings, starts and definitions.
_RATES = ("0.0001", "0.001", "0.002", "0.003", "0.005", "0.01", "0.02", "0.05", "0.1", "0.2", "0.5")
_OTHERS = ("0.3", "0.9", "0.95", "0.99", "0.999", "1.1", "1.9", "1,000")
SETTINGS = frozenset((*_RATES, *_OTHERS))


def counted(path: np.ndarray) -> int | None:
    return steps_to_settle(line.excess(path))


@cache
def best_paths() -> dict[str, np.ndarray]:
    return {name: numpy_path(line.PROBLEM, name, line.BEST_LR[name]) for name in SIX}


def equal_rates() -> list[str]:
    makers = {
        "adam": lambda: Adam(0.05),
        "fast": lambda: mistakes.AdamWithOneRate(0.05, beta=0.9),
        "slow": lambda: mistakes.AdamWithOneRate(0.05, beta=0.999),
    }
    full = {name: line.excess(mistakes.train(make(), 1000)) for name, make in makers.items()}
    noisy = {name: 100 * line.excess(mistakes.train_on_batches(make()))[501:].mean() for name, make in makers.items()}
    settled = {name: steps_to_settle(excess) for name, excess in full.items()}
    assert full["adam"][-1] < 1e-12
    assert settled["slow"] is None
    assert round(noisy["fast"] / noisy["adam"]) == 9
    assert 3e-7 < full["adam"][500] < 3e-6
    assert full["fast"][300:].max() < 3e-4
    return [
        f"| β₁ = 0.9, β₂ = 0.999 | {settled['adam']} steps | below 1e-12 | {noisy['adam']:.3f} % |",
        f"| both 0.9 | {settled['fast']} steps | {full['fast'][-1]:.1e} | {noisy['fast']:.2f} % |".replace("e-0", "e-"),
        f"| both 0.999 | never | {100 * full['slow'][-1]:.0f} % | {noisy['slow']:.0f} % |",
    ]


def correction() -> list[str]:
    length = mistakes.step_length_without_correction
    rows = []
    for lr in (0.05, 0.2, 1):
        right, without = mistakes.train(Adam(lr), 1000), mistakes.train(mistakes.AdamWithoutCorrection(lr), 1000)
        counts = f"| {lr} | {counted(right)} steps | {counted(without)} steps "
        rows.append(f"{counts}| {right[:, 1].max():.2f} | {without[:, 1].max():.2f} |")
    return [
        *rows,
        "m₁ = 0.1 g and v₁ = 0.001 g²",
        f"m₁ / √v₁ = 0.1 g / {0.001**0.5:.4f} |g|",
        f"The first step is {length(1):.2f} times as long as the learning rate, the 12th {length(12):.2f} times, the "
        f"100th {length(100):.2f} times, the 1,000th {length(1000):.2f} times.",
        f"{length(1):.2f} learning rates at step 1, {length(12):.2f} at step 12, {length(1000):.2f} at step 1,000",
        f"b overshoots from 0 to {without[:, 1].max():.2f}, while the right value is {line.least_squares()[1]:.2f}.",
        f"which is {0.001**-0.5:.0f} ε in the first step",
    ]


def memory_and_squares() -> list[str]:
    forgetful = counted(mistakes.train(mistakes.MomentumWithoutMemory(0.05), 1000))
    momentum = counted(mistakes.train(Momentum(0.05), 1000))
    assert forgetful == counted(mistakes.train(SGD(0.05), 1000))
    start = np.array(mistakes.POSITIVE_START)
    assert (line.gradient(line.START) < 0).all()
    assert (line.gradient(start) > 0).all()
    first = mistakes.first_nan(mistakes.train(mistakes.RMSpropWithoutSquares(0.01), 10))
    later = mistakes.first_nan(mistakes.train(mistakes.RMSpropWithoutSquares(0.01), 500, start))
    end = mistakes.train(RMSprop(0.01, alpha=0.9), 500, start)[-1, 0]
    return [
        f"At a learning rate of 0.05 it settles after {forgetful} steps, as gradient descent does; momentum with its "
        f"memory settles after {momentum}.",
        f"momentum settles after {momentum} steps; without memory and gradient descent lie on one curve and settle "
        f"after {forgetful}",
        f"both parameters are NaN after step {first}.",
        f"From w = {start[0]:.0f}, b = {start[1]:.0f},",
        f"NaN at step {later}.",
        f"RMSprop settles at {end:.2f}; without squares the slope stays near 3 and ends as NaN at step {later}",
    ]


def linear_regression() -> list[str]:
    w, b = best = line.least_squares()
    minimum = line.loss(best)
    slope, intercept = wrong = mistakes.train_on_distance()[-1]
    assert abs(slope - line.y.mean()) < 1e-8
    drawn = mistakes.loss_of(mistakes.predict_without_slope, best, line.x, line.y)
    below = (line.y - mistakes.predict_without_slope(best, line.x)).mean()
    six = {name: counted(path) for name, path in best_paths().items()}
    order = ("gradient descent", "Adam", "momentum", "SGD", "RMSprop")
    swings = [counted(numpy_path(line.PROBLEM, "momentum", lr)) for lr in (0.05, 0.1, 0.2, 0.5, 1.0)]
    condition = np.linalg.cond(np.hstack([line.x, np.ones_like(line.x)])) ** 2
    return [
        *equal_rates(),
        *correction(),
        *memory_and_squares(),
        f"the least-squares line y = {w:.4f} x + {b:.4f}, whose loss is {minimum:.4f}",
        f"Both parameters converge to the mean of y, {slope:.4f}. The line is y = {slope:.4f} x + {intercept:.4f} with "
        f"a loss of {line.loss(wrong):.4f}, {line.loss(wrong) / minimum:.0f} times the minimum.",
        f"the line of mistake 1, y = {slope:.4f} x + {intercept:.4f}:",
        f"The training learnt w = {w:.4f},",
        f"The loss of the training is {minimum:.4f}, the loss of what is drawn is {drawn:.4f}: {drawn / minimum:.0f} "
        f"times as much. The line lies {below:.2f} too low on average.",
        f"the line of mistake 5, y = x + {b:.4f}: it lies below nearly all points, by {below:.2f} on average",
        f"settled after {six['AdaGrad']} steps (AdaGrad), " + ", ".join(f"{six[name]} ({name})" for name in order),
        f"a condition number of {condition:.0f}. Adaptive",
        f"why 0.05 to 1 all take {min(swings)} to {max(swings)} steps.",
        f"the {six['SGD']} steps of SGD are {six['SGD'] / 5:.0f} passes",
    ]


def optimizers_by_hand() -> list[str]:
    paths = {
        name: (path[:101], numpy_path(line.PROBLEM, name, line.BEST_LR[name] / 10)[:101])
        for name, path in best_paths().items()
    }

    def end(name: str, which: int = 0) -> str:
        w, b = paths[name][which][-1]
        return f"w = {w:.2f}, b = {b:.2f}"

    w, b = line.least_squares()
    design = np.hstack([line.x, np.ones_like(line.x)])
    flat, steep = np.linalg.eigvalsh(2 * design.T @ design / 100)
    first = paths["gradient descent"][0][1]
    adam = paths["Adam"][0]
    assert adam[1].round(6).tolist() == [0.2, 0.2]
    assert paths["AdaGrad"][0][1].round(6).tolist() == [2, 2]
    return [
        f"the least-squares solution (w = {w:.2f}, b = {b:.2f})",
        f"Here the curvatures are {steep:.2f} and {flat:.2f}. The limit is 2 / {steep:.2f} = {2 / steep:.2f}.",
        f"The first step at 0.5 goes to w = {first[0]:.2f}, b = {first[1]:.2f},",
        f"At 0.05 it stands at w = {paths['gradient descent'][1][-1][0]:.2f} after 100 steps.",
        f"ends at {end('gradient descent')}; at 0.05 it ends at {end('gradient descent', 1)}",
        f"ends at {end('SGD')}; at 0.005 it ends at {end('SGD', 1)}",
        f"at 0.05 it swings up to b = {paths['momentum'][0][:, 1].max():.2f} and",
        f"ends at {end('momentum')}; at 0.005 it ends at {end('momentum', 1)}",
        f"it ends at {end('AdaGrad')}; at 0.2 it ends at {end('AdaGrad', 1)}",
        f"at 0.01 it is smooth and ends at {end('RMSprop')}; at 0.001 it ends at {end('RMSprop', 1)}",
        f"at 0.2 it curves to b = {adam[:, 1].max():.2f} and",
        f"ends at {end('Adam')}; at 0.02 it ends at {end('Adam', 1)}",
        f"it would be {mistakes.step_length_without_correction(1):.2f} η",
    ]


def logistic_regression() -> list[str]:
    raw, _ = tumours.load_breast_cancer(return_X_y=True)

    def curvatures(features: np.ndarray) -> np.ndarray:
        design = np.hstack([features, np.ones((len(features), 1))])
        penalty = tumours.PENALTY * np.diag(np.append(np.ones(features.shape[1]), 0))
        return np.linalg.eigvalsh(design.T @ design / len(features) / 4 + penalty)

    low, high = curvatures(tumours.X)[[0, -1]]
    raw_low, raw_high = curvatures(raw)[[0, -1]]
    p = tumours.sigmoid(-8)
    naive = [z for z in range(60) if 1 - 1 / (1 + np.exp(-float(z))) == 0]
    assert abs(np.logaddexp(0, 40) - 40) < 1e-12

    def settled(name: str, lr: float) -> int | None:
        return steps_to_settle(tumours.excess(numpy_path(tumours.PROBLEM, name, lr)))

    six = {name: settled(name, lr) for name, lr in tumours.BEST_LR.items()}
    assert settled("gradient descent", 10.0) is None
    narrow = [lr for lr in (0.005, 0.01, 0.02, 0.05) if settled("RMSprop", lr)]
    wide = [lr for lr in (0.01, 0.02, 5.0, 10.0) if settled("Adam", lr)]
    assert round(5 * high / 2) == 8
    assert (narrow, wide) == ([0.01, 0.02], [0.02, 5.0])
    return [
        f"The raw features lie between {raw.min():.0f} and {raw.max():,.0f}.",
        f"| standardized | {high / low:.0f} | {2 / high:.2f} |",
        f"| raw | {raw_high / raw_low / 1e8:.2f} · 10⁸ | {2 / raw_high:.7f} |",
        f"From z = {naive[0]} on, 1 - p is exactly 0 in float64",
        f"the slope of the cross-entropy is {p - 1:.5f}, that of the squared error {2 * (p - 1) * p * (1 - p):.5f}.",
        f"the squared error is {2 * (p - 1) * p * (1 - p):.5f} at z = -8",
        f"eight times what the curvature at the start allows ({2 / high:.2f})",
        f"gradient descent {six['gradient descent']} at 5, AdaGrad {six['AdaGrad']} at 1, Adam {six['Adam']} at 0.1, "
        f"momentum {six['momentum']} at 0.5, RMSprop {six['RMSprop']} at 0.02, SGD {six['SGD']} at 0.5",
    ]


def without_tanh(theta: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """Return the gradient of the network without the derivative of tanh, from the right one of linear units."""
    _, _, W2, _ = network.unpack(theta)
    x = network.X[batch]
    h, z = network.forward(theta, x)
    dz = (np.exp(network.log_softmax(z)) - np.eye(network.CLASSES)[network.t[batch]]) / len(batch)
    da = dz @ W2
    return np.concatenate([(da.T @ x).ravel(), da.sum(axis=0), (dz.T @ h).ravel(), dz.sum(axis=0)])


def trained(gradient=network.gradient, start: np.ndarray | None = None) -> tuple[float, float]:
    """Return the training loss and the test accuracy in percent after 300 steps of SGD at a learning rate of 1."""
    theta = sgd_path(gradient, network.start() if start is None else start)[-1]
    return network.loss(theta), 100 * network.accuracy(theta)


def sgd_path(gradient, start: np.ndarray) -> np.ndarray:
    return descend(SGD(1.0), gradient, start, random_batches(1500, 50, 300))


def small_network() -> list[str]:
    count = len(network.start())
    right, wrong = trained(), trained(without_tanh)
    zero = trained(start=np.zeros(count))
    # A single unit never settles at this rate. Where it ends differs between processors, its best step does not.
    copies = sgd_path(network.gradient, np.full(count, 0.05))
    best = max(100 * network.accuracy(theta) for theta in copies)
    summed = trained(lambda theta, batch: len(batch) * network.gradient(theta, batch))
    stored = json.loads(RECORD.read_text()).items()
    record = {name: {float(lr): losses[0] for lr, losses in rates.items()} for name, rates in stored}
    ends = {name: numpy_path(network.PROBLEM, name, lr)[-1] for name, lr in network.BEST_LR.items()}
    accuracies = sorted(100 * network.accuracy(end) for end in ends.values())
    assert round((accuracies[-1] - accuracies[0]) / 100 * 297) == 2

    def share(optimizer, gradient=minima.slope) -> float:
        return minima.share_in_good_minimum(minima.ends(optimizer, gradient))

    plain = share(SGD(0.01))
    assert round(100 * share(Momentum(0.01))) == round(100 * share(Adam(0.05))) == round(100 * plain)
    noise = {scale: share(SGD(0.01), minima.noisy_slope(scale, 500)) for scale in (20, 40, 80)}
    coarse = descend(RMSprop(0.05), line.gradient, line.START, full_batches(100, 1000))
    fine = descend(SGD(0.5), line.gradient, coarse[100], full_batches(100, 500))
    assert counted(coarse) is None
    good, poor = minima.GOOD, minima.POOR
    return [
        f"All {count:,} weights and biases",
        f"each of the {count:,} parameters",
        f"The data are {len(network.X):,} images of handwritten digits, 8 x 8 pixels each (scikit-learn): "
        f"{len(network.TRAIN):,} to train and {len(network.TEST)} to test.",
        f"Gradient descent steps on all {len(network.TRAIN):,} images",
        f"The right network reaches a training loss of {right[0]:.3f} and is right on {right[1]:.1f} % of the",
        f"The training loss is {wrong[0]:.3f}, three times as high, and {wrong[1]:.1f} % of the test images are right.",
        f"the loss stays at {zero[0]:.3f} (ln 10 = {np.log(10):.3f} is guessing), and {zero[1]:.1f} % of the test",
        f"stay copies of a single unit: after no step are more than {best:.1f} % of the test images right.",
        f"the loss ends at {summed[0]:.0f}, and {summed[1]:.1f} % of the test images are right.",
        f"Test accuracies between {accuracies[0]:.1f} % and {accuracies[-1]:.1f} % differ by two images of 297.",
        f"At 0.02 Adam is at its best ({record['Adam'][0.02]:.3f}), and SGD has hardly begun "
        f"({record['SGD'][0.02]:.3f}). At 1 SGD is at its best ({record['SGD'][1.0]:.3f}), and Adam has failed "
        f"({record['Adam'][1.0]:.1f}).",
        f"SGD at 2, twice its best, ends at {record['SGD'][2.0]:.3f}; at 5 it ends at {record['SGD'][5.0]:.0f}.",
        f"a good minimum at x = {good:.3f} (height {minima.height(good):.2f}) and a poor one at x = {poor:.3f} (height "
        f"{minima.height(poor):.2f}).",
        f"its good minimum at x = {good:.3f} and its poor minimum at x = {poor:.3f}",
        f"| gradient descent at 0.01 | {100 * plain:.0f} % |",
        f"| noise of standard deviation 20 that falls to 0 | {100 * noise[20]:.0f} % |",
        f"| noise of 40 that falls to 0 | {100 * noise[40]:.0f} % |",
        f"| noise of 80 that falls to 0 | {100 * noise[80]:.0f} % |",
        f"| best of 2 restarts | {100 * minima.share_after_restarts(plain, 2):.0f} % |",
        f"| best of 5 restarts | {100 * minima.share_after_restarts(plain, 5):.0f} % |",
        f"settle after {counted(np.concatenate([coarse[:100], fine]))} steps. (Gradient descent alone needs "
        f"{counted(best_paths()['gradient descent'])}:",
    ]


CLAIMS = {
    "linear_regression": linear_regression,
    "optimizers_by_hand": optimizers_by_hand,
    "logistic_regression": logistic_regression,
    "small_network": small_network,
}
