"""Placement: filters, spread and an explanation for every refusal."""

from skep.core.schedule.checks import check_spec
from skep.core.schedule.demand import demand_of, demand_of_spec
from skep.core.schedule.explain import Explanation, explain
from skep.core.schedule.inventory import Inventory
from skep.core.schedule.reconcile import reconcile

__all__ = ["Explanation", "Inventory", "check_spec", "demand_of", "demand_of_spec", "explain", "reconcile"]
