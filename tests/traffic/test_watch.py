"""The watch over a promise, which asks for a recalibration: on a clock of the tests' own."""

from __future__ import annotations

import json
import pickle
from datetime import datetime, timedelta

import numpy as np
import pytest

import cr2fast
from cr2fast import Cr2Error, OperatingPointError
from cr2fast.traffic import Watch, label
from testing import traffic
from testing.traffic import served

LAM, ALPHA = 1.0, 0.05
DAY = 86_400


def at(seconds):
    return traffic.START + timedelta(seconds=seconds)


@pytest.fixture
def serving(world, tmp_path):
    """A copy of the router's file that a watch may replace."""
    path = tmp_path / "router.safetensors"
    path.write_bytes(world[0].read_bytes())
    return path


def watch(folder, serving, **options):
    options = {"min_queries": 1000, "window_s": 2 * DAY} | options
    points = options.pop("points", [(LAM, ALPHA)])
    return Watch(folder / "d.jsonl", serving, folder / "state.json", points, **options)


def test_traffic_that_keeps_the_promise_changes_nothing(world, serving, tmp_path):
    _, later, still, _ = world
    rows = served(serving, later, still)
    w, before = watch(tmp_path, serving), serving.read_bytes()
    for n in (1000, 2000, 3000):
        traffic.write(tmp_path / "d.jsonl", rows[:n])
        look = w.look(at(n * 10))
        assert look.verdict == "kept"
        (point,) = look.points
        # Each request is counted once, however often it is seen.
        assert (point.new, point.n) == (1000, n)
        assert not point.alarmed
    assert w.look(at(30_000)).points[0].new == 0
    assert serving.read_bytes() == before


def test_a_broken_promise_brings_a_new_router_that_keeps_it(world, serving, tmp_path):
    _, later, _, moved = world
    traffic.write(tmp_path / "d.jsonl", served(serving, later, moved))
    told = []
    look = watch(tmp_path, serving, reload=told.append).look(at(30_000))
    assert look.verdict == "written", look
    assert told == [serving]
    assert look.points[0].alarmed
    new = cr2fast.Router.load(serving)
    assert new.to_bytes() == look.recalibration.router.to_bytes()
    # Under the new threshold the same mix keeps the promise, and the alarm is a new one.
    more = served(serving, later, np.roll(moved, 1), start_s=30_000, prefix="b")
    with (tmp_path / "d.jsonl").open("a") as file:
        file.writelines(json.dumps(r) + "\n" for r in more)
    look = watch(tmp_path, serving).look(at(60_000))
    assert look.verdict == "kept", look
    assert (look.points[0].new, look.points[0].n) == (3000, 3000)


def test_requests_that_an_earlier_router_decided_are_not_held_against_this_one(
    world, serving, tmp_path
):
    _, later, still, moved = world
    rows = served(serving, later, moved)
    router = cr2fast.Router.load(serving)
    router.calibrate(later.take(still), alphas=(0.05, 0.1), lams=[0.3, LAM, 3.0])
    router.save(serving)
    traffic.write(tmp_path / "d.jsonl", rows)
    look = watch(tmp_path, serving).look(at(30_000))
    assert (look.verdict, look.points[0].n) == ("kept", 0)
    assert look.points[0].others == 3000
    assert "Not counted: 3000 new requests at this point that another threshold" in str(look)


def test_a_rolling_threshold_counts_as_it_served(world, serving, tmp_path):
    _, later, still, _ = world
    rows = served(serving, later, still)
    router = cr2fast.Router.load(serving)
    for i, row in enumerate(rows):
        # It moves: ever lower, so that ever more is kept local; then the gateway's alarm defers all.
        row["threshold"] = float(np.float32(row["threshold"] - 0.001 * i))
        local = row["margin"] >= row["threshold"]
        if i >= 2500:
            row["threshold"], local = "inf", False
        row["place"], row["why"] = ("device", "accepted") if local else ("edge", "deferred")
        row["model"] = router.models[0 if local else 1]
    log = traffic.write(tmp_path / "d.jsonl", rows)
    point = (look := watch(tmp_path, serving).look(at(30_000))).points[0]
    assert (point.new, point.moved, point.others) == (2500, 2499, 500)
    expected = label(log, router, LAM)["false_acceptance"][:2500]
    assert point.risk == pytest.approx(expected.mean())
    assert point.alarmed
    assert "A rolling threshold served 2499 of the new ones. Not counted: 500" in str(look)


