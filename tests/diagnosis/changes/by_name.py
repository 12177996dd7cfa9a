"""The changes that a diagnosis may try, by their names."""

from thalweg.diagnosis.changes import CHANGES

BY_NAME = {change.name: change for change in CHANGES}
