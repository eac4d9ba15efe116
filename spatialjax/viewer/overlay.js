"use strict";

// What lies behind the cells: the box with its axes in µm; and all of it together as one picture.
SJ.overlay = (() => {
  const FONT = "12px system-ui, Segoe UI, Roboto, Helvetica, Arial, sans-serif";
  const NAMES = ["x", "y", "z"];
  let canvas;
  let stretch = 1;

  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const corner = (box, bits) => [0, 1, 2].map((k) => ((bits >> k) & 1 ? box.high[k] : box.low[k]));

  function ticks(low, high, most) {
    const rough = (high - low) / most;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((f) => f * power).find((s) => s >= rough);
    const result = [];
    for (let v = Math.ceil(low / step) * step; v <= high + 1e-9 * step; v += step) result.push(Math.abs(v) < step / 1e6 ? 0 : v);
    return result;
  }

  const text = (v) => (Math.round(v * 1000) / 1000).toLocaleString("en-US").replace("-", "−");

  // Edges as pairs of corners, grouped by axis: corners differ in one bit.
  const edges = (axis) => [0, 1, 2, 3, 4, 5, 6, 7].filter((c) => !((c >> axis) & 1)).map((c) => [c, c | (1 << axis)]);

  function draw(context) {
    const box = SJ.scene.bounds();
    if (!box) return;
    const project = SJ.scene.projector();
    const at = (p) => project(...SJ.scene.toScene(p), [0, 0, 0]);
    const corners = [0, 1, 2, 3, 4, 5, 6, 7].map((bits) => at(corner(box, bits)));
    if (corners.some((c) => c[2] <= 0)) return; // the eye is inside the box
    const nearest = corners.reduce((best, c, i) => (c[2] < corners[best][2] ? i : best), 0);
    const centre = [0, 1].map((k) => corners.reduce((sum, c) => sum + c[k], 0) / 8);
    context.font = FONT;
    for (let axis = 0; axis < 3; axis++) {
      if (!(box.high[axis] > box.low[axis])) continue;
      context.strokeStyle = style("--line");
      context.lineWidth = 1;
      for (const [from, to] of edges(axis)) {
        if (from === nearest || to === nearest) continue;
        line(context, corners[from], corners[to]);
      }
      drawAxis(context, { axis, box, corners, centre, at });
    }
  }

  function line(context, from, to) {
    context.beginPath();
    context.moveTo(from[0], from[1]);
    context.lineTo(to[0], to[1]);
    context.stroke();
  }

  // Numbers stand on the outermost of the four edges of that direction; height on the left, the others below.
  function drawAxis(context, { axis, box, corners, centre, at }) {
    const middle = ([a, b]) => [0, 1].map((k) => (corners[a][k] + corners[b][k]) / 2 - centre[k]);
    const worth = (m) => Math.hypot(...m) + 0.6 * (axis === 2 ? -m[0] : m[1]);
    const [from, to] = edges(axis).reduce((best, e) => (worth(middle(e)) > worth(middle(best)) ? e : best));
    const length = Math.hypot(corners[to][0] - corners[from][0], corners[to][1] - corners[from][1]);
    if (length < 40) return;
    const m = middle([from, to]);
    const along = [0, 1].map((k) => (corners[to][k] - corners[from][k]) / length);
    let out = [-along[1], along[0]];
    if (out[0] * m[0] + out[1] * m[1] < 0) out = out.map((v) => -v);
    context.fillStyle = context.strokeStyle = style("--soft");
    line(context, corners[from], corners[to]);
    context.textAlign = Math.abs(out[0]) < 0.4 ? "center" : out[0] > 0 ? "left" : "right";
    context.textBaseline = Math.abs(out[1]) < 0.4 ? "middle" : out[1] > 0 ? "top" : "bottom";
    const start = corner(box, from);
    let widest = 0;
    for (const value of ticks(box.low[axis], box.high[axis], Math.max(2, Math.min(6, length / 70)))) {
      const p = at(start.map((v, k) => (k === axis ? value : v)));
      line(context, p, [p[0] + 5 * out[0], p[1] + 5 * out[1]]);
      context.fillText(text(value), p[0] + 9 * out[0], p[1] + 9 * out[1]);
      widest = Math.max(widest, context.measureText(text(value)).width);
    }
    const gap = 16 + Math.abs(out[0]) * widest + Math.abs(out[1]) * 14;
    const p = [0, 1].map((k) => (corners[from][k] + corners[to][k]) / 2 + gap * out[k]);
    context.fillStyle = style("--ink");
    const name = `${NAMES[axis]}, µm${axis === 2 && stretch !== 1 ? ` (drawn ×${stretch})` : ""}`;
    if (axis !== 2 || Math.abs(out[0]) < 0.5) {
      context.fillText(name, p[0], p[1]);
      return;
    }
    context.save();
    context.translate(p[0], p[1]);
    context.rotate(out[0] < 0 ? -Math.PI / 2 : Math.PI / 2);
    context.textAlign = "center";
    context.textBaseline = "bottom";
    context.fillText(name, 0, 0);
    context.restore();
  }

  function redraw() {
    const { clientWidth: width, clientHeight: height } = canvas;
    const ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    draw(context);
  }

  function create(node) {
    canvas = node;
    SJ.scene.onDrawn(redraw);
    new ResizeObserver(redraw).observe(canvas);
    redraw();
  }

  // The legend in plain drawing, so that a saved picture can be read without the page.
  function drawLegend(context, legend) {
    context.font = `600 ${FONT}`;
    context.fillStyle = style("--ink");
    context.textAlign = "left";
    context.textBaseline = "top";
    let y = 16;
    context.fillText(legend.title, 16, y);
    y += 22;
    context.font = FONT;
    if (legend.bar) {
      legend.bar.forEach((colour, i) => {
        context.fillStyle = SJ.colours.css(colour);
        context.fillRect(16 + (190 * i) / legend.bar.length, y, 190 / legend.bar.length + 0.6, 12);
      });
      context.fillStyle = style("--soft");
      context.fillText(legend.ends[0], 16, y + 16);
      context.textAlign = "right";
      context.fillText(legend.ends[1], 206, y + 16);
      context.textAlign = "left";
      y += 36;
    }
    for (const entry of legend.entries) {
      context.fillStyle = SJ.colours.css(entry.colour);
      context.beginPath();
      context.arc(22, y + 7, 6, 0, 2 * Math.PI);
      context.fill();
      context.fillStyle = style("--ink");
      context.fillText(entry.name, 34, y + 1);
      y += 18;
    }
    if (legend.more) context.fillText(legend.more, 34, y + 1);
  }

  // Cells, axes and legend as one canvas, twice as fine as the screen.
  async function picture(legend) {
    const scale = 2 * (window.devicePixelRatio || 1);
    const cells = await SJ.scene.picture(scale);
    const result = document.createElement("canvas");
    [result.width, result.height] = [cells.width, cells.height];
    const context = result.getContext("2d");
    context.fillStyle = style("--back");
    context.fillRect(0, 0, result.width, result.height);
    const { width, height } = SJ.scene.view();
    context.scale(cells.width / width, cells.height / height);
    draw(context);
    context.drawImage(cells, 0, 0, width, height);
    drawLegend(context, legend);
    return result;
  }

  return {
    create, redraw, picture,
    setStretch: (factor) => { stretch = factor; },
  };
})();
