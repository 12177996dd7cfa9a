"""Routing: each parameter of a model to the rule that suits it."""

from thalweg.optim.routing.roles import Role, roles_of
from thalweg.optim.routing.routing import UNCHANGED, Assigned, Routing, RoutingPlan, Treatment, route

__all__ = ["UNCHANGED", "Assigned", "Role", "Routing", "RoutingPlan", "Treatment", "roles_of", "route"]
