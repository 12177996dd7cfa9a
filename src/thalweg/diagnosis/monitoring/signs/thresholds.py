"""Thresholds of signs, each relative, with its source.

"Measured" values separate the trainings of ``benchmarks/doctor`` that may set thresholds, never a single one of them.
"""

# Gradients over depth. Glorot and Bengio 2010: they fall by a factor of each layer. First to last layer of 1e-2 at the
# start was right on constructed cases; a fixed bound of the gradient itself missed half of them.
VANISHING_RATIO = 1e-2
VANISHING_RATIO_POSSIBLE = 5e-2
EXPLODING_RATIO = 1e2  # its inverse
GRADIENT_JUMP = 1e2  # of the norm over its running median: Pascanu et al. 2013, cliffs of recurrent networks
FIRST_STEPS = 20  # that count as the start

# Signals over depth. He et al. 2015: a good initialization keeps the scale, whatever the depth.
SIGNAL_GROWTH = 10.0
SIGNAL_GROWTH_POSSIBLE = 4.0

# Parameters that an optimizer holds and that never get a gradient: more than half of all is more than a spare branch.
MOST_OF_THE_WEIGHTS = 0.5

# Units. A ReLU that is active for less than 1 % is dead (Lu et al. 2019); sparse networks keep a fifth at least.
DEAD_SHARE = 0.95
DEAD_SHARE_POSSIBLE = 0.8
SATURATED_SHARE = 0.7
SATURATED_SHARE_POSSIBLE = 0.5

# Attention. exp(-50) is no share at all; Dehghani et al. 2023 saw logits above 50 before divergence, and Kimi K2 clips
# at 100.
ATTENTION_SPREAD = 100.0
ATTENTION_SPREAD_POSSIBLE = 50.0

# True updates per step. About 1e-3 is usual (Karpathy 2015); medians below 1e-5 or above 0.05 were at fault on
# constructed cases.
UPDATE_TOO_SMALL = 1e-5
UPDATE_TOO_SMALL_POSSIBLE = 1e-4
UPDATE_TOO_LARGE = 0.05
LOSS_RISE = 3.0  # times the first loss, within the first steps: on constructed cases
RISE_STEPS = 100
UNBOUNDED_RISE = 100.0  # times the first loss, at the end

LR_GONE = 1e-2  # of its peak: there is no progress left in a hundred such steps
LR_GONE_SHARE = 0.3  # of all steps; a cosine is below a hundredth of its peak for 6 % of them, a one-cycle for less

# Numbers.
UNCHANGED_SHARE = 0.9  # of the weights in half precision, at a step
EPS_RATIO = 1.0  # gradient over Adam's epsilon: the step is halved where both are equal (Kingma and Ba 2015)
EPS_RATIO_CLEAR = 0.1

# During training.
HIGH_MOMENTUM = 0.99  # it averages a hundred steps
VERY_HIGH_MOMENTUM = 0.999
EDGE_SHARPNESS = 1.8  # Cohen et al. 2021: the slope along an update turns round at 2
EDGE_STEPS = 10
NOISE_RATIO = 50.0  # McCandlish et al. 2018: noise over signal, in batches
SPIKE_DEVIATIONS = 10.0  # of a loss over those before it, in median absolute deviations,
SPIKE_SHARE = 0.5  # and as a share of all progress so far
SPIKE_WINDOW = 20
SHRUNK = 0.1  # a weight's norm at the end over that at the start
SHRUNK_POSSIBLE = 0.3
CLIPPED_DEVIATION = 1e-3  # of the norm of all gradients, relative: it varies by more unless clipping sets it

# Norms and codes.
EVAL_GAP = 1.0  # deviations of the batch between running and batch statistics
EVAL_GAP_STEPS = 50  # a momentum of 0.1 has forgotten its start after so many steps
BATCH_NOISE = 0.4  # deviations between the means of two batches: about 1/sqrt(batch) (Wu and He 2018), so 6 examples
COLLAPSED = 0.2  # output scale over its largest, of a module before which a code is drawn
UNEQUAL_UPDATES = 30.0  # of two optimizers
