"""Change: alters one thing of a training, and has the lines that do the same in the user's file."""

import re
import sys
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import final

from thalweg.diagnosis.changes.parts.optimizers import optimizers_of
from thalweg.errors import DiagnosisError
from thalweg.tasks.training import Training


@dataclass(frozen=True, kw_only=True)
class Change(ABC):
    """A change of one thing of a training. Abstract.

    A change keeps the user's objects and alters them in place: their step may refer to the model and the optimizer by
    names of its own.

    Attributes:
        name: The change in a few words.
        cures: The kinds of causes that it cures, names of ``KINDS``.
        size: How much it changes: 1 for a setting, 2 for a part of the loop or the data, 3 for a layer, 4 for all
            layers. Smaller is better among changes that work equally.
        changes_loss: True if losses before and after it cannot be compared.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from thalweg.diagnosis.changes import changes_for
        >>> from thalweg.tasks import Training
        >>> model = nn.Linear(2, 1)
        >>> batches = [(torch.randn(8, 2), torch.randn(8, 1))]
        >>> training = Training(model, torch.optim.SGD(model.parameters(), lr=1e-5), batches, nn.functional.mse_loss)
        >>> change = changes_for("lr_too_low", None)[0]
        >>> print(change.code(training, None))
        for group in optimizer.param_groups:
            group["lr"] *= 10  # 1e-05 -> 0.0001
    """

    name: str
    cures: tuple[str, ...]
    size: int = 1
    changes_loss: bool = False

    def why_not(self, training: Training, where: str | None) -> str:
        """Return why the change does not apply to a training; empty if it does.

        Args:
            training: A training that has not begun. It is not altered.
            where: The module or parameter to change; None if none is to blame.
        """
        return ""

    def making(self) -> AbstractContextManager[object]:
        """Return a context in which the training must be made, for a change of what happens then."""
        return nullcontext()

    @final
    def apply(self, training: Training, where: str | None) -> Training:
        """Alter a training and return it.

        Args:
            training: A fresh training, which nobody else uses.
            where: The module or parameter to change; None if none is to blame.

        Raises:
            DiagnosisError: If the change does not apply.
        """
        if reason := self.why_not(training, where):
            raise DiagnosisError(f"{self.name}: the change must suit the training, and does not: {reason}.")
        self.alter(training, where)
        return training

    @abstractmethod
    def alter(self, training: Training, where: str | None) -> None:
        """Alter a training to which the change applies."""

    @abstractmethod
    def lines(self, training: Training, where: str | None) -> str:
        """Return the lines to paste into a training to which the change applies."""

    @final
    def code(self, training: Training, where: str | None) -> str:
        """Return the lines to paste before the training is returned.

        They use the names ``model``, ``optimizer``, ``batches``, ``loss_fn``, ``step`` and ``metric``.

        Args:
            training: A training to which the change applies. It is not altered, but batches may be drawn from it.
            where: The module or parameter to change; None if none is to blame.
        """
        lines = self.lines(training, where)
        if re.search(r"\boptimizer\b", lines) and len(optimizers_of(training)) > 1:
            lines = f"# The same for each optimizer that the step uses.\n{lines}"
        return imports_first(lines)


_IMPORT = re.compile(r"(import|from) (\w+).*")


def imports_first(code: str) -> str:
    r"""Return code with its imports on top: the standard library's, then the rest, each once.

    Example:
        >>> print(imports_first("factor = 10\nimport torch\n\nweight = torch.ones(factor)"))
        import torch
        <BLANKLINE>
        factor = 10
        weight = torch.ones(factor)
    """
    blocks: tuple[set[str], set[str]] = set(), set()
    body: list[str] = []
    after_import = True
    for line in code.split("\n"):
        if match := _IMPORT.fullmatch(line):
            blocks[match[2] not in sys.stdlib_module_names].add(line)
        elif line or not after_import:
            body.append(line)
        after_import = bool(match) or (after_import and not line)
    if not any(blocks):
        return code
    first = next((line for line in body if not line.startswith("#")), "")
    imports = "\n\n".join(
        "\n".join(sorted(block, key=lambda line: (line[0] == "f", line))) for block in blocks if block
    )
    gap = "\n\n\n" if first.startswith(("def ", "class ", "@")) else "\n\n"
    return f"{imports}{gap}" + "\n".join(body)
