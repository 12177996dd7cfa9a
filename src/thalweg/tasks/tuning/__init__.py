"""Tuning of a task's own numbers: their declarations, and the task at values of them."""

from thalweg.tasks.tuning.task_numbers import OWN_NUMBERS, code_of_tunables, task_at, tunables_of_task

__all__ = ["OWN_NUMBERS", "code_of_tunables", "task_at", "tunables_of_task"]
