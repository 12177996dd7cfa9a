"""Pictures of optimizers: their paths over contours, as a figure, a file, an animation or a page."""

from thalweg.report.pictures.figure import Picture, draw_picture
from thalweg.report.pictures.one_rule import rule_picture

__all__ = ["Picture", "draw_picture", "rule_picture"]
