"use strict";

// Colours that colour-blind readers tell apart: Okabe and Ito's for the first categories, viridis, magma and cividis
// for numbers.
SJ.colours = (() => {
  const OKABE_ITO = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#d8c71e"];
  const STOPS = {
    magma: ["#000004", "#1d1147", "#51127c", "#832681", "#b73779", "#e75263", "#fc8961", "#fec488", "#fcfdbf"],
    viridis: ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"],
    cividis: ["#00224e", "#1a386f", "#434e6c", "#61656f", "#7d7c78", "#9b9476", "#bcae6c", "#dec958", "#fee838"],
  };
  const SURROUND = {
    light: { missing: [190, 196, 203], dim: [226, 230, 234] },
    dark: { missing: [86, 95, 105], dim: [40, 48, 57] },
  };

  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const css = (c) => `rgb(${c.join(",")})`;

  // Beyond the seven: hues a golden angle apart at three lightnesses, in Björn Ottosson's OKLab.
  function further(i) {
    const hue = (i * 2.39996) % (2 * Math.PI);
    const lightness = [0.64, 0.78, 0.52][i % 3];
    const [a, b] = [0.12 * Math.cos(hue), 0.12 * Math.sin(hue)];
    const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
    const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
    const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
    return [
      4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
      -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
      -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
    ].map((x) => {
      const c = Math.min(1, Math.max(0, x));
      return Math.round(255 * (c <= 0.0031308 ? 12.92 * c : 1.055 * c ** (1 / 2.4) - 0.055));
    });
  }

  const category = (i) => (i < OKABE_ITO.length ? rgb(OKABE_ITO[i]) : further(i));

  function along(name, t) {
    const stops = STOPS[name];
    const at = Math.min(Math.max(t, 0), 1) * (stops.length - 1);
    const i = Math.min(Math.floor(at), stops.length - 2);
    const [from, to] = [rgb(stops[i]), rgb(stops[i + 1])];
    return from.map((c, k) => Math.round(c + (at - i) * (to[k] - c)));
  }

  // Magma runs from the background towards contrast, so that cells without expression recede.
  function sequential(name, t, theme) {
    if (name !== "magma") return along(name, t);
    return along("magma", theme === "dark" ? 0.22 + 0.78 * t : 0.9 - 0.82 * t);
  }

  // The colour of each of the 256 codes.
  function table(feature, { palette, theme, isolated }) {
    const around = SURROUND[theme];
    const result = [];
    for (let code = 0; code < SJ.data.MISSING; code++) {
      if (feature.kind === "labels") {
        result.push(isolated.size && !isolated.has(code) ? around.dim : category(code));
      } else {
        const [low, high] = feature.limits;
        result.push(sequential(palette, (SJ.data.value(feature, code) - low) / (high - low || 1), theme));
      }
    }
    result.push(isolated.size ? around.dim : around.missing);
    return result;
  }

  return { PALETTES: Object.keys(STOPS), SURROUND, category, sequential, table, css };
})();
