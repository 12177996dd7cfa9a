"""Characters of Python's help texts, with a small transformer.

The text consists of passages of ``pydoc_data.topics``, which comes with Python. These passages are the same, letter by
letter, in Python 3.11.2, 3.11.7, 3.12.1, 3.13.0 and 3.14.7, while the chapters around them changed. A hash pins the
text, so that the task is the same on every machine. A Python with another wording raises TaskError.
"""

import hashlib
import math
import platform

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.errors import TaskError
from thalweg.tasks.data import Batch
from thalweg.tasks.supervised import supervised
from thalweg.tasks.task import Task

# For each passage: its topic, its first words, and its length in characters.
_PASSAGES = (
    ("comparisons", "Comparisons yield boolean", 7401),
    ("calls", "An optional trailing comma", 5640),
    ("specialnames", "The appropriate metaclass for a class", 5253),
    ("specialnames", "Return true if *subclass* should", 5967),
    ("execmodel", "**CPython implementation detail:** Users", 3429),
    ("customization", "Called to create a new instance", 2804),
    ("typesseq", "The arguments to the range", 3157),
    ("assignment", "Assignment of an object to a target list", 2827),
    ("attribute-access", "In general, a descriptor", 2737),
)
_SHA256 = "6d543f08b0a460819f3781a555536b36b0231507992a5ee83ad59ed9647eeeaa"
_CONTEXT = 32  # characters that the model sees
_CODES = 128  # of ASCII


def pinned_text() -> str:
    """Return the passages as one text. Raises TaskError if the help of this Python has another wording."""
    from pydoc_data.topics import topics

    passages = []
    for topic, beginning, length in _PASSAGES:
        chapter = topics.get(topic, "")
        start = chapter.find(beginning)  # a missing passage changes the text, and the hash detects it
        passages.append(chapter[start : start + length])
    text = "\n\n".join(passages)
    if hashlib.sha256(text.encode()).hexdigest() != _SHA256:
        raise TaskError(
            "characters: Python's help texts must be those of Python 3.11 to 3.14, got another wording in Python "
            f"{platform.python_version()}. Run this task on one of those."
        )
    return text


def _windows() -> Batch:
    """Return inputs and targets, a row of codes for each window. The target of a character is the next character."""
    codes = torch.tensor(list(pinned_text().encode("ascii", "replace")))
    return codes[:-1].unfold(0, _CONTEXT, _CONTEXT).clone(), codes[1:].unfold(0, _CONTEXT, _CONTEXT).clone()


class Block(nn.Module):
    """Causal attention and a perceptron, each on normalized inputs and with a residual connection, as in GPT-2."""

    future: Tensor

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.gathered = nn.Linear(width, width)
        self.before_perceptron = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.register_buffer("future", torch.ones(_CONTEXT, _CONTEXT, dtype=torch.bool).triu(1))

    def forward(self, x: Tensor) -> Tensor:  # (windows, characters, width)
        x = x + self.attention(self.before_attention(x))
        return x + self.perceptron(self.before_perceptron(x))

    def attention(self, x: Tensor) -> Tensor:
        """Return for each character a mixture of the values of the characters up to it."""
        # Written out, because torch's fused attention cannot train a population under vmap.
        split = self.queries_keys_values(x).unflatten(-1, (3, self.heads, -1))
        queries, keys, values = split.permute(2, 0, 3, 1, 4)  # each (windows, heads, characters, width / heads)
        scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
        shares = scores.masked_fill(self.future, -math.inf).softmax(-1)
        return self.gathered((shares @ values).transpose(1, 2).flatten(-2))


class CharacterModel(nn.Module):
    """Predicts scores for the next character, at each character of a window."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(_CODES, width)
        self.positions = nn.Embedding(_CONTEXT, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.normalized = nn.LayerNorm(width)
        self.scores = nn.Linear(width, _CODES)
        for embedding in (self.characters, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)  # as in GPT-2

    def forward(self, codes: Tensor) -> Tensor:  # (windows, characters) -> (windows, characters, codes)
        return self.scores(self.normalized(self.blocks(self.characters(codes) + self.positions.weight)))


def _next_character(scores: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(scores.flatten(0, 1), targets.flatten())


def characters() -> Task:
    """Predict the next character of Python's help texts: a transformer with two layers of width 48."""
    return Task(
        name="characters",
        about="the next of 39,000 characters of Python's help texts, a transformer with two layers",
        model=lambda: CharacterModel(width=48, heads=3, layers=2),
        loss=supervised(_next_character),
        data=_windows,
        metric_name="cross-entropy",
        batch_size=16,
        passes=8,
    )
