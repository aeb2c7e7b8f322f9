"""Data to route: a synthetic problem, folders of real outcomes, published answers."""

from cr2fast.data.datasets import (
    RoutingProblem,
    estimated_costs,
    load_folder,
    make_routing_problem,
    model_names,
    synthetic_costs,
)
from cr2fast.data.mmlu_pro import fetch_mmlu_pro

__all__ = [
    "RoutingProblem",
    "estimated_costs",
    "fetch_mmlu_pro",
    "load_folder",
    "make_routing_problem",
    "model_names",
    "synthetic_costs",
]
