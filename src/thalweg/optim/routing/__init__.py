"""Routing: each parameter of a model to the rule that suits it."""

from thalweg.optim.routing.roles import Role, roles_of
from thalweg.optim.routing.routing import Assigned, Routing, route

__all__ = ["Assigned", "Role", "Routing", "roles_of", "route"]
