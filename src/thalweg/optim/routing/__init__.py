"""Routing: each parameter of a model follows the rule that suits it."""

from thalweg.optim.routing.assignment import UNCHANGED, Assignment, Treatment
from thalweg.optim.routing.role import Role
from thalweg.optim.routing.roles import ParameterRole, roles_of
from thalweg.optim.routing.routing import Routing, RoutingPlan, route

__all__ = [
    "UNCHANGED",
    "Assignment",
    "ParameterRole",
    "Role",
    "Routing",
    "RoutingPlan",
    "Treatment",
    "roles_of",
    "route",
]
