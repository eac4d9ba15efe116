"use strict";

// The cells in K3D: one Points object a section. Every change is made inside the buffers that are on the device, so
// colouring anew or stretching copies one number a cell.
SJ.scene = (() => {
  const FOV = 25;
  const ROOM = 0.78; // share of the window that the tissue may fill
  const SLOTS = 256;
  const DOT = 0.7; // of the distance to the next cell: dots of a grid stay apart
  const GHOST = 0.3; // size of the cells that a chosen category leaves in the background
  // y runs down the page as in the sections' own pictures; seen from above the first height lies on top.
  const VIEWS = {
    oblique: { from: [-0.3, 0.85, -0.6], up: [0, 0, -1] },
    above: { from: [0, 0, -1], up: [0, -1, 0] },
    front: { from: [0, 1, 0], up: [0, 0, -1] },
    side: { from: [1, 0, 0], up: [0, 0, -1] },
  };
  let plot;
  let model;
  let points; // of the current mode: {origin, xyz}
  let stretch = 1;
  let shown = [];
  let slab = [-Infinity, Infinity];
  let small = null; // cells drawn as ghosts, or null
  let diameter = 1;
  let drawing = false;

  const array = (data, ...shape) => ({ data, shape });
  const empty = () => array(new Float32Array(0), 0);
  const finite = (i) => Number.isFinite(points.xyz[3 * i] + points.xyz[3 * i + 1] + points.xyz[3 * i + 2]);

  function positions(section) {
    const { start, end } = section;
    const result = new Float32Array(3 * (end - start));
    let stand = [0, 0, 0];
    for (let i = start; i < end; i++) {
      if (finite(i)) { stand = points.xyz.subarray(3 * i, 3 * i + 3); break; }
    }
    for (let i = start; i < end; i++) {
      // A cell without a place hides under another one: the device has no word for it.
      const p = finite(i) ? points.xyz.subarray(3 * i, 3 * i + 3) : stand;
      result.set([p[0], p[1], p[2] * stretch], 3 * (i - start));
    }
    return result;
  }

  function sizes({ start, end }) {
    const result = new Float32Array(end - start).fill(diameter);
    if (small) for (let i = start; i < end; i++) if (small[i]) result[i - start] *= GHOST;
    return result;
  }

  function object(section, i) {
    const n = section.end - section.start;
    return {
      id: i + 1, type: "Points", name: `section ${i + 1}`, visible: true, shader: "flat", mesh_detail: 2,
      positions: array(positions(section), n, 3), colors: array(new Uint32Array(0), 0), color: 0xffffff, opacity: 1,
      point_size: diameter, point_sizes: array(sizes(section), n), opacities: empty(),
      attribute: array(new Float32Array(n), n), color_map: array(new Float32Array([0, 0.5, 0.5, 0.5, 1, 0.5, 0.5, 0.5]), 8),
      color_range: [0, 1], opacity_function: empty(),
      model_matrix: array(new Float32Array([1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]), 4, 4),
    };
  }

  async function create(node, cells) {
    model = cells;
    points = cells.placed;
    diameter = cells.spacing * DOT;
    plot = new k3d.K3D(k3d.ThreeJsProvider, node, {
      menuVisibility: false, gridVisible: false, axesHelper: 0, cameraAutoFit: false, antialias: 0, colorbarObjectId: 0,
      logarithmicDepthBuffer: false, cameraFov: FOV, clearColor: -1, renderOnChange: false,
    });
    shown = cells.sections.map((section) => section.placed);
    // The eye must stand outside before anything is drawn: from within, a few dots cover the screen a thousand times.
    look("oblique");
    await plot.load({ objects: cells.sections.map(object).filter((o) => o.positions.shape[0] > 0) });
    setShown(shown);
  }

  // `make` gives the changed properties of one section, or nothing.
  async function change(make) {
    const known = plot.getWorld().ObjectsListJson;
    await Promise.all(model.sections.map((section, i) => {
      const json = known[i + 1];
      const changes = json && make(section);
      return changes && plot.reload(Object.assign(json, changes), changes, true);
    }));
    draw();
  }

  // Any number of changes between two frames are one picture.
  function draw() {
    if (drawing) return;
    drawing = true;
    requestAnimationFrame(() => {
      drawing = false;
      plot.render(true);
    });
  }

  const moved = () => change((s) => ({ positions: array(positions(s), s.end - s.start, 3) }));

  function setPoints(next) {
    points = next;
    return moved();
  }

  function setStretch(factor) {
    stretch = factor;
    clip();
    return moved();
  }

  function setDiameter(next) {
    diameter = next;
    return resized();
  }

  function setGhosts(next) {
    if (!next && !small) return Promise.resolve();
    small = next;
    return resized();
  }

  const resized = () => change((s) => ({ point_sizes: array(sizes(s), s.end - s.start) }));

  function setCodes(codes) {
    return change((s) => {
      const slots = new Float32Array(s.end - s.start);
      for (let i = s.start; i < s.end; i++) slots[i - s.start] = (codes[i] + 0.5) / SLOTS;
      return { attribute: array(slots, slots.length) };
    });
  }

  // One flat step a code. K3D draws the map on 1,024 pixels, four for each, and takes one colour a position: the steps
  // must not touch.
  function setColours(table) {
    const stops = [];
    const opaque = []; // at the very same positions, or K3D searches for each of them
    table.forEach((colour, code) => {
      const c = colour.map((x) => x / 255);
      for (const at of [0.01, 0.99]) {
        stops.push((code + at) / SLOTS, ...c);
        opaque.push((code + at) / SLOTS, 1);
      }
    });
    const changes = {
      color_map: array(new Float32Array(stops), stops.length),
      opacity_function: array(new Float32Array(opaque), opaque.length),
    };
    return change(() => ({ ...changes }));
  }

  function setShown(next) {
    shown = next;
    const objects = plot.getWorld().ObjectsById;
    shown.forEach((visible, i) => { if (objects[i + 1]) objects[i + 1].visible = visible; });
    draw();
  }

  function clip() {
    const [low, high] = slab.map((z) => (z - points.origin[2]) * stretch);
    const planes = [];
    if (Number.isFinite(low)) planes.push([0, 0, 1, -low]);
    if (Number.isFinite(high)) planes.push([0, 0, -1, high]);
    plot.setClippingPlanes(planes);
  }

  function setSlab(low, high) {
    slab = [low, high];
    clip();
  }

  // Box of the cells on show with a dot's width around it, µm, or null where there is none.
  function bounds() {
    const low = [Infinity, Infinity, Infinity];
    const high = [-Infinity, -Infinity, -Infinity];
    model.sections.forEach((section, s) => {
      if (!shown[s]) return;
      for (let i = section.start; i < section.end; i++) {
        if (!finite(i)) continue;
        for (let k = 0; k < 3; k++) {
          const v = points.xyz[3 * i + k];
          if (v < low[k]) low[k] = v;
          if (v > high[k]) high[k] = v;
        }
      }
    });
    if (low[0] > high[0]) return null;
    const edge = [diameter, diameter, 0];
    return {
      low: low.map((v, k) => v + points.origin[k] - edge[k]), high: high.map((v, k) => v + points.origin[k] + edge[k]),
    };
  }

  // µm in the frame of the page → the place where K3D draws it.
  const toScene = (p) => [p[0] - points.origin[0], p[1] - points.origin[1], (p[2] - points.origin[2]) * stretch];

  // The nearest place from which all corners of the box are seen, with room for the axes.
  function look(name) {
    const box = bounds();
    if (!box) return;
    const [low, high] = [toScene(box.low), toScene(box.high)];
    const centre = low.map((v, k) => (v + high[k]) / 2);
    const { width, height } = plot.getWorld();
    const { from, up } = VIEWS[name];
    const back = unit(from);
    const right = unit(cross(up, back));
    const above = cross(back, right);
    const reach = ROOM * Math.tan((FOV * Math.PI) / 360);
    let distance = 2 * diameter;
    for (let bits = 0; bits < 8; bits++) {
      const p = low.map((v, k) => ((bits >> k) & 1 ? high[k] : v) - centre[k]);
      const needed = Math.max(Math.abs(dot(p, right)) * (height / width), Math.abs(dot(p, above))) / reach;
      distance = Math.max(distance, needed + dot(p, back));
    }
    plot.setCamera([...centre.map((c, k) => c + back[k] * distance), ...centre, ...up]);
    draw();
  }

  const dot = (a, b) => a.reduce((sum, v, k) => sum + v * b[k], 0);
  const unit = (a) => a.map((v) => v / Math.hypot(...a));
  const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];

  // Scene → pixels: a function that fills [x, y, depth]; depth is negative behind the camera.
  function projector() {
    const { camera, width, height } = plot.getWorld();
    camera.updateMatrixWorld();
    const p = camera.projectionMatrix.elements;
    const v = camera.matrixWorldInverse.elements;
    const m = new Float64Array(16);
    for (let c = 0; c < 4; c++) {
      for (let r = 0; r < 4; r++) for (let k = 0; k < 4; k++) m[4 * c + r] += p[4 * k + r] * v[4 * c + k];
    }
    return (x, y, z, out) => {
      const w = m[3] * x + m[7] * y + m[11] * z + m[15];
      out[0] = ((m[0] * x + m[4] * y + m[8] * z + m[12]) / w + 1) * 0.5 * width;
      out[1] = (1 - (m[1] * x + m[5] * y + m[9] * z + m[13]) / w) * 0.5 * height;
      out[2] = w;
      return out;
    };
  }

  // The cell under a pixel: the one nearest to the eye among those whose dot covers it, else the nearest within reach.
  function pick(x, y) {
    const project = projector();
    const { height } = plot.getWorld();
    const scale = height / (2 * Math.tan((FOV * Math.PI) / 360)); // pixels of 1 µm at a depth of 1 µm
    const out = [0, 0, 0];
    let best = -1;
    let score = Infinity;
    model.sections.forEach((section, s) => {
      if (!shown[s]) return;
      for (let i = section.start; i < section.end; i++) {
        const z = points.xyz[3 * i + 2];
        if (z + points.origin[2] < slab[0] || z + points.origin[2] > slab[1] || !finite(i)) continue;
        project(points.xyz[3 * i], points.xyz[3 * i + 1], z * stretch, out);
        if (out[2] <= 0) continue;
        const away = Math.hypot(out[0] - x, out[1] - y);
        const radius = (0.5 * diameter * (small && small[i] ? GHOST : 1) * scale) / out[2];
        const found = away <= Math.max(radius, 1.5) ? out[2] - 1e12 : away <= 7 ? away : Infinity;
        if (found < score) [score, best] = [found, i];
      }
    });
    return best;
  }

  function place(i) {
    return [0, 1, 2].map((k) => points.xyz[3 * i + k] + points.origin[k]);
  }

  return {
    VIEWS, create, setPoints, setStretch, setDiameter, setGhosts, setCodes, setColours, setShown, setSlab,
    bounds, toScene, look, projector, pick, place,
    DOT,
    onDrawn: (f) => plot.on(plot.events.RENDERED, f),
    picture: (scale) => plot.getScreenshot(scale, true),
    view: () => plot.getWorld(),
    isShown: (s) => shown[s],
  };
})();