def damage(rows, how):
    if how == "torn":
        return [json.dumps(r)[: 50 if i % 20 == 0 else None] for i, r in enumerate(rows)]
    if how == "gap":
        rows = [r for i, r in enumerate(rows) if not 1000 <= i < 1800]
    if how == "clock":
        for r in rows[1500:]:
            r["ts"] = (
                datetime.fromisoformat(r["ts"].replace("Z", "+00:00")) - timedelta(hours=2)
            ).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if how == "no embeddings":
        for r in rows[::3]:
            r["embedding"] = None
    return [json.dumps(r) for r in rows]


@pytest.mark.parametrize(
    ("how", "options", "why"),
    [
        ("torn", {}, "lines are torn or wrong"),
        ("gap", {}, "1 gaps of more than 3600 s"),
        ("clock", {}, "The clock went back 1 times"),
        ("no embeddings", {}, "have no embedding"),
        ("whole", {"min_queries": 3001}, "min_queries is 3001"),
    ],
)
def test_an_alarm_over_doubtful_data_is_a_refusal_that_says_why(
    world, serving, tmp_path, how, options, why
):
    _, later, _, moved = world
    rows = damage(served(serving, later, moved), how)
    (tmp_path / "d.jsonl").write_text("\n".join(rows) + "\n")
    before = serving.read_bytes()
    look = watch(tmp_path, serving, **options).look(at(30_000))
    assert look.verdict == "refused"
    assert "ALARM" in look.why[0]
    assert why in str(look)
    assert serving.read_bytes() == before
    json.dumps(look.to_dict())


def test_an_alarm_whose_window_moved_is_refused_by_the_held_part(world, serving, tmp_path):
    _, later, still, moved = world
    # The alarm is raised by the last part; new thresholds come from the first, which is another mix.
    rows = served(serving, later, still[:1600]) + served(
        serving, later, moved[:1400], start_s=16_000, prefix="b"
    )
    traffic.write(tmp_path / "d.jsonl", rows)
    look = watch(tmp_path, serving, held=0.45).look(at(30_000))
    assert look.verdict == "refused"
    assert "fails on the held part" in str(look)
    assert look.recalibration is not None


def test_late_lines_are_counted_when_they_come(world, serving, tmp_path):
    _, later, still, _ = world
    rows = served(serving, later, still[:300])
    w = watch(tmp_path, serving)
    traffic.write(tmp_path / "d.jsonl", rows[:100] + rows[200:])
    assert w.look(at(3000)).points[0].new == 200
    # An accepted request's line from a device that was away for a while.
    traffic.write(tmp_path / "d.jsonl", rows)
    look = w.look(at(3000))
    assert (look.points[0].new, look.points[0].n) == (100, 300)


def test_a_state_of_another_watch_or_of_nothing_is_refused(world, serving, tmp_path):
    _, later, still, _ = world
    traffic.write(tmp_path / "d.jsonl", served(serving, later, still[:50]))
    watch(tmp_path, serving).look(at(500))
    state = tmp_path / "state.json"
    good = state.read_bytes()
    with pytest.raises(Cr2Error, match=r"state: expected a watch of .*0.1.*, got one of .*0.05"):
        watch(tmp_path, serving, points=[(LAM, 0.1)])
    with pytest.raises(Cr2Error, match="at delta 0.1, got one"):
        watch(tmp_path, serving, delta=0.1)
    state.write_text("{}")
    with pytest.raises(Cr2Error, match="got JSON without the field 'schema'; name another"):
        watch(tmp_path, serving)
    value = json.loads(good)
    value["points"][0]["alpha"] = 0.1
    forged = json.dumps(value).encode()
    other_alarm = json.loads(good)
    other_alarm["points"][0]["alarm"] = "AAAA"
    for bad in (
        b"",
        good[:-9],
        b"{}",
        b"[]",
        b"[" * 9999,
        forged,
        json.dumps(other_alarm).encode(),
    ):
        state.write_bytes(bad)
        with pytest.raises(Cr2Error, match="name another file, or remove this one"):
            watch(tmp_path, serving)
    state.write_bytes(good)
    assert watch(tmp_path, serving).look(at(500)).points[0].new == 0


