"use strict";
/* Boxes at a threshold and their IoU with the ground truth, computed as the evaluator does. */

/** base64 → Uint8Array */
function bytesOf(text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i += 1) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

/** Undo zlib. */
async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

/** The rows of each of `images` images, in the format of `packed` in explorer.py. */
async function unpackRows(text, images) {
  const buffer = await inflate(bytesOf(text));
  const counts = new Uint32Array(buffer, 0, 2 * images);
  const starts = [[0], [0]];
  for (let i = 0; i < 2 * images; i += 1) starts[i % 2].push(starts[i % 2].at(-1) + counts[i]);
  const totals = starts.map((ends) => ends.at(-1));
  let at = 8 * images;
  const column = (Kind, of) => {
    const found = new Kind(buffer, at, totals[of]);
    at += found.byteLength;
    return found;
  };
  const columns = [0, 1, 1].map((of) => column(Uint16Array, of));
  const largest = [0, 0, 0, 0].map((of) => column(Uint8Array, of));
  const boxes = [1, 1, 1, 1].map((of) => column(Uint8Array, of));
  return Array.from({ length: images }, (_, i) => {
    const cut = (whole, of) => whole.subarray(starts[of][i], starts[of][i + 1]);
    return {
      largestFirst: cut(columns[0], 0), first: cut(columns[1], 1), last: cut(columns[2], 1),
      largest: largest.map((side) => cut(side, 0)), boxes: boxes.map((side) => cut(side, 1)),
    };
  });
}

const rowOf = (sides, row) => sides.map((side) => side[row]);

/** Boxes [x0, y0, x1, y1] at threshold number k, of the largest contour or of all. */
function boxesAt(rows, k, contours) {
  if (contours === "largest") {
    let low = 0;
    let high = rows.largestFirst.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (rows.largestFirst[middle] <= k) low = middle; else high = middle - 1;
    }
    return [rowOf(rows.largest, low)];
  }
  const found = [];
  for (let row = 0; row < rows.first.length && rows.first[row] <= k; row += 1) {
    if (k <= rows.last[row]) found.push(rowOf(rows.boxes, row));
  }
  return found;
}

/** Intersection over union; `one` is 1 if x1 and y1 are the last column and row of a box, else 0. */
function boxIou(a, b, one) {
  const width = Math.max(Math.min(a[2], b[2]) - Math.max(a[0], b[0]) + one, 0);
  const height = Math.max(Math.min(a[3], b[3]) - Math.max(a[1], b[1]) + one, 0);
  const shared = width * height;
  const union = (a[2] - a[0] + one) * (a[3] - a[1] + one) + (b[2] - b[0] + one) * (b[3] - b[1] + one) - shared;
  return union > 0 ? shared / union : 0;
}

/** The best IoU of any box with any ground-truth box. */
function bestIou(boxes, truth, one) {
  let best = 0;
  for (const box of boxes) for (const other of truth) best = Math.max(best, boxIou(box, other, one));
  return best;
}

/** Number of images with a box that reaches an IoU, at each threshold: one array for each IoU. */
function hitCounts(predictions, truths, one, thresholds, contours, ious) {
  return ious.map((wanted) => {
    const counts = new Float64Array(thresholds);
    predictions.forEach((prediction, index) => {
      if (!prediction) return;
      const hit = new Uint8Array(thresholds);
      const { rows } = prediction;
      const largest = contours === "largest";
      const [boxes, first] = largest ? [rows.largest, rows.largestFirst] : [rows.boxes, rows.first];
      for (let row = 0; row < first.length; row += 1) {
        if (bestIou([rowOf(boxes, row)], truths[index], one) < wanted) continue;
        const next = row + 1 < first.length ? first[row + 1] : thresholds;
        hit.fill(1, first[row], largest ? next : rows.last[row] + 1);
      }
      for (let k = 0; k < thresholds; k += 1) counts[k] += hit[k];
    });
    return counts;
  });
}
