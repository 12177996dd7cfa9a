"""Routing: each parameter of a model to the rule that suits it."""

from thalweg.optim.routing.roles import Role, roles_of
from thalweg.optim.routing.routing import UNCHANGED, Assigned, Routing, Treatment, route

__all__ = ["UNCHANGED", "Assigned", "Role", "Routing", "Treatment", "roles_of", "route"]
