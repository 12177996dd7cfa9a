"""Heads: the matrices that end a model, found by the layers that can take their outputs.

A matrix is a head if no other matrix and no norm takes its number of outputs, whatever its name is: class scores,
words, values, boxes. A matrix is no head if a norm follows it or a later matrix takes its outputs. If only earlier
layers take its number of outputs, names decide, and then the user.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from thalweg.optim.routing.role import Conclusion
from thalweg.optim.routing.wrapped_modules import class_name, parameter_names, unwrap

# Names of heads wherever they are, and names that decide if the evidence is even.
HEAD_NAMES = re.compile(r"(?!multi_?head)(\w+_)?head(_\w+)?|classifiers?|qa_outputs|unembed(ding)?")
_POSSIBLE_HEAD_NAMES = re.compile(
    r"heads|fc(_out)?|cls|logits|score|(out|output)(s|_layer|_proj)?|proj_out|readout|predictions?|final"
)
_TOWER_ENDS = re.compile(r"\w+_proj(ection)?")  # one for images, one for texts: ends of two towers
_TRANSPARENT_MODULE = "module"  # of modules that run another one and that `wrapped_modules` does not know


@dataclass(frozen=True)
class Layer:
    """A matrix or a norm.

    Attributes:
        name: The name of its parameter in the model.
        path: The path of its module in the model.
        num_outputs: The number of outputs.
        num_inputs: The number of inputs.
        is_norm: True for a norm.
        is_matrix: True for a matrix.
        is_convolution: True for a convolution.
        may_be_head: True if the other evidence leaves open that it is a head.
    """

    name: str
    path: str
    num_outputs: int
    num_inputs: int
    is_norm: bool
    is_matrix: bool
    is_convolution: bool
    may_be_head: bool

    @property
    def words(self) -> list[str]:
        """The names in the path of its module."""
        return [word for word in self.path.split(".") if word != _TRANSPARENT_MODULE]

    @property
    def branch(self) -> str:
        """The part of the model that it is in; empty for a layer that is a part by itself."""
        return self.words[0] if len(self.words) > 1 else ""

    @property
    def parent(self) -> str:
        """The path of the module that holds its module."""
        return ".".join(self.words[:-1])

    @property
    def family(self) -> str:
        """The name without the numbers that tell repeated blocks apart."""
        return re.sub(r"\d+", "#", self.name)

    def takes(self, layer: "Layer") -> bool:
        """Return True if it can take the outputs of a layer. A Linear may take those of a convolution, flattened."""
        if layer.is_convolution and not self.is_convolution:
            return self.num_inputs % layer.num_outputs == 0 and layer.num_outputs > 1
        return self.num_inputs == layer.num_outputs


def last_layers(model: nn.Module, layers: Sequence[Layer], *, headless: bool) -> dict[str, Conclusion]:
    """Return the conclusion about each matrix that is a head or may be one.

    Args:
        model: The model.
        layers: The matrices and norms of the model, in the order of registration.
        headless: True if the model has no last layer.

    Returns:
        By name of the parameter the role ``"head"``, or None if it is ambiguous, and the reason.
    """
    evidence = _Evidence(unwrap(model), layers, headless=headless)
    conclusions = {layer.name: evidence.conclude(layer) for layer in layers if layer.is_matrix and layer.may_be_head}
    return {name: conclusion for name, conclusion in conclusions.items() if conclusion is not None}


class _Evidence:
    """The evidence in one model that a matrix is a head."""

    def __init__(self, model: nn.Module, layers: Sequence[Layer], *, headless: bool) -> None:
        self._layers = layers
        self._output_embeddings = _output_embeddings(model)
        self._end_of_sequence = set(_end_of_sequence(model))
        self._headless = headless or (_is_base_model(model) and not self._output_embeddings)
        self._is_only_matrix = sum(layer.is_matrix for layer in layers) == 1
        self._num_alike = Counter(map(_repetition, layers))

    def conclude(self, layer: Layer) -> Conclusion | None:
        """Return the conclusion about a matrix, or None if it is no head."""
        if reason := self._certain_reason(layer):
            return "head", reason
        if self._is_followed(layer):
            return None
        if name := _first_match(HEAD_NAMES, layer):
            return "head", f"called {name}"
        if not self._has_possible_taker(layer):
            return "head", f"nothing takes its {layer.num_outputs} outputs"
        if self._headless or self._num_alike[_repetition(layer)] > 1:
            return None
        if name := _first_match(_POSSIBLE_HEAD_NAMES, layer):
            return "head", f"called {name}"
        return None, f"'head' if it is a last layer: no later one takes its {layer.num_outputs} outputs"

    def _certain_reason(self, layer: Layer) -> str | None:
        """Return evidence that needs no look at other layers."""
        if layer.name in self._output_embeddings:
            return "the model calls it its output embeddings"
        if self._is_only_matrix and not self._headless:
            return "the only matrix"
        return "the last of a Sequential" if layer.name in self._end_of_sequence else None

    def _is_followed(self, layer: Layer) -> bool:
        """Return True if another layer takes its outputs: a norm comes next, or a later matrix fits."""
        later = self._layers[self._layers.index(layer) + 1 :]
        if later and _normalizes(later[0], layer):
            return True
        matrices = [candidate for candidate in later if candidate.is_matrix]
        in_block = any(word.isdigit() for word in layer.words[:-1])
        # Others of its block come after it. Keys with fewer heads than queries have outputs that no matrix takes.
        if in_block and any(candidate.parent == layer.parent for candidate in matrices):
            return True
        # Blocks like its own come after it.
        if self._has_possible_taker(layer) and any(candidate.family == layer.family for candidate in matrices):
            return True
        if not layer.branch and layer.words and _TOWER_ENDS.fullmatch(layer.words[-1]):
            return False
        takers = [candidate for candidate in matrices if candidate.takes(layer)]
        if any(taker.branch in (layer.branch, "") or not layer.branch for taker in takers):
            return True
        # From one part of the model to another: a part ends before a head, or in convolutions, which are flattened.
        return any(taker.is_convolution or layer.is_convolution or not self._has_taker(taker) for taker in takers)

    def _has_taker(self, layer: Layer) -> bool:
        return self._any_other(layer, lambda candidate: candidate.is_matrix and candidate.takes(layer))

    def _has_possible_taker(self, layer: Layer) -> bool:
        """Return True if a layer before or after it, or itself, could take its outputs."""
        return (
            layer.num_inputs == layer.num_outputs
            or self._has_taker(layer)
            or self._any_other(
                layer, lambda candidate: candidate.is_norm and candidate.num_outputs == layer.num_outputs
            )
        )

    def _any_other(self, layer: Layer, condition: Callable[[Layer], bool]) -> bool:
        return any(condition(candidate) for candidate in self._layers if candidate is not layer)


def _repetition(layer: Layer) -> tuple[str, int, int]:
    """Return what a layer has in common with its repetitions in other blocks."""
    return layer.family, layer.num_outputs, layer.num_inputs


def _first_match(pattern: re.Pattern[str], layer: Layer) -> str | None:
    return next((word for word in layer.words if pattern.fullmatch(word)), None)


def _normalizes(norm: Layer, layer: Layer) -> bool:
    return norm.is_norm and norm.num_outputs == layer.num_outputs and norm.parent.startswith(layer.parent)


def _output_embeddings(model: nn.Module) -> set[str]:
    """Return the parameters of the module that models of transformers call their output embeddings."""
    try:
        last = model.get_output_embeddings()  # type: ignore[operator]  # a method of transformers' models
    except Exception:  # other models have no such method; some of transformers' raise
        return set()
    names = parameter_names(model)
    return {names[id(param)] for param in last.parameters()} if isinstance(last, nn.Module) else set()


def _is_base_model(model: nn.Module) -> bool:
    """Return True for a model of transformers without a last layer, as its class name shows."""
    kind = class_name(model)
    return getattr(model, "base_model", None) is model and not re.search(r"For[A-Z]|LMHead|With[A-Z]", kind)


def _end_of_sequence(model: nn.Module) -> Iterator[str]:
    """Yield the parameters of the last layer of a model that is a Sequential to its end."""
    module, path = model, ""
    while True:
        children = [(name, child) for name, child in module.named_children() if any(True for _ in child.parameters())]
        is_only_child = len(children) == 1 and not module._parameters
        if not children or not (isinstance(module, nn.Sequential) or is_only_child):
            break
        name, child = children[-1]
        path, module = f"{path}.{name}".removeprefix("."), unwrap(child)
    if path and not list(module.children()):
        yield from (f"{path}.{name}" for name in module._parameters)
