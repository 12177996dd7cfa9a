"""The kinds of causes that a diagnosis knows."""

from dataclasses import dataclass

from thalweg.diagnosis.texts import TEXTS


@dataclass(frozen=True)
class Kind:
    """A kind of cause.

    Attributes:
        name: Its name, as in ``Finding.kind``.
        group: What it concerns.
        title: A few words that say it.
    """

    name: str
    group: str
    title: str

    @property
    def heading(self) -> str:
        """The title of its page: the words, and the name as code.

        Example:
            >>> KINDS["nan_from_log"].heading
            'Logarithm of zero (`nan_from_log`)'
        """
        return f"{self.title[:1].upper()}{self.title[1:]} (`{self.name}`)"

    @property
    def explanation(self) -> str:
        """The harm that it does to a training, in a sentence or two."""
        return TEXTS[self.name].explanation

    @property
    def remedy(self) -> str:
        """The way to mend it, in a sentence or two."""
        return TEXTS[self.name].remedy

    @property
    def source(self) -> str:
        """The paper, documentation or report that describes it."""
        return TEXTS[self.name].source

    @property
    def url(self) -> str:
        """The page about it, from the root of the repository."""
        return f"docs/diagnosis/causes/{self.name}.md"


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("unregistered_parameters", "wiring", "layers in a plain Python list or dict"),
        Kind("frozen_parameters", "wiring", "parameters that do not require gradients"),
        Kind("stale_optimizer", "wiring", "the optimizer holds other parameters than the model"),
        Kind("detached_graph", "wiring", "the graph is cut between a module and the loss"),
        Kind("parameter_twice", "wiring", "a parameter is stepped twice"),
        Kind("no_gradient", "wiring", "a parameter never gets a gradient"),
        Kind("softmax_before_cross_entropy", "output and loss", "softmax before a cross-entropy of logits"),
        Kind("sigmoid_before_bce_logits", "output and loss", "sigmoid before a cross-entropy of logits"),
        Kind("broadcast_targets", "output and loss", "outputs and targets broadcast against each other"),
        Kind("output_activation", "output and loss", "an activation at the output that cannot reach the targets"),
        Kind("softmax_wrong_dim", "output and loss", "softmax over the wrong dimension"),
        Kind("softmax_of_one_unit", "output and loss", "softmax of a single output"),
        Kind("nll_without_log", "output and loss", "negative log-likelihood of values that are no logarithms"),
        Kind("loss_summed", "output and loss", "a loss that is summed over the batch"),
        Kind("no_zero_grad", "loop", "gradients add up over steps"),
        Kind("left_in_eval_mode", "loop", "training in evaluation mode"),
        Kind("schedule_kills_lr", "loop", "a schedule that takes the learning rate away"),
        Kind("clip_too_small", "loop", "clipping that leaves too little of the gradient"),
        Kind("lr_too_high", "step", "learning rate too high"),
        Kind("lr_too_low", "step", "learning rate too low"),
        Kind("weight_decay_too_strong", "step", "weight decay too strong"),
        Kind("no_warmup", "step", "no warm-up"),
        Kind("sgd_on_badly_scaled", "step", "one learning rate for gradients of very different scales"),
        Kind("momentum_too_high", "step", "momentum too high"),
        Kind("decay_on_norms", "step", "weight decay on norms and biases"),
        Kind("nan_in_data", "numbers", "values in the data that are not finite"),
        Kind("nan_from_sqrt", "numbers", "square root of zero"),
        Kind("nan_from_log", "numbers", "logarithm of zero"),
        Kind("nan_from_division", "numbers", "division by zero"),
        Kind("fp16_overflow", "numbers", "overflow in half precision"),
        Kind("adam_eps_underflow", "numbers", "gradients below Adam's epsilon"),
        Kind("update_below_precision", "numbers", "updates below the precision of the weights"),
        Kind("vanishing_gradient", "propagation", "gradients vanish over depth"),
        Kind("exploding_gradient", "propagation", "gradients explode over depth or time"),
        Kind("dead_relu", "propagation", "units that are never active"),
        Kind("saturation", "propagation", "units at the flat ends of their activation"),
        Kind("zero_init", "propagation", "weights that start at zero"),
        Kind("init_too_large", "propagation", "weights that start too large"),
        Kind("no_nonlinearity", "propagation", "layers without a nonlinearity between them"),
        Kind("attention_logit_growth", "propagation", "attention logits that grow"),
        Kind("inputs_not_normalised", "data", "inputs that are not normalised"),
        Kind("targets_not_normalised", "data", "targets that are not normalised"),
        Kind("inputs_constant", "data", "inputs that are constant"),
        Kind("labels_misaligned", "data", "labels that do not belong to their inputs"),
        Kind("class_imbalance", "data", "classes of very different sizes"),
        Kind("batches_sorted", "data", "batches that are sorted"),
        Kind("augmentation_too_strong", "data", "augmentation that destroys the inputs"),
        Kind("batchnorm_eval_gap", "norm", "batch normalization that differs between training and evaluation"),
        Kind("batchnorm_tiny_batch", "norm", "batch normalization of tiny batches"),
        Kind("gan_discriminator_wins", "several losses", "a discriminator that wins"),
        Kind("posterior_collapse", "several losses", "a latent code that is not used"),
        Kind("bootstrap_divergence", "several losses", "targets that follow the network itself"),
        Kind("loss_spike", "during training", "spikes of the loss"),
        Kind("edge_of_stability", "during training", "training at the edge of stability"),
        Kind("gradient_noise", "during training", "gradients that are mostly noise"),
        Kind("plateau", "during training", "a plateau of the loss"),
    )
}
