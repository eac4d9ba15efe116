"use strict";
const SJ = {};

// What the file holds: read once, inflated when first shown.
SJ.data = (() => {
  const MISSING = 255;
  const LEVELS = 254;

  function bytes(text) {
    const binary = atob(text);
    const result = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) result[i] = binary.charCodeAt(i);
    return result;
  }

  async function inflated(text) {
    const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  const floats = async (text) => new Float32Array((await inflated(text)).buffer);
  const names = async (text) => JSON.parse(new TextDecoder().decode(await inflated(text)));

  const points = async (packed) => packed && { origin: packed.origin, xyz: await floats(packed.xyz) };

  // The codes of all cells; `nonzero` says that only those above 0 are held, after the gaps between them.
  async function codesOf(facts, cells) {
    const stream = await inflated(facts.codes);
    if (facts.nonzero === undefined) return stream;
    const result = new Uint8Array(cells);
    const values = stream.length - facts.nonzero;
    for (let i = 0, cell = 0, found = 0; i < values; i++) {
      cell += stream[i];
      if (stream[i] === 255) continue;
      result[cell] = stream[values + found];
      cell += 1;
      found += 1;
    }
    return result;
  }

  // Something to colour by. `codes` is a promise of one byte a cell.
  function feature(id, facts, cells) {
    let codes = null;
    return { ...facts, id, codes: () => (codes ??= codesOf(facts, cells)) };
  }

  function sectionFeature(sections, cells) {
    const codes = new Uint8Array(cells);
    // More than 254 sections share colours; no reader tells that many apart.
    sections.forEach((section, i) => codes.fill(i % LEVELS, section.start, section.end));
    const facts = { name: "section", kind: "labels", ours: true, categories: sections.map((s) => s.name) };
    return { ...facts, id: "section", codes: () => Promise.resolve(codes) };
  }

  async function read() {
    const raw = JSON.parse(document.getElementById("atlas").textContent);
    let start = 0;
    const sections = raw.sections.map((section) => {
      const first = start;
      start += section.cells;
      return { ...section, start: first, end: start };
    });
    const [placed, given, cellNames, others] = await Promise.all([
      points(raw.placed), points(raw.given), names(raw.names), names(raw.genes.others),
    ]);
    const columns = raw.columns.map((column, i) => feature(`column:${i}`, column, raw.cells));
    const genes = raw.genes.held.map((gene) =>
      feature(`gene:${gene.name}`, { ...gene, kind: "numbers", unit: raw.genes.scale, gene: true }, raw.cells));
    return {
      cells: raw.cells, spacing: raw.spacing, notes: raw.notes, leftOut: raw.leftOut, sections, placed, given,
      cellNames, genes, others, geneSentence: raw.genes.sentence,
      features: [...columns, sectionFeature(sections, raw.cells)],
    };
  }

  const value = (f, code) => (code === MISSING ? NaN : f.low + (code / LEVELS) * (f.high - f.low));

  return { MISSING, LEVELS, read, value };
})();
