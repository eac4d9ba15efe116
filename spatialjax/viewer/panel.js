"use strict";

// The elements of the page. Every name enters as text, never as HTML.
SJ.panel = (() => {
  const get = (id) => document.getElementById(id);
  const MOST_MATCHES = 60;

  function make(tag, properties = {}, ...children) {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  }

  const count = (n) => n.toLocaleString("en-US");

  function number(v) {
    if (!Number.isFinite(v)) return "no value";
    const size = Math.abs(v);
    const digits = size >= 1000 ? 0 : size >= 100 ? 1 : size >= 1 ? 2 : 3;
    return (Number(v.toFixed(digits)) + 0).toLocaleString("en-US", { maximumFractionDigits: digits }).replace("-", "−");
  }

  const title = (feature) => (feature.name === "domain3d" && feature.ours ? "domain" : feature.name);

  function facts(model) {
    const of = model.genes.length + model.others.length;
    get("facts").textContent =
      `${count(model.cells)} cells · ${count(model.sections.length)} sections · ${count(model.genes.length)} of ${count(of)} genes`;
    const hidden = model.leftOut.length ? ` Columns that are not here: ${model.leftOut.join(" ")}` : "";
    get("geneFacts").textContent = model.geneSentence + hidden;
    get("notes").hidden = model.notes.length === 0;
    get("notes").querySelector("ul").append(...model.notes.map((note) => make("li", { textContent: note })));
  }

  function colourChoices(model) {
    const group = (label, features) => (features.length
      ? [make("optgroup", { label }, ...features.map((f) => make("option", { value: f.id, textContent: title(f) })))]
      : []);
    get("colour").append(
      make("option", { value: "", textContent: "a gene, see above", disabled: true }),
      ...group("Atlas", model.features.filter((f) => f.ours)),
      ...group("Columns of the input", model.features.filter((f) => !f.ours)),
    );
    get("palette").append(...SJ.colours.PALETTES.map((name) => make("option", { value: name, textContent: name })));
    get("gene").placeholder = model.genes.length ? "type a name" : "this atlas has no genes";
    get("gene").disabled = model.genes.length + model.others.length === 0;
  }

  // Genes whose name starts with the text, then those that contain it; those that the page lacks come last.
  function matches(model, typed) {
    const wanted = typed.trim().toLowerCase();
    const rank = (name) => {
      const at = name.toLowerCase().indexOf(wanted);
      return at < 0 ? 2 : at > 0 ? 1 : 0;
    };
    const sorted = (names) => names.map((name) => [rank(name), name]).filter(([r]) => r < 2)
      .sort((a, b) => a[0] - b[0] || (a[1] < b[1] ? -1 : 1)).map(([, name]) => name);
    const held = sorted(model.genes.map((g) => g.name)).map((name) => ({ name, held: true }));
    const absent = wanted ? sorted(model.others).map((name) => ({ name, held: false })) : [];
    return { all: held.length + absent.length, first: [...held, ...absent].slice(0, MOST_MATCHES) };
  }

  function search(model, choose) {
    const field = get("gene");
    const list = get("matches");
    const why = new Map(model.genes.map((g) => [g.name, { asked: "asked for", marker: "marker", variable: "variable" }[g.why]]));
    let found = [];
    let active = -1;

    function close() {
      list.hidden = true;
      field.setAttribute("aria-expanded", "false");
      active = -1;
    }

    function pickOne(i) {
      if (!found[i] || !found[i].held) return;
      field.value = found[i].name;
      close();
      choose(found[i].name);
    }

    function mark(i) {
      active = i;
      [...list.children].forEach((node, k) => node.setAttribute("aria-selected", String(k === i)));
      list.children[i]?.scrollIntoView({ block: "nearest" });
    }

    function open() {
      const result = matches(model, field.value);
      found = result.first;
      list.replaceChildren(...found.map(({ name, held }, i) => {
        const node = make("li", {}, make("div", { textContent: name }),
          make("span", { textContent: held ? why.get(name) : "not in this page" }));
        node.setAttribute("role", "option");
        node.setAttribute("aria-disabled", String(!held));
        node.addEventListener("mousedown", (event) => { event.preventDefault(); pickOne(i); });
        return node;
      }));
      if (result.all > found.length) list.append(say(`and ${count(result.all - found.length)} more`));
      if (!found.length) list.append(say("no gene of that name in the atlas"));
      list.hidden = false;
      field.setAttribute("aria-expanded", "true");
      mark(found.length && field.value ? 0 : -1);
    }

    const say = (textContent) => {
      const node = make("li", { textContent });
      node.setAttribute("aria-disabled", "true");
      return node;
    };

    field.addEventListener("input", open);
    field.addEventListener("focus", open);
    field.addEventListener("blur", close);
    field.addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (step && !list.hidden && found.length) {
        event.preventDefault();
        mark((active + step + found.length) % found.length);
      } else if (event.key === "Enter") {
        pickOne(Math.max(active, 0));
      } else if (event.key === "Escape") {
        close();
      }
    });
  }

  function sections(model, { toggle, only }) {
    get("sections").append(...model.sections.map((section, i) => {
      const box = make("input", { type: "checkbox", id: `section-${i}` });
      box.addEventListener("change", () => toggle(i, box.checked));
      const label = make("label", { htmlFor: box.id, textContent: section.name, title: section.name });
      const height = section.z === null ? "" : `z ${number(section.z)} · `;
      const button = make("button", { type: "button", textContent: "only" });
      button.addEventListener("click", () => only(i));
      return make("li", {}, box, label, make("span", { textContent: `${height}${count(section.cells)}` }), button);
    }));
  }

  function showSections(model, shown, given) {
    [...get("sections").children].forEach((node, i) => {
      const absent = !given && !model.sections[i].placed;
      node.classList.toggle("absent", absent);
      node.title = absent ? "not placed: shown only as given" : "";
      node.querySelector("input").checked = shown[i];
      node.querySelector("input").disabled = absent;
      node.querySelector("button").disabled = absent;
    });
  }

  // What the legend says, also for the saved picture.
  function describeLegend(feature, codes, { table, isolated }) {
    const size = new Array(256).fill(0);
    for (const code of codes) size[code] += 1;
    const missing = size[SJ.data.MISSING];
    const entries = feature.kind === "labels"
      ? feature.categories.map((name, i) => ({ name, code: i % SJ.data.LEVELS, colour: table[i % SJ.data.LEVELS], size: size[i % SJ.data.LEVELS] }))
      : [];
    if (missing) entries.push({ name: "no value", code: null, colour: table[SJ.data.MISSING], size: missing });
    const legend = { title: title(feature) + (feature.unit ? `, ${feature.unit}` : ""), entries, isolated };
    if (feature.kind === "numbers") {
      const [low, high] = feature.limits;
      const codeOf = (t) => ((low + t * (high - low) - feature.low) / (feature.high - feature.low || 1)) * SJ.data.LEVELS;
      legend.bar = Array.from({ length: 64 }, (_, i) =>
        table[Math.min(SJ.data.LEVELS, Math.max(0, Math.round(codeOf(i / 63))))]);
      const slack = (feature.high - feature.low) / 500;
      legend.ends = [
        (feature.low < low - slack ? "≤ " : "") + number(low), (feature.high > high + slack ? "≥ " : "") + number(high),
      ];
    }
    return legend;
  }

  function showLegend(legend, isolate) {
    const node = get("legend");
    node.replaceChildren(make("h3", { textContent: legend.title }));
    if (legend.bar) {
      const bar = make("canvas", { width: 190, height: 12 });
      const context = bar.getContext("2d");
      legend.bar.forEach((colour, i) => {
        context.fillStyle = SJ.colours.css(colour);
        context.fillRect((190 * i) / 64, 0, 4, 12);
      });
      node.append(bar, make("div", { className: "ends" }, ...legend.ends.map((textContent) => make("span", { textContent }))));
    }
    const list = make("ul");
    for (const entry of legend.entries) {
      const dot = make("b");
      dot.style.background = SJ.colours.css(entry.colour);
      const button = make("button", { type: "button" }, dot, make("em", { textContent: entry.name }),
        make("i", { textContent: count(entry.size) }));
      button.disabled = entry.code === null || Boolean(legend.bar);
      button.setAttribute("aria-pressed", String(legend.isolated.has(entry.code)));
      button.addEventListener("click", () => isolate(entry.code));
      list.append(make("li", {}, button));
    }
    node.append(list);
    if (!legend.bar) node.append(make("p", { textContent: "Click a name to see it alone." }));
  }

  function showTip(x, y, lines) {
    const tip = get("tip");
    tip.hidden = !lines;
    if (!lines) return;
    tip.replaceChildren(make("b", { textContent: lines[0] }), ...lines.slice(1).map((textContent) => make("span", { textContent })));
    const { clientWidth: w, clientHeight: h } = get("stage");
    tip.style.left = `${Math.min(x + 14, w - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.min(y + 14, h - tip.offsetHeight - 8)}px`;
  }

  function say(message) {
    get("message").textContent = message;
    get("message").hidden = !message;
  }

  return {
    get, number, count, title, facts, colourChoices, search, sections, showSections, describeLegend, showLegend, showTip, say,
  };
})();
