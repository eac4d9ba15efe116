"use strict";

// One state; every control changes it and shows what follows.
(async () => {
  const { get, number, count, title } = SJ.panel;
  const STRETCHES = [0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500];
  const state = {
    feature: null, codes: null, isolated: new Set(), palette: "viridis", mode: "placed", hidden: new Set(),
    theme: matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light", stretch: 1, slab: [0, 1], legend: null,
  };
  let model;

  const placeable = (s) => state.mode === "given" || model.sections[s].placed;

  async function colour() {
    const table = SJ.colours.table(state.feature, state);
    let ghosts = null;
    if (state.isolated.size) ghosts = state.codes.map((code) => (state.isolated.has(code) ? 0 : 1));
    await SJ.scene.setGhosts(ghosts);
    await SJ.scene.setColours(table);
    state.legend = SJ.panel.describeLegend(state.feature, state.codes, { table, isolated: state.isolated });
    SJ.panel.showLegend(state.legend, isolate);
    get("paletteRow").hidden = state.feature.kind === "labels";
    get("palette").value = state.palette;
  }

  function isolate(code) {
    if (!state.isolated.delete(code)) state.isolated.add(code);
    return colour();
  }

  async function choose(feature) {
    const codes = await feature.codes();
    if (Boolean(feature.gene) !== Boolean(state.feature?.gene)) state.palette = feature.gene ? "magma" : "viridis";
    Object.assign(state, { feature, codes, isolated: new Set() });
    get("colour").value = feature.gene ? "" : feature.id;
    get("gene").value = feature.gene ? feature.name : "";
    await SJ.scene.setCodes(codes);
    await colour();
    document.body.dataset.colour = feature.id;
  }

  const visible = () => model.sections.map((_, s) => placeable(s) && !state.hidden.has(s));

  function showSections() {
    const shown = visible();
    SJ.scene.setShown(shown);
    SJ.panel.showSections(model, shown, state.mode === "given");
    const cells = model.sections.reduce((sum, section, s) => sum + (shown[s] ? section.cells : 0), 0);
    get("message").hidden = cells > 0;
    if (!cells) {
      SJ.panel.say(model.sections.some((s) => s.placed) || state.mode === "given"
        ? "All sections are hidden." : "No section has a place in the tissue: nothing can be shown but the sections as given.");
    }
  }

  async function setMode(mode) {
    state.mode = mode;
    for (const name of ["placed", "given"]) get(name).setAttribute("aria-pressed", String(name === mode));
    get("modeFacts").textContent = mode === "given"
      ? "Each section at the coordinates of its file, in µm." : "Every section at its place in the tissue, in µm.";
    SJ.scene.setShown(model.sections.map(() => false));
    await SJ.scene.setPoints(model[mode]);
    heights();
    await setStretch(1);
    SJ.scene.setShown(visible());
    await setStretch(naturalStretch());
    SJ.scene.look("oblique");
    showSections();
  }

  function naturalStretch() {
    const box = SJ.scene.bounds();
    if (!box) return 1;
    const [dx, dy, dz] = box.low.map((v, k) => box.high[k] - v);
    const wanted = dz > 0 ? (0.3 * Math.max(dx, dy)) / dz : 1;
    return STRETCHES.filter((s) => s >= 1).reduce((best, s) => (s <= Math.max(wanted, 1) ? s : best), 1);
  }

  function setStretch(factor) {
    state.stretch = factor;
    get("stretch").value = STRETCHES.indexOf(factor);
    get("stretchOut").textContent = `×${factor}`;
    SJ.overlay.setStretch(factor);
    return SJ.scene.setStretch(factor);
  }

  // The sliders of the slab run over the heights of all cells of the mode.
  function heights() {
    const points = model[state.mode];
    let [low, high] = [Infinity, -Infinity];
    for (let i = 2; i < points.xyz.length; i += 3) {
      if (points.xyz[i] < low) low = points.xyz[i];
      if (points.xyz[i] > high) high = points.xyz[i];
    }
    if (low > high) [low, high] = [0, 0];
    [low, high] = [low + points.origin[2], high + points.origin[2]];
    state.heights = [low, high];
    for (const [name, start] of [["low", low], ["high", high]]) {
      Object.assign(get(name), { min: low, max: high, step: (high - low) / 400 || 1, disabled: !(high > low) });
      get(name).value = start;
    }
    slab();
  }

  function slab(moved) {
    let [low, high] = [Number(get("low").value), Number(get("high").value)];
    if (low > high) {
      [low, high] = moved === "low" ? [low, low] : [high, high];
      [get("low").value, get("high").value] = [low, high];
    }
    const [least, most] = state.heights;
    const edge = (most - least) / 800 || 1;
    state.slab = [low, high];
    SJ.scene.setSlab(low - edge > least ? low - edge : -Infinity, high + edge < most ? high + edge : Infinity);
    get("lowOut").textContent = `${number(low)} µm`;
    get("highOut").textContent = `${number(high)} µm`;
  }

  function hover() {
    const stage = get("stage");
    let wanted = null;
    const show = () => {
      if (!wanted) return;
      const [x, y] = wanted;
      wanted = null;
      const i = SJ.scene.pick(x, y);
      SJ.panel.showTip(x, y, i < 0 ? null : describe(i));
    };
    stage.addEventListener("pointermove", (event) => {
      const box = stage.getBoundingClientRect();
      if (event.buttons || event.target.closest("#legend")) { wanted = null; SJ.panel.showTip(0, 0, null); return; }
      if (!wanted) requestAnimationFrame(show);
      wanted = [event.clientX - box.left, event.clientY - box.top];
    });
    stage.addEventListener("pointerleave", () => { wanted = null; SJ.panel.showTip(0, 0, null); });
  }

  function describe(i) {
    const section = model.sections.find((s) => i < s.end);
    const { feature, codes } = state;
    const lines = [model.cellNames[i], `section ${section.name}`];
    if (feature.kind === "labels") {
      if (feature.id !== "section") {
        const value = codes[i] === SJ.data.MISSING ? "no value" : feature.categories[codes[i]];
        lines.push(`${title(feature)}: ${value}`);
      }
    } else {
      lines.push(`${feature.name}: ${number(SJ.data.value(feature, codes[i]))}${feature.unit ? ` (${feature.unit})` : ""}`);
    }
    const [x, y, z] = SJ.scene.place(i);
    lines.push(`x ${number(x)}, y ${number(y)}, z ${number(z)} µm`);
    return lines;
  }

  async function savePicture() {
    const most = 40;
    const { entries } = state.legend;
    const legend = { ...state.legend, entries: entries.slice(0, most) };
    if (entries.length > most) legend.more = `and ${count(entries.length - most)} more`;
    const canvas = await SJ.overlay.picture(legend);
    const blob = await new Promise((done) => { canvas.toBlob(done, "image/png"); });
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: "tissue.png" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  function applyTheme() {
    document.documentElement.dataset.theme = state.theme;
    get("theme").textContent = state.theme === "dark" ? "Light" : "Dark";
  }

  function connect() {
    const byId = new Map(model.features.map((f) => [f.id, f]));
    const byGene = new Map(model.genes.map((g) => [g.name, g]));
    SJ.panel.search(model, (name) => choose(byGene.get(name)));
    get("colour").addEventListener("change", (event) => choose(byId.get(event.target.value)));
    get("palette").addEventListener("change", (event) => { state.palette = event.target.value; colour(); });
    get("placed").addEventListener("click", () => setMode("placed"));
    get("given").addEventListener("click", () => setMode("given"));
    for (const button of document.querySelectorAll("[data-view]")) {
      button.addEventListener("click", () => SJ.scene.look(button.dataset.view));
    }
    get("stretch").max = STRETCHES.length - 1;
    get("stretch").addEventListener("input", (event) => setStretch(STRETCHES[event.target.value]));
    get("size").addEventListener("input", size);
    for (const name of ["low", "high"]) get(name).addEventListener("input", () => slab(name));
    SJ.panel.sections(model, {
      toggle: (s, on) => { if (on) state.hidden.delete(s); else state.hidden.add(s); showSections(); },
      only: (s) => { state.hidden = new Set(model.sections.keys()); state.hidden.delete(s); showSections(); },
    });
    get("all").addEventListener("click", () => { state.hidden.clear(); showSections(); });
    get("none").addEventListener("click", () => { state.hidden = new Set(model.sections.keys()); showSections(); });
    get("png").addEventListener("click", savePicture);
    get("theme").addEventListener("click", async () => {
      state.theme = state.theme === "dark" ? "light" : "dark";
      applyTheme();
      SJ.overlay.redraw();
      await colour();
    });
    hover();
  }

  function size() {
    const diameter = SJ.scene.DOT * model.spacing * 10 ** (Number(get("size").value) / 20);
    get("sizeOut").textContent = `${number(diameter)} µm`;
    return SJ.scene.setDiameter(diameter);
  }

  // Sections outside the largest group have a frame of their own: hidden until asked for.
  function hideOtherGroups() {
    const cells = new Map();
    for (const s of model.sections) if (s.placed) cells.set(s.component, (cells.get(s.component) ?? 0) + s.cells);
    const largest = [...cells].reduce((best, entry) => (entry[1] > best[1] ? entry : best), [null, -1])[0];
    model.sections.forEach((s, i) => { if (s.placed && s.component !== largest) state.hidden.add(i); });
  }

  async function start() {
    applyTheme();
    if (!("DecompressionStream" in window)) throw new Error("This browser is too old for the page: use one from 2023 or later.");
    if (!document.createElement("canvas").getContext("webgl2")) {
      throw new Error("This browser draws no WebGL 2, which the page needs: allow hardware acceleration or use another browser.");
    }
    model = await SJ.data.read();
    SJ.panel.facts(model);
    SJ.panel.colourChoices(model);
    await SJ.scene.create(get("scene"), model);
    SJ.overlay.create(get("overlay"));
    hideOtherGroups();
    connect();
    get("given").disabled = !model.given;
    await choose(model.features.find((f) => f.name === "domain3d") ?? model.features.find((f) => f.id === "section"));
    await size();
    const nothing = !model.sections.some((s) => s.placed);
    await setMode(nothing && model.given ? "given" : "placed");
    document.body.dataset.ready = "yes";
  }

  try {
    await start();
  } catch (error) {
    SJ.panel.say(error.message);
    document.body.dataset.ready = "failed";
    throw error;
  }
})();
