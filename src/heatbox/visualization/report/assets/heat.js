/* Low-resolution maps, resized as in the evaluator and overlaid on images in colour. */

/* Nine colours of the viridis scale, dark (0) to yellow (1): even in lightness, distinct for colour-blind readers. */
const SCALE = [
  [68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141],
  [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37],
];

/** Colour of a value in [0, 1]. */
function colourOf(value) {
  const place = Math.min(Math.max(value, 0), 1) * (SCALE.length - 1);
  const index = Math.min(Math.floor(place), SCALE.length - 2);
  const fraction = place - index;
  return SCALE[index].map((low, i) => low + (SCALE[index + 1][i] - low) * fraction);
}

/* The cubic kernel of OpenCV's resize. */
function cubic(x) {
  const a = -0.75;
  const d = Math.abs(x);
  if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  return d < 2 ? ((a * d - 5 * a) * d + 8 * a) * d - 4 * a : 0;
}

/** For each of `to` positions the four of `from` that it interpolates, and their weights. */
function interpolation(from, to) {
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * (from / to) - 0.5;
    const base = Math.floor(centre);
    return [-1, 0, 1, 2].map((step) => [
      Math.min(Math.max(base + step, 0), from - 1), cubic(centre - base - step),
    ]);
  });
}

/** (h, w) bytes → (side, side) values in [0, 1]. */
function enlarge(bytes, [height, width], side) {
  const across = interpolation(width, side);
  const down = interpolation(height, side);
  const rows = new Float32Array(height * side);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < side; x += 1) {
      let sum = 0;
      for (const [place, weight] of across[x]) sum += weight * bytes[y * width + place];
      rows[y * side + x] = sum;
    }
  }
  const out = new Float32Array(side * side);
  let low = Infinity;
  let high = -Infinity;
  for (let y = 0; y < side; y += 1) {
    for (let x = 0; x < side; x += 1) {
      let sum = 0;
      for (const [place, weight] of down[y]) sum += weight * rows[place * side + x];
      out[y * side + x] = sum;
      low = Math.min(low, sum);
      high = Math.max(high, sum);
    }
  }
  const range = high > low ? high - low : 0;
  for (let i = 0; i < out.length; i += 1) out[i] = range ? (out[i] - low) / range : 0;
  return out;
}

/** Draw a map into a canvas of side x side pixels. */
function paintHeat(canvas, map, side) {
  const values = enlarge(bytesOf(map.heat), map.shape, side);
  canvas.width = side;
  canvas.height = side;
  const pen = canvas.getContext("2d");
  const pixels = pen.createImageData(side, side);
  for (let i = 0; i < values.length; i += 1) {
    const [red, green, blue] = colourOf(values[i]);
    pixels.data.set([red, green, blue, 255], 4 * i);
  }
  pen.putImageData(pixels, 0, 0);
}