def test_a_watch_on_a_schedule_goes_on_after_what_goes_wrong(world, serving, tmp_path):
    _, later, still, _ = world
    now, slept = [0.0], []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds
        if len(slept) == 2:
            traffic.write(tmp_path / "d.jsonl", served(serving, later, still[:360]))

    looks = list(watch(tmp_path, serving).run(1800, 4, clock=lambda: at(now[0]), sleep=sleep))
    assert slept == [1800, 1800, 1800]
    assert [look.verdict for look in looks] == ["refused", "refused", "kept", "kept"]
    assert "no file at" in looks[0].why[0]
    assert [look.at for look in looks] == [at(s) for s in (0, 1800, 3600, 5400)]


def test_what_is_written_is_whole_and_a_failed_reload_is_reported(
    world, serving, tmp_path, monkeypatch
):
    _, later, _, moved = world
    traffic.write(tmp_path / "d.jsonl", served(serving, later, moved))
    before = serving.read_bytes()

    def full(self, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cr2fast.Router, "save", full)
    (look,) = watch(tmp_path, serving).run(1, 1, clock=lambda: at(30_000))
    assert look.verdict == "refused"
    assert "No space left" in look.why[0]
    assert serving.read_bytes() == before
    monkeypatch.undo()

    def gone(path):
        raise ProcessLookupError(3, "No such process")

    # The alarm that could not be answered is still raised.
    look = watch(tmp_path, serving, reload=gone).look(at(30_000))
    assert look.verdict == "written"
    assert "It was not reloaded: [Errno 3]" in str(look)


def test_points_off_the_grid_and_bad_options(serving, tmp_path):
    with pytest.raises(OperatingPointError):
        watch(tmp_path, serving, points=[(0.7, 0.05)])
    for option in ("window_s", "gap_s"):
        with pytest.raises(Cr2Error, match=option):
            watch(tmp_path, serving, **{option: 0})
    with pytest.raises(Cr2Error, match="max_unread"):
        watch(tmp_path, serving, max_unread=2)
    with pytest.raises(Cr2Error, match="points"):
        watch(tmp_path, serving, points=[])
    with pytest.raises(Cr2Error, match="every_s"):
        next(watch(tmp_path, serving).run(0))


def test_two_points_have_an_alarm_each(world, serving, tmp_path):
    _, later, still, _ = world
    rows = served(serving, later, still[:200])
    for r in rows[::2]:
        r["alpha"] = 0.1
        r["threshold"] = traffic.number(cr2fast.Router.load(serving).device(LAM, 0.1).threshold)
    traffic.write(tmp_path / "d.jsonl", rows)
    look = watch(tmp_path, serving, points=[(LAM, 0.05), (LAM, 0.1)]).look(at(2000))
    assert [p.n for p in look.points] == [100, 100]


def test_a_router_that_was_swapped_starts_the_alarm_anew(world, serving, tmp_path):
    _, later, still, _ = world
    traffic.write(tmp_path / "d.jsonl", served(serving, later, still[:200]))
    assert watch(tmp_path, serving).look(at(2000)).points[0].n == 200
    new = pickle.loads(pickle.dumps(cr2fast.Router.load(serving)))
    new.calibrate(later.take(still[500:]), alphas=(0.05, 0.1), lams=[0.3, LAM, 3.0])
    new.save(serving)
    assert watch(tmp_path, serving).look(at(2000)).points[0].n == 0
