"""Monitor: watches a training in anyone's own loop."""

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from thalweg.diagnosis.finding import Finding
from thalweg.diagnosis.monitoring.assembly import Assembly
from thalweg.diagnosis.monitoring.clues import findings
from thalweg.diagnosis.monitoring.probes.module_probe import ModuleProbe
from thalweg.diagnosis.monitoring.probes.optimizer_probe import OptimizerProbe
from thalweg.diagnosis.monitoring.probes.targets import Parts, optimizers_in
from thalweg.diagnosis.monitoring.record import Record
from thalweg.diagnosis.monitoring.summary import summarize
from thalweg.diagnosis.monitoring.writers import SummaryWriter, writing
from thalweg.errors import DiagnosisError, shown

DEFAULT_EVERY = 50  # steps; benchmarks/speed/watch.py measures what it costs
FIRST_STEPS, FIRST_EVERY = 20, 5  # what goes wrong at once is seen at once
READ_EVERY = 200  # steps between two readings, each of which waits for the device once
FULL_STEPS = 8  # between full measurements: modules, sizes of weights, curvature, noise and second moments
REFRESH_EVERY = 16  # full measurements after which modules that were added are looked for
Model = nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module]


class Monitor:
    """Measures a training while its own loop runs, and says what is wrong with it.

    It changes nothing that the training computes. Between monitored steps it only keeps the loss; it reads what it
    measured every 200 steps, so that a device is not waited for at each step. It holds three tensors as large as all
    parameters. If each step is monitored, what modules compute, the sizes of weights and the comparisons of successive
    gradients are measured at every eighth.

    Args:
        model: The model, or several in a list or dict. Compiled and distributed ones may stay wrapped.
        optimizer: The optimizer, an object around one, or several in a list or dict.
        every: Steps from one monitored step to the next; 1 for all of them. Defaults to 5 for the first 20
            steps, then 50.
        writer: TensorBoard's ``SummaryWriter``, or a function that is called with a step and its values by name.

    Raises:
        DiagnosisError: If an argument is something else.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with Monitor(model, optimizer, every=1) as monitor:
        ...     for _ in range(3):
        ...         optimizer.zero_grad()
        ...         loss = (model(torch.ones(4, 2)) - 1).square().mean()
        ...         loss.backward()
        ...         optimizer.step()
        ...         monitor.step(loss)
        >>> len(monitor.record.losses), monitor.record.steps
        (3, [0, 1, 2])
    """

    def __init__(
        self,
        model: Model,
        optimizer: Any,
        *,
        every: int | None = None,
        writer: SummaryWriter | Callable[[int, dict[str, float]], Any] | None = None,
    ) -> None:
        if every is not None and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
            raise DiagnosisError(f"watch: every must be a whole number from 1, got {shown(every)}.")
        self._every = every
        self._write = writing(writer)
        self._parts = Parts(model)
        self._optimizers = optimizers_in(optimizer)
        self._assembly = Assembly(self._parts, self._optimizers)
        columns = self._assembly.columns
        self._modules = ModuleProbe(self._parts, columns)
        many = len(self._optimizers) > 1
        self._probes = [
            OptimizerProbe(
                single, f"{type(single).__name__}{number if many else ''}", columns, self._after_optimizer_step
            )
            for number, single in enumerate(self._optimizers)
        ]
        self._is_open = False
        self._calls = 0
        self._stepped = False  # since the last call of ``step``
        self._is_monitored = False  # the step that is under way
        self._full_step = self._full_count = 0
        self._symmetric: list[tuple[str, Tensor]] = []  # weights whose units began equal

    def __enter__(self) -> Self:
        if self._is_open:
            raise DiagnosisError("watch: a monitor can be entered once at a time. Make another one.")
        self._is_open = True
        for probe in self._probes:
            probe.install()
        self._symmetric = self._assembly.find_symmetric()
        self._begin_step()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._modules.end()
        for probe in self._probes:
            probe.remove()
        self._is_open = False
        self._symmetric = []
        self._read()
        self._assembly.readings.clear()

    def step(self, loss: Any) -> None:
        """Note that a step is done. Call it once in each pass of the loop, also for batches that only accumulate.

        Args:
            loss: The loss of the batch: a tensor of one element, or a number.

        Raises:
            DiagnosisError: If the loss is something else, or the monitor was not entered by ``with``.
        """
        if not self._is_open:
            raise DiagnosisError(
                "watch: step must be called inside of the with block. Write: with watch(...) as monitor."
            )
        self._keep(loss)
        if self._stepped:
            self._stepped = False
            self._end_step(loss)
            self._begin_step()
        if self._calls % READ_EVERY == 0:
            self._read()

    @property
    def record(self) -> Record:
        """Everything that was measured so far. Reading it waits for the device."""
        self._read()
        return self._assembly.record

    @property
    def findings(self) -> list[Finding]:
        """Findings, the most severe first, then the earliest; a training that looks healthy has notes at most."""
        return findings(self.record)

    def summary(self) -> str:
        """Return the findings and the measurements by depth as text of 80 columns."""
        return summarize(self.record, self.findings)

    def _keep(self, loss: Any) -> None:
        if isinstance(loss, Tensor):
            if loss.numel() != 1:
                raise DiagnosisError(
                    f"watch: the loss must be a tensor of one element, got shape {tuple(loss.shape)}. Pass its mean."
                )
        elif isinstance(loss, (int, float)) and not isinstance(loss, bool):
            loss = float(loss)
        else:
            raise DiagnosisError(f"watch: the loss must be a tensor of one element or a number, got {shown(loss)}.")
        self._assembly.put_loss(self._calls, loss)
        self._calls += 1

    def _after_optimizer_step(self) -> None:
        self._assembly.count_optimizer_step(self._calls, is_first=not self._stepped)
        self._stepped = True

    def _begin_step(self) -> None:
        step = self._assembly.steps_done
        every = self._every or (FIRST_EVERY if step < FIRST_STEPS else DEFAULT_EVERY)
        self._is_monitored = step % every == 0
        if self._is_monitored:
            index = len(self._assembly.record.steps)
            # From every fifth step on, each one is measured in full.
            is_full = index == 0 or every >= FIRST_EVERY or step - self._full_step >= FULL_STEPS
            if is_full:
                if self._full_count % REFRESH_EVERY == 0:
                    self._modules.refresh()
                self._full_step, self._full_count = step, self._full_count + 1
                self._modules.install(index)
            for probe in self._probes:
                probe.arm(index, is_full=is_full)

    def _end_step(self, loss: Any) -> None:
        if self._is_monitored:
            self._modules.end()
            index = len(self._assembly.record.steps)
            for name, weight in self._symmetric:
                with torch.no_grad():
                    column = self._assembly.columns.column("symmetry", name)
                    self._assembly.readings.add(index, column, (weight == weight[:1]).all())
            self._assembly.readings.end_step()
        lrs = tuple([lr for probe in self._probes for lr in probe.lrs])
        self._assembly.end_step(lrs, is_monitored=self._is_monitored, loss=loss)

    def _read(self) -> None:
        self._assembly.take(self._modules)
        if self._write is not None:
            for step, values in self._assembly.unwritten():
                self._write(step, values)


def watch(
    model: Model,
    optimizer: Any,
    *,
    every: int | None = None,
    writer: SummaryWriter | Callable[[int, dict[str, float]], Any] | None = None,
) -> Monitor:
    """Watch a training in your own loop: enter the monitor with ``with``, and call ``monitor.step(loss)`` in the loop.

    It takes the arguments of ``Monitor``.

    Returns:
        A monitor with ``step``, ``record``, ``findings`` and ``summary``.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with watch(model, optimizer) as monitor:
        ...     for _ in range(20):
        ...         optimizer.zero_grad()
        ...         loss = (model(torch.ones(4, 2)) - 1).square().mean()
        ...         loss.backward()
        ...         optimizer.step()
        ...         monitor.step(loss)
        >>> monitor.record.steps
        [0, 5, 10, 15]
        >>> [finding.severity for finding in monitor.findings if finding.severity != "note"]
        []
    """
    return Monitor(model, optimizer, every=every, writer=writer)
