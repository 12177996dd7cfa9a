"""Pictures of optimizers: their paths over contours, as a figure, a file, an animation or a page."""

from thalweg.report.pictures.figure import Picture, draw_picture
from thalweg.report.pictures.files import SUFFIXES, check_target, write_image
from thalweg.report.pictures.one_rule import rule_picture
from thalweg.report.pictures.page import render_picture, write_picture_page

__all__ = [
    "SUFFIXES",
    "Picture",
    "check_target",
    "draw_picture",
    "render_picture",
    "rule_picture",
    "write_image",
    "write_picture_page",
]
