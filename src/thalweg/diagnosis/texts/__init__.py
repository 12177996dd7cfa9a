"""Texts about each kind of cause: the harm that it does, the remedy, and the source."""

from thalweg.diagnosis.texts.data import DATA
from thalweg.diagnosis.texts.learning import LEARNING
from thalweg.diagnosis.texts.program import PROGRAM
from thalweg.diagnosis.texts.text import Text

__all__ = ["TEXTS", "Text"]

TEXTS: dict[str, Text] = PROGRAM | LEARNING | DATA
