from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes.virtual import World
from runs import SMALL, run

from cr2fast_profiler.analysis import analyse
from cr2fast_profiler.errors import TableError
from cr2fast_profiler.report.table import SCHEMA, cost_table, model_entry, write_table

LINK = {"kind": "empirical", "samples": [{"rate_ul_bps": 1e7, "rate_dl_bps": 4e7, "rtt_s": 0.02}]}
POWERS = {"p_tx_w": 1.2, "p_rx_w": 0.9, "p_idle_w": 0.05}


@pytest.fixture(scope="module")
def entry(tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("run")
    run(World(noise=0.01), folder, grid=SMALL, most_rounds=3)
    return model_entry(analyse(folder), "device", "small")


def make(entry, **changes):
    edge = entry | {"name": "large", "tier": "edge", "beta_dec_s": 2 * entry["beta_dec_s"]}
    given = {"name": "t", "device": entry, "edge": [edge], "link": LINK, "link_measured": True}
    return cost_table(**(given | {"ue": POWERS, "energy_weight": 0.0} | changes))


def test_a_table_of_latency_alone(entry, tmp_path: Path) -> None:
    table = make(entry, ue=dict.fromkeys(POWERS))
    assert table["schema"] == SCHEMA
    assert table["source"] == "measured"
    assert table["weights"] == {"latency": 1.0, "energy": 0.0}
    assert table["reference_model"] == "large"
    model = table["models"][0]
    assert model["p_active_w"] is None
    assert model["provenance"]["energy_reason"] == "no meter was asked for"
    assert model["intervals"]["beta_pre_s"][0] < model["beta_pre_s"]
    assert model["kappa_pre"] is None
    write_table(tmp_path / "cost_table.json", table)
    assert json.loads((tmp_path / "cost_table.json").read_text()) == table


def test_what_was_not_measured_is_called_estimated(entry) -> None:
    powered = entry | {"p_active_w": 10.0}
    table = make(powered, energy_weight=None)
    assert table["weights"] == {"latency": 0.5, "energy": 0.5}
    assert table["source"] == "estimated"
    assert table["provenance"]["estimated"] == ["ue.p_tx_w", "ue.p_rx_w", "ue.p_idle_w"]
    guessed = make(entry, link_measured=False, ue=dict.fromkeys(POWERS))
    assert guessed["provenance"]["estimated"] == ["link"]
    assert guessed["source"] == "estimated"
    # Listed though the costs do not use it: the table is measured where it counts.
    datasheet = {"power_is": "datasheet watts", "unloaded_idle": {"estimated": True}}
    watts = entry | {"p_active_w": 7.0, "provenance": entry["provenance"] | datasheet}
    table = make(watts, ue=dict.fromkeys(POWERS), edge=[watts | {"name": "large"}])
    assert table["source"] == "measured"
    assert table["provenance"]["estimated"] == [
        "small.p_active_w",
        "large.p_active_w",
        "small.p_idle_unloaded_w",
        "large.p_idle_unloaded_w",
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"energy_weight": None},
            r"small\.p_active_w, large\.p_active_w not known.*--energy-weight 0",
        ),
        ({"energy_weight": 0.3}, "energy weight 0.3, but"),
        ({"energy_weight": 1.5}, "from 0 to 1"),
        ({"edge": []}, "give --edge RUN"),
        ({"reference_model": "gpt"}, r"'gpt' is none of \['small', 'large'\]"),
    ],
)
def test_tables_that_cannot_be(entry, changes, words) -> None:
    with pytest.raises(TableError, match=words):
        make(entry, **changes)
    with pytest.raises(TableError, match="RUN=NAME"):
        make(entry, edge=[entry])


def test_a_models_name_does_not_decide_the_source(entry) -> None:
    datasheet = entry["provenance"] | {"power_is": "datasheet watts"}
    watts = entry | {"name": "unloaded", "p_active_w": 7.0, "provenance": datasheet}
    measured = dict.fromkeys(POWERS, 0.0)
    table = make(watts, edge=[entry | {"p_active_w": 9.0}], ue=measured, energy_weight=0.5)
    assert "unloaded.p_active_w" in table["provenance"]["estimated"]
    assert table["source"] == "estimated"
