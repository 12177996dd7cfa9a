"""Routing: each parameter of a model to the rule that suits it."""

from thalweg.optim.routing.roles import Role, roles_of
from thalweg.optim.routing.routing import ALIKE, Assigned, Routing, Treatment, route

__all__ = ["ALIKE", "Assigned", "Role", "Routing", "Treatment", "roles_of", "route"]
