"""cr2fast: route each LLM query to the device or the edge, at a cost weight and a risk you choose.

A *margin gate* on the device accepts a query for the local model or defers it; a *utility selector*
at the edge gives each deferred query to the model with the best ``p - lam * c``; *conformal risk
control* chooses the gate's threshold so that, on average over calibration sets and at a ``lam``
fixed in advance, at most a fraction ``alpha`` of queries is wrongly kept local. After CR2, arXiv
2605.12001.

Routing needs only numpy. ``RoutingTable``, ``evaluate`` and the report need the extra ``lab``
(polars, matplotlib, tqdm), which is imported when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cr2fast._core import (
    ArtifactError,
    BudgetError,
    CellCounts,
    Choice,
    Choices,
    CostTable,
    CostTableError,
    Cr2Error,
    Decision,
    DeviceRouter,
    EdgeSelector,
    InfeasibleAlphaError,
    LinkState,
    LinkStates,
    MarginCounts,
    OperatingPointError,
    RiskAlarm,
    RollingThreshold,
    Selection,
    Selections,
    SplitOverlapError,
    StateError,
    StaticEncoder,
    TwoStage,
    __version__,
    crc_thresholds,
    empirical_risk,
    text_features,
)
from cr2fast._util import renamed

if TYPE_CHECKING:
    from cr2fast._util.versions import show_versions
    from cr2fast.calibration import CalibrationReport, default_lams
    from cr2fast.calibration.point import OperatingPoint
    from cr2fast.data.queries import QueryTable
    from cr2fast.data.table import RoutingTable
    from cr2fast.encoders.endpoint import EndpointEncoder
    from cr2fast.encoders.info import EncoderInfo
    from cr2fast.encoders.onnx import Encoder
    from cr2fast.evaluation import Evaluation, InfeasibleWishError, evaluate
    from cr2fast.fitting import FitOptions, fit
    from cr2fast.router import Router

# Name -> module. Loaded on first use, so that a device loads only numpy.
_LAZY = {
    "CalibrationReport": "calibration",
    "Encoder": "encoders.onnx",
    "EncoderInfo": "encoders.info",
    "EndpointEncoder": "encoders.endpoint",
    "Evaluation": "evaluation",
    "FitOptions": "fitting",
    "QueryTable": "data.queries",
    "Router": "router",
    "RoutingTable": "data.table",
    "InfeasibleWishError": "evaluation",
    "OperatingPoint": "calibration.point",
    "default_lams": "calibration",
    "evaluate": "evaluation",
    "fit": "fitting",
    "show_versions": "_util.versions",
}
# The flat modules of before, by where they are now.
renamed.modules(
    "cr2fast",
    drift="calibration.drift",
    encoder="encoders.info",
    intervals="evaluation.intervals",
    messages="encoders.messages",
    mmlu_pro="data.mmlu_pro",
    report="evaluation.report",
    table="data.table",
    text_encoder="encoders.onnx",
)
# Submodules that are used by attribute, as ``cr2fast.datasets.make_routing_problem``.
_MODULES = ("calibration", "data", "datasets", "distill", "encoders", "evaluation", "traffic")

__all__ = [
    "ArtifactError",
    "BudgetError",
    "CalibrationReport",
    "CellCounts",
    "Choice",
    "Choices",
    "CostTable",
    "CostTableError",
    "Cr2Error",
    "Decision",
    "DeviceRouter",
    "EdgeSelector",
    "Encoder",
    "EncoderInfo",
    "EndpointEncoder",
    "Evaluation",
    "FitOptions",
    "InfeasibleAlphaError",
    "InfeasibleWishError",
    "LinkState",
    "LinkStates",
    "MarginCounts",
    "OperatingPoint",
    "OperatingPointError",
    "QueryTable",
    "RiskAlarm",
    "RollingThreshold",
    "Router",
    "RoutingTable",
    "Selection",
    "Selections",
    "SplitOverlapError",
    "StateError",
    "StaticEncoder",
    "TwoStage",
    "__version__",
    "crc_thresholds",
    "default_lams",
    "empirical_risk",
    "evaluate",
    "fit",
    "show_versions",
    "text_features",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name in _MODULES:
        return importlib.import_module(f"cr2fast.{name}")
    if name in _LAZY:
        value = getattr(importlib.import_module(f"cr2fast.{_LAZY[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'cr2fast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__) | set(_MODULES))
