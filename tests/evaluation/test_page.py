"""report.html, opened in Chromium: what it draws, what its sliders choose, what it never does."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cr2fast
from cr2fast.evaluation import InfeasibleWishError, page, write_page

pytest.importorskip("bokeh", reason="the extra `report` is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

SHOTS = Path(__file__).parents[2] / "target" / "pages"
HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "\"'><img src=x onerror='window.hacked = 2'>&amp; <!--",
    r"$$\frac{1}{2}$$ モデル λ‮evil @data@",
    "a very long name " * 400,
)


@pytest.fixture(scope="module")
def browser():
    found = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if found is None:
        pytest.skip("no Chromium on PATH: apt-get install chromium, or name one in CHROMIUM")
    with playwright.sync_playwright() as driver:
        # A container's root has no sandbox.
        chromium = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser):
    """Open a page; it may ask for nothing but itself, and no script of it may fail."""
    seen, errors, context = [], [], browser.new_context(viewport={"width": 1240, "height": 2200})
    # A busy machine may draw slowly; it is no test of that.
    context.set_default_timeout(120_000)

    def open_page(path):
        tab = context.new_page()
        tab.on("request", lambda r: seen.append(r.url))
        tab.on("pageerror", lambda e: errors.append(str(e)))
        tab.on("console", lambda m: m.type == "error" and errors.append(m.text))
        tab.on("dialog", lambda d: errors.append(d.message))
        tab.goto(path.as_uri())
        tab.wait_for_selector("body[data-ready=yes]")
        return tab

    yield open_page
    context.close()
    assert [u for u in seen if not u.startswith(("file://", "data:", "blob:"))] == []
    assert len([u for u in seen if u.startswith("file://")]) == 1
    assert errors == []


@pytest.fixture(scope="module")
def evaluation(artifact, splits):
    return priced(cr2fast.evaluate(cr2fast.Router.load(artifact), splits[2]))


def priced(e):
    """The evaluation with dollars: of each model's own price per query."""
    usd = np.array([0, 1, 2, 9]) * 1e-4
    alone = e.baselines["alone"] | {"usd": usd.tolist()}
    lines = {
        k: e.baselines[k] | {"usd": [1e-3 * c for c in e.baselines[k]["cost"]]}
        for k in ("oracle", "full_information")
    }
    return replace(e, usd=e.share @ usd, baselines=e.baselines | lines | {"alone": alone})


# A budget that every point keeps.
LOOSE = {"max_usd": 1e9}
FIGURES = {
    "min_accuracy": "accuracy",
    "max_usd": "usd",
    "max_latency_s": "latency_s",
    "max_latency_p95_s": "latency_p95_s",
    "max_energy_j": "energy_j",
}


def chosen(e, budgets):
    """What Python chooses: the flat index of the point and no budget, or -1 and those that bind."""
    try:
        point = e.choose(**budgets)
    except InfeasibleWishError as error:
        return -1, set(error.binding)
    i, j = e.lams.tolist().index(point.lam), e.alphas.tolist().index(point.alpha)
    return i * len(e.alphas) + j, set()


def named(e, index):
    """(lam, alpha) of a flat index."""
    return e.lams[index // len(e.alphas)], e.alphas[index % len(e.alphas)]


def shown_point(tab):
    return tuple(map(float, re.findall(r"= ([\d.e-]+)", tab.inner_text("#chosen"))))


def test_a_slider_moves_the_chosen_point(evaluation, tmp_path, opened):
    tab = opened(write_page(tmp_path / "report.html", {"predicted": evaluation}, "made up"))
    assert tab.title() == tab.inner_text("h1") == "made up, predicted lengths"
    before = shown_point(tab)
    assert before == named(evaluation, chosen(evaluation, LOOSE)[0])
    slider = tab.get_by_label("dollars per 1,000 queries, mean at most").first
    low, high = float(slider.get_attribute("min")), float(slider.get_attribute("max"))
    step = float(slider.get_attribute("step"))
    slider.fill(str(round(round((low + high) / 2 / step) * step, 9)))
    budget = float(slider.input_value())
    assert tab.locator("#max_usd-number").input_value() == slider.input_value()
    index, _ = chosen(evaluation, {"max_usd": budget / 1000})
    assert shown_point(tab) == named(evaluation, index) != before
    cell = tab.locator("#figures tr", has_text="dollars per 1,000").locator("td").nth(1)
    assert float(cell.inner_text()) == pytest.approx(1000 * evaluation.usd.ravel()[index], rel=5e-3)
    # The arrow keys work, too, and the open end is no budget.
    slider.press("End")
    assert shown_point(tab) == before
    slider.press("ArrowLeft")
    assert tab.locator("#max_usd-number").input_value() != ""
    # A least accuracy turns the wish round: the cheapest that reaches it.
    tab.locator("#max_usd-number").fill("")
    tab.locator("#min_accuracy-number").fill("0.5")
    point = evaluation.cheapest(0.5)
    assert shown_point(tab) == (point["lam"], point["alpha"])
    SHOTS.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=SHOTS / "report.png", full_page=True)


