"""Texts about steps, numbers and the propagation of signals."""

from thalweg.diagnosis.texts.text import Text

LEARNING: dict[str, Text] = {
    "lr_too_high": Text(
        "Steps are so large that they overshoot: the loss rises, jumps, or stays where the first steps threw it.",
        "Divide the learning rate by 10 until the loss falls steadily. `thalweg.compare` searches the best.",
        "Bengio, Practical Recommendations (2012), arXiv:1206.5533, section 3.1.1",
    ),
    "lr_too_low": Text(
        "Steps are so small that the weights hardly move: the loss falls along a straight, slow line.",
        "Multiply the learning rate by 10 until the loss no longer falls faster.",
        "Bengio, Practical Recommendations (2012), arXiv:1206.5533, section 3.1.1",
    ),
    "weight_decay_too_strong": Text(
        "Weight decay shrinks the weights faster than the gradient moves them, so the outputs go to a constant.",
        "Remove the weight decay, or divide it by 10 or more. AdamW's usual value is 0.01 to 0.1; SGD's 1e-4.",
        "Krogh and Hertz, A Simple Weight Decay Can Improve Generalization (1991)",
    ),
    "no_warmup": Text(
        "The learning rate suits the training later on, but not its first steps, in which curvature and Adam's "
        "estimates are at their worst.",
        "Raise the learning rate linearly from near zero to its value, over the first hundred steps or more.",
        "Goyal et al. (2017), arXiv:1706.02677, section 2.2; Liu et al. (2020), arXiv:1908.03265",
    ),
    "sgd_on_badly_scaled": Text(
        "Gradients of different parameters differ by orders of magnitude. "
        "No single learning rate is stable for the largest and useful for the smallest.",
        "Scale the inputs to equal variance, or use Adam, which gives each parameter its own scale.",
        "LeCun et al., Efficient BackProp (1998), section 4.3",
    ),
    "momentum_too_high": Text(
        "Momentum averages over 1/(1 - momentum) steps. "
        "Here that is longer than the training can wait: the weights swing past the minimum and back.",
        "Use 0.9, or divide the learning rate in proportion to 1 - momentum.",
        "Goh, Why Momentum Really Works (2017), Distill",
    ),
    "decay_on_norms": Text(
        "Weight decay pulls the gains of normalization layers and the biases to zero. "
        "These have few degrees of freedom; shrinking them shrinks whole channels.",
        "Put parameters with fewer than two dimensions into a group with `weight_decay=0`.",
        "He et al., Bag of Tricks (2019), arXiv:1812.01187, section 3.1",
    ),
    "nan_in_data": Text(
        "The batches contain NaN or infinite values. One of them makes the loss and then all weights NaN.",
        "Find the rows with `torch.isfinite`, then drop or impute them before training.",
        "Google, Deep Learning Tuning Playbook (2023); scikit-learn documentation, Imputation of missing values",
    ),
    "nan_from_sqrt": Text(
        "The derivative of the square root (and of a norm) is infinite at zero. Times zero it is NaN in the backward "
        "pass, although the forward pass is finite.",
        "Add a small number inside: `(x + 1e-8).sqrt()`.",
        "PyTorch documentation, Autograd mechanics: gradients for non-differentiable functions",
    ),
    "nan_from_log": Text(
        "The logarithm of zero is minus infinity. Probabilities underflow to zero when the model is sure.",
        "Use the form that takes logits: `log_softmax`, `logsigmoid`, `BCEWithLogitsLoss`. Else clamp the argument.",
        "Goodfellow, Bengio and Courville, Deep Learning (2016), section 4.1",
    ),
    "nan_from_division": Text(
        "A divisor is zero: a standard deviation of a constant, a norm of zeros, or a count of nothing.",
        "Add a small number to the divisor, or clamp it: `x / std.clamp(min=1e-6)`.",
        "Goodfellow, Bengio and Courville, Deep Learning (2016), section 4.1",
    ),
    "fp16_overflow": Text(
        "A value passes 65504, the largest number of float16, and becomes infinite.",
        "Use bfloat16 or float32 here; with float16 use `torch.amp.GradScaler`, and -1e4 for masks.",
        "Micikevicius et al., Mixed Precision Training (2018), arXiv:1710.03740",
    ),
    "adam_eps_underflow": Text(
        "Gradients are smaller than Adam's epsilon, which then sets the divisor. "
        "Steps are far smaller than the learning rate.",
        "Scale the loss up, or lower `eps` (1e-15 is safe in float32).",
        "Kingma and Ba, Adam (2015), arXiv:1412.6980, section 2.1; Wortsman et al. (2023), arXiv:2309.14322",
    ),
    "update_below_precision": Text(
        "Updates are smaller than half the distance between neighbouring numbers at the weights' size, "
        "so adding them changes nothing.",
        "Keep the weights in float32 (autocast computes in 16 bits), or use stochastic rounding.",
        "Micikevicius et al., Mixed Precision Training (2018), arXiv:1710.03740, section 3.1",
    ),
    "vanishing_gradient": Text(
        "Each layer shrinks the gradient, so the first layers get almost none. They stay as they were initialized.",
        "Use ReLU or GELU with He's initialization, a normalization layer, or residual connections.",
        "Glorot and Bengio (2010), Understanding the difficulty of training deep feedforward networks",
    ),
    "exploding_gradient": Text(
        "Each layer or time step enlarges the gradient, so single steps throw the weights away.",
        "Clip the gradient's norm. Then mend the cause: orthogonal or smaller initialization, normalization, or gates.",
        "Pascanu, Mikolov and Bengio (2013), arXiv:1211.5063",
    ),
    "dead_relu": Text(
        "Units are negative for every input, so they output zero and get no gradient. They cannot recover.",
        "Mend what killed them: a lower learning rate, biases at zero, centred inputs. Or use LeakyReLU or GELU.",
        "Lu et al., Dying ReLU and Initialization (2019), arXiv:1903.06733",
    ),
    "saturation": Text(
        "Units of sigmoid or tanh stand at their flat ends, where the derivative is almost zero.",
        "Scale the inputs, use a smaller initialization or a normalization layer before the activation.",
        "Glorot and Bengio (2010), Understanding the difficulty of training deep feedforward networks",
    ),
    "zero_init": Text(
        "Weights start at one constant, so all units of a layer compute the same and get the same gradient, or none.",
        "Draw the weights at random: PyTorch's default, `kaiming_normal_` or `xavier_uniform_`.",
        "Goodfellow, Bengio and Courville, Deep Learning (2016), section 8.4",
    ),
    "init_too_large": Text(
        "Weights start too large for the number of inputs, so activations grow from layer to layer "
        "and the first outputs are far from the targets.",
        "Use a standard deviation of sqrt(2/fan_in) for ReLU, sqrt(1/fan_in) else; 0.02 for embeddings.",
        "He et al. (2015), arXiv:1502.01852; Glorot and Bengio (2010)",
    ),
    "no_nonlinearity": Text(
        "Layers follow each other without a nonlinearity, so together they are one linear map.",
        "Put an activation between them.",
        "Goodfellow, Bengio and Courville, Deep Learning (2016), section 6.1",
    ),
    "attention_logit_growth": Text(
        "The logits of attention grow until its softmax is a hard choice of one position, which has no gradient.",
        "Normalize queries and keys (QK-norm), divide by sqrt(head size), or lower the learning rate.",
        "Dehghani et al. (2023), arXiv:2302.05442, section 2; Wortsman et al. (2023), arXiv:2309.14322",
    ),
}
