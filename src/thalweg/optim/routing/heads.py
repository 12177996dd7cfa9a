"""Last layers: which matrices end a model, told from who takes their outputs.

A matrix whose number of outputs no other matrix and no norm takes is a last layer, whatever it is called: class scores,
words, values, boxes. One that a norm follows, or whose outputs a later matrix takes, is none. Between the two, where
only earlier matrices take as many, names are asked, then the user.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

# Names that say so wherever they are, and those that break a tie.
HEADS = re.compile(r"(?!multi_?head)(\w+_)?head(_\w+)?|classifiers?|qa_outputs|unembed(ding)?")
_PERHAPS = re.compile(
    r"heads|fc(_out)?|cls|logits|score|(out|output)(s|_layer|_proj)?|proj_out|readout|predictions?|final"
)
_PARALLEL = re.compile(r"\w+_proj(ection)?")  # one for images, one for texts: ends of two towers
_WRAPPERS = ("module", "_orig_mod")

Found = dict[str, tuple[Literal["head", "hidden matrix"] | None, str]]


@dataclass(frozen=True)
class Layer:
    """A matrix or a norm, by the name of its parameter, in the order of registration; `asked` if it may be a head."""

    name: str
    path: str  # of its module
    out: int
    into: int
    is_norm: bool
    is_matrix: bool
    is_convolution: bool
    asked: bool

    @property
    def words(self) -> list[str]:
        """The path of its module."""
        return [word for word in self.path.split(".") if word not in _WRAPPERS]

    @property
    def branch(self) -> str:
        """The part of the model it is in; nothing for a layer that is one by itself."""
        return self.words[0] if len(self.words) > 1 else ""

    @property
    def home(self) -> str:
        """The module that holds its module."""
        return ".".join(self.words[:-1])

    @property
    def family(self) -> str:
        """What it has in common with those of the other blocks."""
        return re.sub(r"\d+", "#", self.name)


def last_layers(model: nn.Module, layers: Sequence[Layer], *, headless: bool) -> Found:
    """For each matrix that is a head, or may be one: its role (None if it must be asked for), and why."""
    matrices = [one for one in layers if one.is_matrix]
    declared = _declared(model)
    sequence = set(_end_of_sequence(model))
    counted = Counter((one.family, one.out, one.into) for one in layers)
    headless = headless or (_is_base(model) and not declared)
    found: Found = {}
    for one in matrices:
        if not one.asked:
            continue
        if one.name in declared:
            found[one.name] = "head", "the model calls it its output embeddings"
        elif len(matrices) == 1 and not headless:
            found[one.name] = "head", "the only matrix"
        elif one.name in sequence:
            found[one.name] = "head", "the last of a Sequential"
        elif _is_taken(one, layers):
            continue
        elif any(HEADS.fullmatch(word) for word in one.words):
            found[one.name] = "head", f"called {next(word for word in one.words if HEADS.fullmatch(word))}"
        elif not _takes_as_many(one, layers):
            found[one.name] = "head", f"nothing takes its {one.out} outputs"
        elif headless or counted[one.family, one.out, one.into] > 1:
            continue
        elif any(_PERHAPS.fullmatch(word) for word in one.words):
            found[one.name] = "head", f"called {next(word for word in one.words if _PERHAPS.fullmatch(word))}"
        else:
            found[one.name] = None, f"'head' if it is a last layer: no later one takes its {one.out} outputs"
    return found


def _is_taken(one: Layer, layers: Sequence[Layer]) -> bool:
    """Whether its outputs go on: a norm comes next, or a later matrix takes them."""
    later = layers[layers.index(one) + 1 :]
    if later and later[0].is_norm and later[0].out == one.out and later[0].home.startswith(one.home):
        return True
    matrices = [other for other in later if other.is_matrix]
    in_block = any(word.isdigit() for word in one.words[:-1])
    if in_block and any(other.home == one.home for other in matrices):
        return True  # with others after it, as keys are that have fewer heads than queries
    if _takes_as_many(one, layers) and any(other.family == one.family for other in matrices):
        return True  # in a block that others like it follow
    if not one.branch and one.words and _PARALLEL.fullmatch(one.words[-1]):
        return False
    takers = [other for other in matrices if _takes(other, one)]
    if any(other.branch in (one.branch, "") or not one.branch for other in takers):
        return True
    # From one part of the model to another: a part ends before a head, or in convolutions, which are made flat.
    return any(other.is_convolution or one.is_convolution or not _goes_on(other, layers) for other in takers)


def _goes_on(one: Layer, layers: Sequence[Layer]) -> bool:
    return any(other.is_matrix and _takes(other, one) for other in layers if other is not one)


def _takes(other: Layer, one: Layer) -> bool:
    """Whether the one may be fed to the other. What was a picture may have been made flat before a Linear."""
    if one.is_convolution and not other.is_convolution:
        return other.into % one.out == 0 and one.out > 1
    return other.into == one.out


def _takes_as_many(one: Layer, layers: Sequence[Layer]) -> bool:
    return (
        any(
            (other.is_norm and other.out == one.out) or (other.is_matrix and _takes(other, one))
            for other in layers
            if other is not one
        )
        or one.into == one.out
    )


def _declared(model: nn.Module) -> set[str]:
    """The parameters of what transformers' models call their output embeddings."""
    try:
        last = model.get_output_embeddings()  # type: ignore[operator]
    except Exception:  # others have no such method, or none that is made
        return set()
    names = {id(param): name for name, param in model.named_parameters()}
    return {names[id(param)] for param in last.parameters()} if isinstance(last, nn.Module) else set()


def _is_base(model: nn.Module) -> bool:
    """Whether it is one of transformers' models without a last layer, which say so by their name."""
    kind = type(model).__name__
    return getattr(model, "base_model", None) is model and not re.search(r"For[A-Z]|LMHead|With[A-Z]", kind)


def _end_of_sequence(model: nn.Module) -> Iterator[str]:
    """The weights of the last layer of a model that is a Sequential to the end."""
    module, path = model, ""
    while True:
        named = [(name, child) for name, child in module.named_children() if any(True for _ in child.parameters())]
        alone = len(named) == 1 and not module._parameters
        if not named or not (isinstance(module, nn.Sequential) or alone):
            break
        name, module = named[-1]
        path = f"{path}.{name}".removeprefix(".")
    if path and not list(module.children()):
        yield from (f"{path}.{name}" for name in module._parameters)
