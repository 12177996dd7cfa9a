"""The kinds of causes that a diagnosis knows."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of cause.

    Attributes:
        name: Its name, as in ``Finding.kind``.
        group: What it concerns.
        title: A few words that say it.
        harm: A sentence that says why it harms a training.
        remedy: A sentence that says what to do.
    """

    name: str
    group: str
    title: str
    harm: str
    remedy: str

    @property
    def url(self) -> str:
        """The page of the documentation about this kind, relative to its root."""
        return f"docs/diagnosis/{self.name}.md"


# By group and name: the title, the harm and the remedy.
_TEXTS: dict[str, dict[str, tuple[str, str, str]]] = {
    "wiring": {
        "unregistered_parameters": (
            "layers in a plain Python list or dict",
            "The optimizer never sees them, so they stay as they were initialized.",
            "Put the layers into nn.ModuleList, nn.ModuleDict or nn.Sequential.",
        ),
        "frozen_parameters": (
            "parameters that do not require gradients",
            "They stay as they were initialized.",
            "Set requires_grad_(True) for those that shall train, and pass them to the optimizer.",
        ),
        "stale_optimizer": (
            "the optimizer holds other parameters than the model",
            "Its steps move tensors that the model does not use.",
            "Make the optimizer after the last change of the model: copies, moves, new layers.",
        ),
        "detached_graph": (
            "the graph is cut between a module and the loss",
            "No gradient reaches what lies before the cut.",
            "Remove .detach(), .item(), .data, no_grad() or torch.tensor(...) between this module and the loss.",
        ),
        "parameter_twice": (
            "a parameter is stepped twice",
            "Each step moves it several times as far as its learning rate says.",
            "List each parameter once over all groups of the optimizer.",
        ),
        "no_gradient": (
            "a parameter never gets a gradient",
            "It never moves.",
            "Use it in forward(), or remove it.",
        ),
    },
    "output and loss": {
        "softmax_before_cross_entropy": (
            "probabilities where logits are due",
            "The loss applies a softmax again: it cannot come near zero, and gradients are small.",
            "Remove the softmax; cross-entropy takes logits.",
        ),
        "sigmoid_before_bce_logits": (
            "probabilities where logits are due, two classes",
            "The loss applies a sigmoid again: it sees probabilities between 0.5 and 0.73 only.",
            "Remove the sigmoid, or use BCELoss.",
        ),
        "broadcast_targets": (
            "outputs and targets broadcast against each other",
            "Each output is compared with the target of every example, so the model learns the mean.",
            "Give both one shape: target.unsqueeze(1), or output.squeeze(1).",
        ),
        "output_activation": (
            "an activation at the output that cannot reach the targets",
            "Targets outside its range are out of reach, and at its flat end no gradient passes.",
            "Remove the activation after the last layer, or scale the targets into its range.",
        ),
        "softmax_wrong_dim": (
            "softmax over the wrong dimension",
            "Probabilities are normalized over the batch or over positions, not over the classes.",
            "Apply the softmax over the dimension of the classes: dim=-1, or dim=1 for images.",
        ),
        "softmax_of_one_unit": (
            "softmax of a single output",
            "It is always 1, and has no gradient.",
            "Use a sigmoid for one output, or two outputs.",
        ),
        "nll_without_log": (
            "negative log-likelihood of values that are no logarithms",
            "The loss of probabilities has small gradients where the model is wrong.",
            "Use log_softmax in place of softmax, or cross-entropy on the logits.",
        ),
        "loss_summed": (
            "a loss that is summed over the batch",
            "Gradients grow with the batch, so the steps are as many times too large.",
            'Use reduction="mean", or divide the learning rate by the size of a batch.',
        ),
    },
    "loop": {
        "no_zero_grad": (
            "gradients add up over steps",
            "Each step applies the sum of all gradients so far.",
            "Call optimizer.zero_grad() before each backward pass.",
        ),
        "left_in_eval_mode": (
            "training in evaluation mode",
            "Normalization does not follow the data, and dropout is off.",
            "Call model.train() before training, and after each evaluation.",
        ),
        "schedule_kills_lr": (
            "a schedule that takes the learning rate away",
            "The training stands still from then on.",
            "Call scheduler.step() once for each pass over the data, or let the rate fall more slowly.",
        ),
        "clip_too_small": (
            "clipping that leaves too little of the gradient",
            "Every step has the same tiny length.",
            "Raise the bound above the usual norm of the gradients, or remove it.",
        ),
    },
    "step": {
        "lr_too_high": (
            "learning rate too high",
            "Steps leap over the minimum, and the loss rises or stays high.",
            "Lower the learning rate.",
        ),
        "lr_too_low": (
            "learning rate too low",
            "Steps are so small that the training hardly moves.",
            "Raise the learning rate.",
        ),
        "weight_decay_too_strong": (
            "weight decay too strong",
            "Weights shrink faster than the gradients can build them up.",
            "Lower the weight decay.",
        ),
        "no_warmup": (
            "no warm-up",
            "The first steps at the full learning rate damage the weights.",
            "Raise the learning rate from near zero over the first steps.",
        ),
        "sgd_on_badly_scaled": (
            "one learning rate for gradients of very different scales",
            "No single learning rate suits all of them.",
            "Use an optimizer that scales each parameter's steps, such as Adam.",
        ),
        "momentum_too_high": (
            "momentum too high",
            "Steps of long ago still push, so the training overshoots.",
            "Lower the momentum to 0.9.",
        ),
        "decay_on_norms": (
            "weight decay on norms and biases",
            "The scales of normalization layers are pulled to zero.",
            "Put norms and biases into a parameter group with weight_decay=0.",
        ),
    },
    "numbers": {
        "nan_in_data": (
            "values in the data that are not finite",
            "One such value makes the loss and then all weights not a number.",
            "Remove or replace these values before training.",
        ),
        "nan_from_sqrt": (
            "square root at zero",
            "The derivative of a root is infinite at zero, and infinity times zero is not a number.",
            "Add a small number under the root: torch.sqrt(x + 1e-8).",
        ),
        "nan_from_log": (
            "logarithm at zero",
            "The logarithm of zero is infinite.",
            "Work with log_softmax, logsigmoid or logsumexp, or clamp the argument from below.",
        ),
        "nan_from_division": (
            "division by zero",
            "Dividing by zero gives infinity or not a number.",
            "Add a small number to the divisor.",
        ),
        "fp16_overflow": (
            "overflow in half precision",
            "Half precision ends at 65,504; beyond it numbers are infinite.",
            "Compute this part in float32 or bfloat16, or keep its numbers small.",
        ),
        "adam_eps_underflow": (
            "gradients below Adam's epsilon",
            "Adam divides by its epsilon instead of by the size of the gradient, so its steps vanish.",
            "Lower eps, or raise the scale of the loss.",
        ),
        "update_below_precision": (
            "updates below the precision of the weights",
            "Rounding removes the steps.",
            "Keep the weights in float32, and compute in half precision under autocast.",
        ),
    },
    "propagation": {
        "vanishing_gradient": (
            "gradients vanish over depth",
            "The first layers get almost no gradient.",
            "Use ReLU or GELU, an initialization that fits them, normalization layers or residual connections.",
        ),
        "exploding_gradient": (
            "gradients explode over depth or time",
            "A few steps are so large that they destroy what was learnt.",
            "Clip the norm of the gradients, or lower the scale of the weights.",
        ),
        "dead_relu": (
            "units that are never active",
            "Units that are never active have no gradient and stay so.",
            "Lower the learning rate, initialize the biases at zero, or use LeakyReLU.",
        ),
        "saturation": (
            "units at the flat ends of their activation",
            "At the flat ends of an activation almost no gradient passes.",
            "Lower the scale of the weights or of the inputs, or use another activation.",
        ),
        "zero_init": (
            "weights that start at zero",
            "Without differences between units, or behind another zero, there is no gradient to break it.",
            "Initialize the weights at random.",
        ),
        "init_too_large": (
            "weights that start too large",
            "Signals and gradients start far too large.",
            "Use the default initialization, or He or Xavier.",
        ),
        "no_nonlinearity": (
            "layers without a nonlinearity between them",
            "Linear layers in a row are one linear layer.",
            "Put an activation between the layers.",
        ),
        "attention_logit_growth": (
            "attention logits that grow",
            "Attention becomes one-hot, and almost no gradient passes.",
            "Normalize queries and keys, or lower their scale or learning rate.",
        ),
    },
    "data": {
        "inputs_not_normalised": (
            "inputs that are not normalised",
            "The loss is far steeper in some directions than in others.",
            "Standardize each feature: subtract its mean, divide by its deviation.",
        ),
        "targets_not_normalised": (
            "targets that are not normalised",
            "The model spends the training on reaching the scale of the targets.",
            "Standardize the targets, and undo it for predictions.",
        ),
        "inputs_constant": (
            "inputs that are constant",
            "The model cannot tell the examples apart.",
            "Look at how the inputs are read and prepared.",
        ),
        "labels_misaligned": (
            "labels that do not belong to their inputs",
            "There is nothing to learn that holds for new data.",
            "Look at where inputs and targets are shuffled, sorted or joined.",
        ),
        "class_imbalance": (
            "classes of very different sizes",
            "The loss is low if the rare class is never predicted.",
            "Weight the classes in the loss, or sample the rare class more often.",
        ),
        "batches_sorted": (
            "batches that are sorted",
            "Each batch asks for one class alone, and undoes what the last one taught.",
            "Shuffle the data: shuffle=True in a DataLoader.",
        ),
        "augmentation_too_strong": (
            "augmentation that destroys the inputs",
            "What tells the classes apart is gone from the inputs.",
            "Weaken the augmentation.",
        ),
    },
    "norm": {
        "batchnorm_eval_gap": (
            "batch normalization that differs between training and evaluation",
            "The running statistics differ from those of the batches.",
            "Raise the momentum of the running statistics, train longer, or use GroupNorm or LayerNorm.",
        ),
        "batchnorm_tiny_batch": (
            "batch normalization of tiny batches",
            "Statistics of so few examples are noise.",
            "Use larger batches, GroupNorm or LayerNorm.",
        ),
    },
    "several losses": {
        "gan_discriminator_wins": (
            "a discriminator that wins",
            "The generator gets no gradient from a discriminator that is always sure.",
            "Lower the learning rate of the discriminator, or let it take fewer steps.",
        ),
        "posterior_collapse": (
            "a latent code that is not used",
            "The decoder ignores the code.",
            "Lower the weight of the divergence, or raise it from zero over the first steps.",
        ),
        "bootstrap_divergence": (
            "targets that follow the network itself",
            "Errors feed themselves through the targets.",
            "Take the targets from a copy of the network that follows slowly.",
        ),
    },
    "during training": {
        "loss_spike": (
            "spikes of the loss",
            "A single step undoes many.",
            "Clip the gradients, lower the learning rate, or raise Adam's epsilon.",
        ),
        "edge_of_stability": (
            "training at the edge of stability",
            "The learning rate is as high as the curvature allows.",
            "Nothing if the loss falls; else lower the learning rate or warm up longer.",
        ),
        "gradient_noise": (
            "gradients that are mostly noise",
            "Steps are mostly random.",
            "Use larger batches, accumulate gradients, or lower the learning rate over time.",
        ),
        "plateau": (
            "a plateau of the loss",
            "The loss stands still though the training is not at its end.",
            "Try restarts, another optimizer, or noise on the gradients.",
        ),
    },
}

KINDS: dict[str, Kind] = {
    name: Kind(name, group, *texts) for group, members in _TEXTS.items() for name, texts in members.items()
}
