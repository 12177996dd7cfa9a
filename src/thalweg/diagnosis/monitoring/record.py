"""Record: everything that a monitor measured."""

import math
from dataclasses import dataclass, field

NAN = math.nan


class Table(dict[str, list[float]]):
    """Values by name, one for each monitored step; not a number where a step has none.

    Example:
        >>> table = Table({"head.weight": [0.5]})
        >>> table.pad(2)
        >>> table["head.weight"]
        [0.5, nan]
    """

    def pad(self, length: int) -> None:
        """Give all names as many values."""
        for values in self.values():
            if len(values) < length:
                values.extend([NAN] * (length - len(values)))


@dataclass(frozen=True)
class ParameterInfo:
    """A parameter.

    Attributes:
        module: Name of the module that owns it; empty for the model itself.
        shape: Its shape.
        dtype: Its dtype, such as ``float32``.
        depth: Place of its module in the order of calls; in the order of the model if no call was seen.
        group: Index of its parameter group over all optimizers; -1 if no optimizer holds it.
        role: ``weight`` (a matrix or a filter), ``embedding``, ``norm`` or ``vector``.
        trained: True if it requires a gradient.
    """

    module: str
    shape: tuple[int, ...]
    dtype: str
    depth: int
    group: int
    role: str
    trained: bool

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class GroupInfo:
    """A parameter group.

    Attributes:
        optimizer: Class of its optimizer.
        index: Index of its optimizer among those that are watched.
        momentum: The momentum, or the first of ``betas``; 0 without one.
        eps: Adam's epsilon; 0 for other optimizers.
    """

    optimizer: str
    index: int
    momentum: float
    eps: float


@dataclass(frozen=True)
class NonFinite:
    """The first value that is not finite.

    Attributes:
        step: The step.
        where: Name of the module, or of the parameter; None if only the loss is known to be affected.
        source: ``input`` if it came with the data, ``parameter`` if a parameter was not finite before the step,
            ``output`` if the module made it of finite inputs, ``loss`` if the model's outputs were finite, ``gradient``
            if the loss was, ``unknown`` if the step was not monitored.
        half: True if the value is of half precision.
    """

    step: int
    where: str | None
    source: str
    half: bool = False


@dataclass
class Record:
    """Measurements of a monitor, in plain numbers.

    Steps count the optimizer's steps from 0. Tables have a value for each monitored step.

    Attributes:
        losses: The loss of every step.
        lrs: The learning rate of every group at every step.
        steps: The monitored steps.
        parameters: The parameters by name, in the order of the model.
        groups: The parameter groups over all optimizers.
        depths: Place of each module in the order of calls.
        gradient_norms: Norm of the gradient that the optimizer saw, by parameter.
        parameter_norms: Norm of the parameter before the step.
        update_ratios: Norm of the true update divided by that of the parameter.
        unchanged: Share of the elements that the step left exactly as they were, of parameters in half precision.
        second_moments: Root of the mean second moment, bias-corrected, divided by Adam's epsilon.
        symmetry: 1 where all units of a layer that began alike are still alike, else 0.
        activation_scales: Root mean square of a module's output.
        dead: Share of the rectified units of a module that no example of the last batches activates.
        saturated: Share of the outputs of a module's tanh or sigmoid that are at its ends.
        attention: Largest spread of the attention logits of a query.
        batchnorm_gaps: Distance of the running statistics from those of the batches, in standard deviations.
        batchnorm_noise: Distance of a batch's statistics from those of other batches, in standard deviations.
        sharpness: Change of the slope along an update, as a share of the slope: 1 at a minimum, 2 at the edge of
            stability, by optimizer.
        alignments: Cosine of the update and the negative gradient, by optimizer.
        cosines: Cosine of successive gradients, by optimizer.
        gradient_squares: Squared norm of the gradient, by optimizer.
        gradient_products: Inner product of successive gradients, by optimizer.
        input_scale: Root mean square of the model's first inputs; not a number if they are no floating-point numbers.
        model_operations: Operations of the model that may give values that are not finite: ``sqrt``, ``log``,
            ``division``.
        loss_operations: Those in the graph of the loss; None if no loss with a graph was passed.
        samples: True if the model computes exponentials between its modules, as it must to draw a code.
        non_finite: The first value that is not finite; None if there is none.
        optimizer_steps: Steps of the optimizers, of which several may belong to one step of the training.
        micro_batches: Batches of a step.
        limits: What could not be measured, and why.
    """

    losses: list[float] = field(default_factory=list)
    lrs: list[tuple[float, ...]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    parameters: dict[str, ParameterInfo] = field(default_factory=dict)
    groups: list[GroupInfo] = field(default_factory=list)
    depths: dict[str, int] = field(default_factory=dict)
    gradient_norms: Table = field(default_factory=Table)
    parameter_norms: Table = field(default_factory=Table)
    update_ratios: Table = field(default_factory=Table)
    unchanged: Table = field(default_factory=Table)
    second_moments: Table = field(default_factory=Table)
    symmetry: Table = field(default_factory=Table)
    activation_scales: Table = field(default_factory=Table)
    dead: Table = field(default_factory=Table)
    saturated: Table = field(default_factory=Table)
    attention: Table = field(default_factory=Table)
    batchnorm_gaps: Table = field(default_factory=Table)
    batchnorm_noise: Table = field(default_factory=Table)
    sharpness: Table = field(default_factory=Table)
    alignments: Table = field(default_factory=Table)
    cosines: Table = field(default_factory=Table)
    gradient_squares: Table = field(default_factory=Table)
    gradient_products: Table = field(default_factory=Table)
    input_scale: float = NAN
    model_operations: tuple[str, ...] = ()
    loss_operations: tuple[str, ...] | None = None
    samples: bool = False
    non_finite: NonFinite | None = None
    optimizer_steps: int = 0
    micro_batches: int = 1
    limits: list[str] = field(default_factory=list)

    def tables(self) -> dict[str, Table]:
        """Return the tables by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Table)}
