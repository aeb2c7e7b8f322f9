"""Traffic in service: read the decision log, label it, ask what else would have happened.

In: the gateway's decision logs. Out: polars frames, labels by the teacher, replays of other points
and routers, recalibrated routers. It needs the extra ``lab``.
"""

from cr2fast.traffic.batches import RouteBatches
from cr2fast.traffic.found import ClockStep, Found, Gap
from cr2fast.traffic.label import label
from cr2fast.traffic.log import DecisionLog, LogWarning, open_log, read_log
from cr2fast.traffic.looks import Look
from cr2fast.traffic.recalibrate import Held, Recalibration, recalibrate
from cr2fast.traffic.replay import replay, replays
from cr2fast.traffic.replayed import Figures, Measured, Replay
from cr2fast.traffic.shards import Shards, route_shards
from cr2fast.traffic.watch import Watch

__all__ = [
    "ClockStep",
    "DecisionLog",
    "Figures",
    "Found",
    "Gap",
    "Held",
    "LogWarning",
    "Look",
    "Measured",
    "Recalibration",
    "Replay",
    "RouteBatches",
    "Shards",
    "Watch",
    "label",
    "open_log",
    "read_log",
    "recalibrate",
    "replay",
    "replays",
    "route_shards",
]