def test_the_page_chooses_as_python_does(evaluation, tmp_path, opened):
    tab = opened(write_page(tmp_path / "report.html", {"predicted": evaluation}, "made up"))
    rng = np.random.default_rng(0)
    wishes = [
        # Half of them exactly on a figure of the grid, where a comparison might be strict.
        {
            name: float(
                rng.choice(getattr(evaluation, figure).ravel())
                * rng.choice([1, rng.uniform(0.9, 1.1)])
            )
            for name, figure in FIGURES.items()
            if rng.random() < 0.4
        }
        for _ in range(500)
    ]
    wishes = [w for w in wishes if w]
    found = tab.evaluate(
        "w => w.map(b => cr2fastReport.choose(cr2fastReport.data.modes[0].test, b))", wishes
    )
    expected = [chosen(evaluation, w) for w in wishes]
    assert found == [index for index, _ in expected]
    assert 50 < found.count(-1) < 450
    binding = tab.evaluate(
        "w => w.map(b => cr2fastReport.binding(cr2fastReport.data.modes[0].test, b)"
        ".map(f => f.budget.name))",
        [w for w, k in zip(wishes, found, strict=True) if k < 0],
    )
    assert [set(names) for names in binding] == [names for index, names in expected if index < 0]


def test_equal_points_go_to_the_lower_alpha(evaluation, tmp_path, opened):
    flat = {n: np.full_like(evaluation.cost, 0.5) for n in ("accuracy", "cost")}
    e = replace(evaluation, alphas=evaluation.alphas[::-1].copy(), **flat)
    tab = opened(write_page(tmp_path / "report.html", {"predicted": e}, "made up"))
    assert shown_point(tab) == (e.lams[0], e.alphas.min())


def test_a_point_tells_its_lam_and_alpha_on_hover(evaluation, tmp_path, opened):
    tab = opened(write_page(tmp_path / "report.html", {"predicted": evaluation}, "made up"))
    tab.locator("#min_accuracy-number").fill("0.5")
    lam, alpha = shown_point(tab)
    # Where the plot has drawn the chosen point, in pixels of the window, once it is drawn.
    where = """async () => {
      for (let k = 0; k < 5; k++) await new Promise(requestAnimationFrame);
      const view = Bokeh.index.roots.find((v) => v.model.name === "pareto");
      const star = view.model.document.get_model_by_name("chosen").data;
      const box = view.canvas_view.el.getBoundingClientRect();
      return [box.x + view.frame.x_scale.compute(star.x[0]),
              box.y + view.frame.y_scale.compute(star.y[0])];
    }"""
    tip = tab.locator(".bk-Tooltip").get_by_text("kept on the device").first
    # A busy machine may draw it elsewhere meanwhile.
    for _ in range(50):
        x, y = tab.evaluate(where)
        tab.mouse.move(x - 5, y)
        tab.mouse.move(x, y)
        if tip.is_visible():
            break
    tip.wait_for()
    tips = tab.locator(".bk-Tooltip").evaluate_all(
        "all => all.map((e) => e.shadowRoot.textContent)"
    )
    told = [
        (float(a), float(b))
        for a, b in re.findall(r"λ:\s*([\d.]+)\s*α:\s*([\d.]+)", " ".join(tips))
    ]
    assert (lam, alpha) in told


def test_units_modes_and_alphas_switch(evaluation, tmp_path, opened):
    other = replace(evaluation, lengths="known", cost=evaluation.cost + 1, usd=evaluation.usd * 2)
    modes = {"predicted": evaluation, "known": other}
    tab = opened(write_page(tmp_path / "report.html", modes, "made up"))
    assert tab.locator("#unit option").all_inner_texts() == [
        "dollars per 1,000 queries", "seconds per query", "joules per query", "normalised cost",
    ]  # fmt: skip
    drawn = "n => Bokeh.documents.map(d => d.get_model_by_name(n)).find(Boolean).data"
    np.testing.assert_allclose(tab.evaluate(drawn, "points")["x"], 1000 * evaluation.usd.ravel())
    tab.select_option("#unit", label="joules per query")
    np.testing.assert_allclose(tab.evaluate(drawn, "points")["x"], evaluation.energy_j.ravel())
    assert "joules per query" in tab.inner_text("#pareto-title")
    tab.select_option("#mode", label="known lengths")
    assert tab.title() == "made up, known lengths"
    tab.select_option("#unit", label="normalised cost")
    np.testing.assert_allclose(tab.evaluate(drawn, "points")["x"], evaluation.cost.ravel() + 1)
    for j, alpha in enumerate(evaluation.alphas):
        tab.select_option("#alpha", label=f"{alpha:g}")
        rates = tab.evaluate(drawn, "rates")
        np.testing.assert_allclose(rates["y"], evaluation.risk[:, j])
        np.testing.assert_allclose([rates["low"], rates["high"]], evaluation.risk_interval[:, j].T)
        assert tab.evaluate(drawn, "level")["y"] == [alpha, alpha]
    mix, alone = tab.evaluate(drawn, "mix"), evaluation.baselines["alone"]
    big = evaluation.models.index(evaluation.unit_model)
    for name, of in (("x", "cost"), ("y", "accuracy")):
        assert mix[name][0] == pytest.approx(alone[of][0])
        assert mix[name][-1] == pytest.approx(alone[of][big])


