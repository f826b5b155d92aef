/* Parts of the page: elements, frames of images, tables. Text is set as textContent only. */

const SVG = "http://www.w3.org/2000/svg";

/** 0.25 as .250. */
const decimals = (value) => value.toFixed(3).replace(/^0/, "");

/** 0.25 as 25.0%. */
const percent = (value) => `${(100 * value).toFixed(1)}%`;

function make(kind, className_, text) {
  const node = document.createElement(kind);
  if (className_) node.className = className_;
  if (text !== undefined) node.textContent = text;
  return node;
}

/** An image with its map and boxes, in its aspect ratio; boxes are in a square of `side` pixels. */
function makeFrame({ size, jpeg, id }, side) {
  const stage = make("div", "stage");
  const frame = make("div", jpeg ? "frame" : "frame bare");
  const [width, height] = size;
  frame.style.width = `${100 * Math.min(1, width / height)}%`;
  frame.style.height = `${100 * Math.min(1, height / width)}%`;
  if (jpeg) {
    const photo = make("img");
    photo.alt = id;
    photo.decoding = "async";
    frame.append(photo);
  }
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${side} ${side}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  for (const name of ["rim truth-rim", "truth", "rim found-rim", "found", "rim other-rim", "other"]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", name);
    svg.append(path);
  }
  frame.append(make("canvas"), svg);
  stage.append(frame);
  return stage;
}

/** The path of boxes' outlines. */
const outline = (boxes) => Array.from(boxes, ([x0, y0, x1, y1]) => `M${x0} ${y0}H${x1}V${y1}H${x0}Z`).join("");

function tableOf(headings, rows) {
  const table = make("table");
  const line = (cells, kind) => {
    const row = make("tr");
    row.append(...cells.map((cell) => make(kind, "", cell)));
    return row;
  };
  const head = make("thead");
  const body = make("tbody");
  head.append(line(headings, "th"));
  body.append(...rows.map((cells) => line(cells, "td")));
  table.append(head, body);
  return table;
}

/** An option of a select. */
const option = (value, text) => {
  const one = make("option", "", text);
  one.value = value;
  return one;
};
