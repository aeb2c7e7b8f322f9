"use strict";
// The report's page. In: the grids of the evaluations in #data, and the figures that Bokeh draws.
// Out: plots of one mode and one unit, and the operating point that the budgets choose.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const make = (tag, text, parent) => {
    const node = document.createElement(tag);
    node.textContent = text;
    parent.append(node);
    return node;
  };
  const known = (v) => v !== null && v !== undefined;
  const short = (name) => (Array.from(name).length > 28 ? Array.from(name).slice(0, 27).join("") + "…" : name);
  const digits = (v, n = 3) => (known(v) ? Number(v.toPrecision(n)).toString() : "–");
  const spread = (low, high, n) => Array.from({ length: n }, (_, k) => low + ((high - low) * k) / (n - 1));
  const PALETTE = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30"];
  const colour = (j, count) => PALETTE[count < 2 ? 3 : Math.round((j * (PALETTE.length - 1)) / (count - 1))];

  // The rule of Evaluation.choose without a delta: with a least accuracy the cheapest point that
  // keeps every budget, without one the most accurate; ties go to the other of the two, then to the
  // lower alpha. -1 where no point keeps them.
  const asked = (budgets) => data.budgets.filter((b) => known(budgets[b.name]));
  function keeps(b, value, limit) {
    const slack = 1e-12 * Math.max(1, Math.abs(limit));
    return known(value) && (b.least ? value >= limit - slack : value <= limit + slack);
  }
  function choose(grid, budgets) {
    const wishes = asked(budgets), cheapest = wishes.some((b) => b.least);
    const keys = (i) => [grid.cost[i], -grid.accuracy[i]];
    const order = (i) => [...(cheapest ? keys(i) : keys(i).reverse()), grid.alpha[i]];
    const less = (a, b) => {
      const k = a.findIndex((v, n) => v !== b[n]);
      return k >= 0 && a[k] < b[k];
    };
    let best = -1;
    for (let i = 0; i < grid.accuracy.length; i++) {
      if (!wishes.every((b) => keeps(b, grid[b.figure][i], budgets[b.name]))) continue;
      if (best < 0 || less(order(i), order(best))) best = i;
    }
    return best;
  }
  // Of budgets that no point keeps: those that bind, each with the nearest value that there is.
  function binding(grid, budgets) {
    const wishes = asked(budgets), points = grid.accuracy.map((_, i) => i);
    const kept = (b, i) => keeps(b, grid[b.figure][i], budgets[b.name]);
    const others = (b) => points.filter((i) => wishes.every((w) => w === b || kept(w, i)));
    const alone = wishes.filter((b) => !points.some((i) => kept(b, i)));
    const some = alone.length ? alone : wishes.filter((b) => others(b).length);
    return (some.length ? some : wishes).map((b) => {
      const room = alone.length || !others(b).length ? points : others(b);
      const values = room.map((i) => grid[b.figure][i]).filter(known);
      return { budget: b, others: room !== points, nearest: (b.least ? Math.max : Math.min)(...values) };
    });
  }

  const now = { mode: 0, unit: data.units[0].figure, alpha: 0, budgets: {} };
  let sources = {}, figures = {};
  const mode = () => data.modes[now.mode];
  const unit = () => data.units.find((u) => u.figure === now.unit);
  const scaled = (grid, u = unit()) => grid[u.figure].map((v) => (known(v) ? v * u.scale : NaN));

  function operatingPoints(m) {
    const A = m.alphas.length;
    return {
      x: scaled(m.test), y: m.test.accuracy, lam: m.test.lam, alpha: m.test.alpha,
      color: m.test.lam.map((_, k) => colour(k % A, A)),
      cost: m.test.cost, local: m.test.local_rate, risk: m.test.risk,
    };
  }

  function drawPareto() {
    const m = mode(), u = unit(), A = m.alphas.length, points = operatingPoints(m);
    sources.points.data = points;
    const column = (values, j) => values.filter((_, k) => k % A === j);
    sources.curves.data = {
      xs: m.alphas.map((_, j) => column(points.x, j)), ys: m.alphas.map((_, j) => column(points.y, j)),
      color: m.alphas.map((_, j) => colour(j, A)),
    };
    for (const name of ["full_information", "oracle"]) {
      const line = m[name], x = scaled(line);
      const order = x.map((_, k) => k).sort((a, b) => x[a] - x[b] || line.accuracy[a] - line.accuracy[b]);
      sources[name].data = {
        x: order.map((k) => x[k]), y: order.map((k) => line.accuracy[k]), lam: order.map((k) => m.lams[k]),
      };
    }
    drawAlone(m, points.x);
    const share = spread(0, 1, 21), x = scaled(m.alone), y = m.alone.accuracy;
    const mix = (v) => share.map((s) => (1 - s) * v[0] + s * v[m.big]);
    sources.mix.data = { x: mix(x), y: mix(y), share };
    figures.pareto.xaxis.axis_label = u.label;
    $("pareto-title").textContent = `Accuracy against ${u.label}: ${m.title}`;
  }

  // Names stand beside the single models, inwards, and above each other where they would overlap.
  function drawAlone(m, others) {
    const x = scaled(m.alone), y = m.alone.accuracy;
    const all = x.concat(others).filter((v) => !Number.isNaN(v));
    const low = Math.min(...all), width = Math.max(...all) - low || 1;
    const height = Math.max(...y) - Math.min(...y) || 1;
    const few = m.models.length <= 16, placed = [];
    const order = y.map((_, k) => k).sort((a, b) => y[a] - y[b]);
    const right = x.map((v) => (v - low) / width > 0.6);
    // On the right the curves come in from the left: names stand above.
    const dy = right.map((r) => (r ? -16 : 0));
    for (const k of order) {
      const near = placed.filter((p) => Math.abs(x[p] - x[k]) < 0.35 * width);
      for (const p of near) {
        const gap = ((y[k] - y[p]) / height) * 280 - (dy[k] - dy[p]);
        if (gap < 14) dy[k] -= 14 - gap;
      }
      placed.push(k);
    }
    sources.alone.data = {
      x, y, dy, name: m.models, label: m.models.map((n) => (few ? short(n) : "")),
      align: right.map((r) => (r ? "right" : "left")), dx: right.map((r) => (r ? 6 : 9)),
    };
  }

  function drawRisk() {
    const m = mode(), A = m.alphas.length, j = now.alpha, alpha = m.alphas[j];
    const pick = (values) => values.filter((_, k) => k % A === j);
    sources.rates.data = {
      x: m.lams, y: pick(m.test.risk), low: pick(m.test.risk_low), high: pick(m.test.risk_high),
      local: pick(m.test.local_rate),
    };
    sources.level.data = { x: [Math.min(...m.lams), Math.max(...m.lams)], y: [alpha, alpha] };
    $("risk-title").textContent = `Realised risk against the cost weight λ at α = ${digits(alpha)}: ${m.title}`;
  }

  function drawChosen() {
    const m = mode(), on = m.validation || m.test;
    const k = choose(on, now.budgets), box = $("chosen"), table = $("figures");
    table.replaceChildren();
    box.className = k < 0 ? "none" : "";
    if (k < 0) {
      box.textContent = infeasible(on);
      sources.chosen.data = { x: [], y: [], lam: [], alpha: [] };
      return;
    }
    const lam = on.lam[k], alpha = on.alpha[k];
    box.textContent = `λ = ${digits(lam, 6)}, α = ${digits(alpha, 6)}`;
    sources.chosen.data = { x: [scaled(m.test)[k]], y: [m.test.accuracy[k]], lam: [lam], alpha: [alpha] };
    const row = (tag, cells) => cells.reduce((tr, c) => (make(tag, c, tr), tr), make("tr", "", table));
    row("th", m.validation ? ["", "validation", "test"] : ["", "test"]);
    const columns = m.validation ? [m.validation, m.test] : [m.test];
    for (const f of data.figures) {
      if (m.test[f.figure].every((v) => !known(v))) continue;
      const show = (v) => (known(v) ? (f.digits ? v.toFixed(f.digits) : digits(v * f.scale)) : "–");
      row("td", [f.label, ...columns.map((c) => show(c[f.figure][k]))]);
    }
    m.models.forEach((name, i) => {
      row("td", [`answered by ${name}`, ...columns.map((c) => c.share[k][i].toFixed(3))]);
    });
  }

  function infeasible(grid) {
    const said = binding(grid, now.budgets).map((f) =>
      `${f.budget.label}: ${f.others ? "with the other budgets kept, " : ""}the nearest is ${digits(f.nearest * f.budget.scale, 4)}`);
    return `No operating point keeps these budgets. ${said.join("; ")}.`;
  }

  // A slider from the least to the greatest value on the grid, in round steps; its open end is no budget.
  function slider(b) {
    const values = data.modes.flatMap((m) => (m.validation || m.test)[b.figure]).filter(known).map((v) => v * b.scale);
    if (!values.length) return;
    const low = Math.min(...values), high = Math.max(...values);
    const raw = (high - low || Math.abs(high) || 1) / 200, ten = 10 ** Math.floor(Math.log10(raw));
    const step = Number(([1, 2, 5, 10].find((s) => s * ten >= raw) * ten).toPrecision(3));
    const round = (k) => Number((k * step).toPrecision(12));
    const box = make("div", "", $("budgets"));
    box.className = "budget";
    const label = make("label", b.label, box), range = make("input", "", box), typed = make("input", "", box);
    label.htmlFor = `${b.name}-slider`;
    Object.assign(range, { type: "range", id: `${b.name}-slider`, step });
    range.min = round(Math.floor(low / step) - (b.least ? 1 : 0));
    range.max = round(Math.ceil(high / step) + (b.least ? 0 : 1));
    const open = b.least ? range.min : range.max;
    range.value = open;
    Object.assign(typed, { type: "number", id: `${b.name}-number`, step: "any", min: 0, placeholder: "any" });
    typed.setAttribute("aria-label", b.label);
    const set = (text) => {
      now.budgets[b.name] = text === "" ? null : Number(text) / b.scale;
      const big = data.modes[now.mode].alone[b.figure][data.modes[now.mode].big];
      label.textContent = b.label + (b.least && text !== "" ? ` (${((100 * Number(text)) / big).toFixed(1)} % of ${short(mode().models[mode().big])})` : "");
      drawChosen();
    };
    range.addEventListener("input", () => {
      typed.value = range.value === open ? "" : range.value;
      set(typed.value);
    });
    typed.addEventListener("input", () => {
      range.value = typed.value === "" ? open : typed.value;
      set(typed.value);
    });
  }

  function options(select, names, change) {
    select.replaceChildren(...names.map((n, k) => Object.assign(document.createElement("option"), { value: k, textContent: n })));
    select.onchange = () => change(Number(select.value));
  }

  function drawMode() {
    const m = mode();
    document.title = $("title").textContent = m.title;
    $("facts").textContent = m.facts;
    $("statement").textContent = m.statement;
    $("caution").textContent = m.validation
      ? "Chosen on the validation split, which neither trained the router nor set its thresholds; the test column is what happened on queries that chose nothing."
      : "Chosen on the test queries themselves, for want of a validation split: expect a little less of new queries.";
    options($("alpha"), m.alphas.map((a) => digits(a, 6)), (j) => { now.alpha = j; drawRisk(); });
    now.alpha = m.alphas.reduce((best, a, j) => (Math.abs(a - data.alpha) < Math.abs(m.alphas[best] - data.alpha) ? j : best), 0);
    $("alpha").value = now.alpha;
    $("levels").replaceChildren("α: ");
    m.alphas.forEach((a, j) => {
      const item = make("span", "", $("levels"));
      make("i", "", item).style.background = colour(j, m.alphas.length);
      item.append(digits(a, 6));
    });
    drawPareto();
    drawRisk();
    drawChosen();
  }

  async function start() {
    for (const [name, item] of Object.entries(data.figures_json)) await Bokeh.embed.embed_item(item, name);
    for (const doc of Bokeh.documents) {
      for (const root of doc.roots()) figures[root.name] = { root, xaxis: doc.get_model_by_name(`${root.name}-x`) };
      for (const name of data.sources) sources[name] = doc.get_model_by_name(name) || sources[name];
    }
    options($("mode"), data.modes.map((m) => m.name), (k) => { now.mode = k; drawMode(); });
    $("mode-label").hidden = data.modes.length < 2;
    options($("unit"), data.units.map((u) => u.label), (k) => { now.unit = data.units[k].figure; drawPareto(); drawChosen(); });
    $("rule").textContent = data.rule;
    data.budgets.forEach(slider);
    drawMode();
    document.body.dataset.ready = "yes";
  }
  window.cr2fastReport = { choose, binding, data };
  start();
})();
