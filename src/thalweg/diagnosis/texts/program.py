"""Texts about faults of the program: wiring, output and loss, and the training loop."""

from thalweg.diagnosis.texts.text import Text

PROGRAM: dict[str, Text] = {
    "unregistered_parameters": Text(
        "The model runs layers that it does not register, because they are in a plain Python list or dict. "
        "`model.parameters()` does not contain them, so the optimizer never moves them.",
        "Use `nn.ModuleList`, `nn.ModuleDict`, or `register_module` for the layers. Make the optimizer afterwards.",
        "PyTorch documentation, nn.ModuleList",
    ),
    "frozen_parameters": Text(
        "Parameters have `requires_grad=False`, so they keep their initial values. "
        "That suits a pretrained body; layers with random values then stay random.",
        "Call `requires_grad_(True)` on what is to be trained, and give it to the optimizer.",
        "PyTorch documentation, Autograd mechanics",
    ),
    "stale_optimizer": Text(
        "The optimizer holds tensors that are no parameters of this model. "
        "The model was copied or replaced, or got new layers, after the optimizer was made.",
        "Make the optimizer last: after the model is copied, moved, wrapped, or changed.",
        "PyTorch documentation, torch.optim: Constructing it",
    ),
    "detached_graph": Text(
        "The output depends on these parameters, but no gradient reaches them. "
        "`detach()`, `.data`, `.item()`, `no_grad()`, or a new tensor cuts the graph between them and the loss.",
        "Remove the cut, and compute with tensors from the parameters to the loss.",
        "PyTorch documentation, Autograd mechanics",
    ),
    "parameter_twice": Text(
        "The optimizer steps the same parameter more than once in each step. It moves several times as far.",
        "Give each parameter once: `dict.fromkeys(parameters)` removes duplicates and keeps the order.",
        "PyTorch source, torch.optim.Optimizer.add_param_group",
    ),
    "no_gradient": Text(
        "These parameters require a gradient, and the optimizer holds them, but the loss does not depend on them. "
        "`forward` leaves their module out, or overwrites its result.",
        "Use the module in `forward`, or remove it.",
        "PyTorch documentation, DistributedDataParallel: find_unused_parameters",
    ),
    "softmax_before_cross_entropy": Text(
        "The model returns probabilities, but the cross-entropy applies softmax itself. "
        "Differences of its logits are then at most 1: the loss cannot fall far, and gradients are small.",
        "Return logits: remove the last softmax. For probabilities apply softmax outside of training.",
        "PyTorch documentation, nn.CrossEntropyLoss",
    ),
    "sigmoid_before_bce_logits": Text(
        "The model returns probabilities, but the loss applies a sigmoid itself. "
        "Its probabilities then lie between 0.5 and 0.73, so the loss of the class 0 cannot fall below 0.69.",
        "Return logits: remove the last sigmoid. Or keep it, and use `nn.BCELoss`.",
        "PyTorch documentation, nn.BCEWithLogitsLoss",
    ),
    "broadcast_targets": Text(
        "Output and target have different shapes, and the loss broadcasts them against each other. "
        "Each output is compared with each target, so the best output is the mean of all targets.",
        "Give both the same shape: `target.reshape(output.shape)` or `output.squeeze(-1)`.",
        "PyTorch source, the warning of functional.mse_loss about a different target size",
    ),
    "output_activation": Text(
        "The activation after the last layer has a range that does not contain all targets. "
        "Outputs end at its limit, where its gradient is zero or small.",
        "Remove the last activation, or scale the targets into its range.",
        "Goodfellow, Bengio and Courville, Deep Learning (2016), section 6.2.2",
    ),
    "softmax_wrong_dim": Text(
        "Softmax runs over a dimension that does not hold the classes, mostly over the batch. "
        "The examples of a batch compete with each other, so no output is a distribution over classes.",
        "Name the dimension of the classes: `softmax(x, dim=-1)`, for images `dim=1`.",
        "PyTorch documentation, functional.softmax",
    ),
    "softmax_of_one_unit": Text(
        "Softmax of a single number is always 1. The output is constant, and its gradient is zero.",
        "For two classes use one logit and `nn.BCEWithLogitsLoss`, or two logits and `nn.CrossEntropyLoss`.",
        "Goodfellow, Bengio and Courville, Deep Learning (2016), section 6.2.2.3",
    ),
    "nll_without_log": Text(
        "`nll_loss` expects log-probabilities and takes no logarithm itself. "
        "Of probabilities it reaches at best -1; of logits it has no lower bound.",
        "End in `log_softmax(x, dim=-1)`, or return logits and use `nn.CrossEntropyLoss`.",
        "PyTorch documentation, nn.NLLLoss",
    ),
    "loss_summed": Text(
        "The loss is summed over the batch, so its gradient grows with the batch size. "
        "A learning rate that suits a mean is too high by this factor.",
        "Use the mean over the batch (`reduction='mean'`), or divide the learning rate by the batch size.",
        "Goyal et al., Accurate, Large Minibatch SGD (2017), arXiv:1706.02677, section 3",
    ),
    "no_zero_grad": Text(
        "Nothing sets the gradients to zero, so each step uses the sum of all gradients since the start.",
        "Call `optimizer.zero_grad()` before each `backward()`; with accumulation once for each step.",
        "PyTorch documentation, Zeroing out gradients in PyTorch",
    ),
    "left_in_eval_mode": Text(
        "The model is in evaluation mode while it trains. Dropout does nothing, and BatchNorm normalizes with running "
        "statistics that it does not update.",
        "Call `model.train()` before the steps, and after each evaluation.",
        "PyTorch documentation, nn.Module.train",
    ),
    "schedule_kills_lr": Text(
        "The learning rate falls to a small share of its first value long before the training ends, so the steps stop.",
        "Keep the learning rate constant, or step the scheduler as often as its period means (step or epoch).",
        "PyTorch documentation, torch.optim: How to adjust learning rate",
    ),
    "clip_too_small": Text(
        "Gradients are clipped to a small share of their norm. With SGD every step then has the length lr times this "
        "bound, whatever the gradient.",
        "Remove the clipping, or set the bound near the usual norm of the gradient: "
        "print what `clip_grad_norm_` returns.",
        "Pascanu, Mikolov and Bengio (2013), arXiv:1211.5063, section 3.2",
    ),
}
