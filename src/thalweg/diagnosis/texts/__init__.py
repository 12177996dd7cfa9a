"""What a diagnosis says about each kind of cause: why it harms, what to do, where it is described."""

from thalweg.diagnosis.texts.data import DATA
from thalweg.diagnosis.texts.learning import LEARNING
from thalweg.diagnosis.texts.program import PROGRAM
from thalweg.diagnosis.texts.text import Text

__all__ = ["TEXTS", "Text"]

TEXTS: dict[str, Text] = PROGRAM | LEARNING | DATA