def test_what_no_point_keeps_is_named(evaluation, tmp_path, opened):
    tab = opened(write_page(tmp_path / "report.html", {"predicted": evaluation}, "made up"))
    tab.locator("#max_usd-number").fill("100")
    tab.locator("#min_accuracy-number").fill("0.999")
    text = tab.inner_text("#chosen")
    assert text.startswith("No operating point keeps these budgets. accuracy at least: the nearest")
    assert "dollars" not in text
    most = float(re.search(r"is (\d\.\d+)", text)[1])
    assert most == pytest.approx(evaluation.accuracy.max(), abs=1e-4)
    cheap, best = evaluation.usd.min(), float(evaluation.accuracy.max())
    tab.locator("#max_usd-number").fill(repr(float(cheap * 1000)))
    tab.locator("#min_accuracy-number").fill(repr(best))
    text = tab.inner_text("#chosen")
    assert (
        "dollars per 1,000 queries, mean at most: with the other budgets kept, the nearest" in text
    )
    found = float(re.search(r"mean at most.*is ([\d.]+\d)", text)[1])
    assert found == pytest.approx(
        1000 * evaluation.usd[evaluation.accuracy == best].min(), rel=1e-3
    )


def test_budgets_choose_on_validation_where_there_is_one(evaluation, tmp_path, opened):
    # On the validation split the worst points of the test split are the best.
    other = replace(evaluation, accuracy=1 - evaluation.accuracy)
    path = write_page(
        tmp_path / "r.html", {"predicted": evaluation}, "x", {"predicted": other}
    )  # fmt: skip
    tab = opened(path)
    index, _ = chosen(other, LOOSE)
    assert index != chosen(evaluation, LOOSE)[0]
    assert shown_point(tab) == named(evaluation, index)
    cells = tab.locator("#figures tr", has_text="of all queries").locator("td").all_inner_texts()
    assert cells[1:] == [f"{e.accuracy.ravel()[index]:.3f}" for e in (other, evaluation)]
    assert "validation" in tab.inner_text("#caution")


def test_names_are_text_and_nothing_else(evaluation, tmp_path, opened):
    unit = HOSTILE[evaluation.models.index(evaluation.unit_model)]
    bare = replace(
        evaluation, models=HOSTILE, unit_model=unit, usd=np.full_like(evaluation.usd, np.nan),
        statement="</script><script>window.hacked = 3</script>",
    )  # fmt: skip
    source = "</title><script>window.hacked = 4</script> データ \udc80"
    path = write_page(tmp_path / "report.html", {HOSTILE[0]: bare}, source)
    tab = opened(path)
    assert tab.evaluate("window.hacked") is None
    table = tab.inner_text("#figures")
    assert f"answered by {HOSTILE[0]}" in table
    assert HOSTILE[2] in table
    assert len(table) < 3000
    assert "</title><script>window.hacked = 4</script> データ" in tab.title()
    assert "dollars" not in tab.inner_text("#budgets")
    assert tab.locator("#unit option").count() == 3
    SHOTS.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=SHOTS / "hostile.png", full_page=True)


def test_the_page_forbids_requests_and_is_one_small_file(evaluation, tmp_path):
    path = write_page(tmp_path / "report.html", {"predicted": evaluation}, "made up")
    text = path.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=", text)
    assert path.stat().st_size < 4_000_000
    data = json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1]
    )
    assert data["modes"][0]["test"]["accuracy"] == evaluation.accuracy.ravel().tolist()


def test_without_bokeh_the_extra_is_named(evaluation, tmp_path, monkeypatch):
    def missing(module, extra):
        raise ImportError(f"{module}: pip install 'cr2fast[{extra}]'")

    monkeypatch.setattr(page, "require", missing)
    with pytest.raises(ImportError, match=r"cr2fast\[report\]"):
        write_page(tmp_path / "report.html", {"predicted": evaluation}, "made up")
    assert not (tmp_path / "report.html").exists()
