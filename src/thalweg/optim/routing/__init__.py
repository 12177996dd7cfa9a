"""Routing: each parameter of a model follows the rule that suits it."""

from thalweg.optim.routing.assignment import NO_OVERRIDES, Assignment, GroupOverrides
from thalweg.optim.routing.role import Role
from thalweg.optim.routing.roles import ParameterRole, roles_of
from thalweg.optim.routing.routing import Routing, RoutingPlan, route

__all__ = [
    "NO_OVERRIDES",
    "Assignment",
    "GroupOverrides",
    "ParameterRole",
    "Role",
    "Routing",
    "RoutingPlan",
    "roles_of",
    "route",
]
