"""Texts about data, batch normalization, several losses, and the course of a training."""

from thalweg.diagnosis.texts.text import Text

DATA: dict[str, Text] = {
    "inputs_not_normalised": Text(
        "Inputs are far from mean 0 and deviation 1, or differ in scale. "
        "The first layer then needs another learning rate than the rest.",
        "Subtract the mean and divide by the deviation of the training data, feature by feature.",
        "LeCun et al., Efficient BackProp (1998), section 4.3",
    ),
    "targets_not_normalised": Text(
        "Targets have a large mean or deviation. The outputs must first travel there, "
        "with gradients that are large by the same factor.",
        "Train on `(y - mean) / std` of the training targets, and undo it in predictions.",
        "scikit-learn documentation, TransformedTargetRegressor; Bishop (1995), section 8.2",
    ),
    "inputs_constant": Text(
        "Inputs do not differ between examples. The model can only learn the mean of the targets.",
        "Look at one batch. Mend the loading or the scaling (integer division, a wrong column, a zero mask).",
        "Karpathy, A Recipe for Training Neural Networks (2019), step 1",
    ),
    "labels_misaligned": Text(
        "The targets do not belong to their inputs, so what is learnt does not carry over. No setting cures this.",
        "Check pairs by eye from the batch that enters the model. "
        "Mend the join, sorting or shuffling that is done to one of the two.",
        "Zhang et al. (2017), arXiv:1611.03530; Karpathy, A Recipe for Training Neural Networks (2019), step 1",
    ),
    "class_imbalance": Text(
        "One class has most of the examples. Predicting it always gives a low loss, and rare classes are not found.",
        "Weight the loss by inverse frequency, or draw balanced batches. Judge by recall of each class.",
        "He and Garcia, Learning from Imbalanced Data (2009)",
    ),
    "batches_sorted": Text(
        "Batches come in the order of the targets, so each step unlearns the classes before.",
        "Shuffle: `DataLoader(..., shuffle=True)`; for streams a shuffle buffer larger than a class.",
        "Bengio, Practical Recommendations (2012), arXiv:1206.5533, section 2.1.2",
    ),
    "augmentation_too_strong": Text(
        "The augmentation destroys what the targets depend on, so inputs of the training say little about them.",
        "Weaken or remove it until the training loss falls. Look at augmented examples, and try to tell their class.",
        "Shorten and Khoshgoftaar, A survey on Image Data Augmentation (2019)",
    ),
    "batchnorm_eval_gap": Text(
        "BatchNorm's running statistics are not those of the batches, so evaluation differs from training.",
        "Train longer, raise `momentum`, or compute the statistics anew over the training data before evaluation.",
        "Ioffe and Szegedy (2015), arXiv:1502.03167; Wu and Johnson (2021), arXiv:2105.07576",
    ),
    "batchnorm_tiny_batch": Text(
        "BatchNorm estimates mean and variance from very few examples. The noise of this estimate hides the signal.",
        "Use larger batches, GroupNorm, LayerNorm, or SyncBatchNorm.",
        "Wu and He, Group Normalization (2018), arXiv:1803.08494",
    ),
    "gan_discriminator_wins": Text(
        "The discriminator tells real from generated without error, so the generator gets no useful gradient.",
        "Lower the discriminator's learning rate, take fewer of its steps, or use the non-saturating loss.",
        "Goodfellow et al. (2014), arXiv:1406.2661, section 3; Arjovsky and Bottou (2017), arXiv:1701.04862",
    ),
    "posterior_collapse": Text(
        "The divergence goes to zero, so the code carries nothing and the decoder ignores it.",
        "Raise the weight of the divergence slowly from 0, lower it, or allow free bits.",
        "Bowman et al. (2016), arXiv:1511.06349; Kingma et al. (2016), arXiv:1606.04934",
    ),
    "bootstrap_divergence": Text(
        "The targets come from the network that is trained, so each step moves them too, and errors feed themselves.",
        "Compute targets from a copy that follows slowly (a target network).",
        "Mnih et al. (2015), Human-level control through deep reinforcement learning; Tsitsiklis and Van Roy (1997)",
    ),
    "loss_spike": Text(
        "The loss jumps far above its recent level, and needs many steps to return.",
        "Clip the gradient's norm. For Adam lower beta2 (0.95) or the learning rate. Look at the batch of this step.",
        "Chowdhery et al., PaLM (2022), arXiv:2204.02311, section 5.1; Molybog et al. (2023), arXiv:2304.09871",
    ),
    "edge_of_stability": Text(
        "The sharpness stands near 2 / lr, so the loss rises and falls along the steepest direction.",
        "Lower the learning rate if the loss stays up over 50 steps. "
        "If it falls over tens of steps, leave it: that is the normal state of full-batch descent.",
        "Cohen et al. (2021), arXiv:2103.00065",
    ),
    "gradient_noise": Text(
        "Gradients of different batches agree in little. Steps mostly cancel each other.",
        "Use larger batches or accumulation, lower the learning rate over time, or average the weights.",
        "McCandlish et al., An Empirical Model of Large-Batch Training (2018), arXiv:1812.06162",
    ),
    "plateau": Text(
        "The loss stopped falling although there is a gradient and the model could do better.",
        "Try warm restarts, a larger learning rate, gradient noise, or another optimizer.",
        "Dauphin et al. (2014), arXiv:1406.2572; Loshchilov and Hutter, SGDR (2017), arXiv:1608.03983",
    ),
}
