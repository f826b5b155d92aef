/* The explorer: one state, and the grid of cards drawn from it. Text is set as textContent only. */
(async () => {
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  const el = (id) => document.getElementById(id);
  const IOUS = [0.3, 0.5, 0.7];
  const state = {
    map: 0, other: -1, contours: "largest", iou: 0.5, heat: true, open: -1,
    k: data.maps.map((map) => Math.round(map.oracle * map.thresholds)),
  };
  const visible = new Set();
  let order = [];

  for (const map of data.maps) {
    const rows = await unpackRows(map.boxes, data.images.length);
    map.predictions.forEach((prediction, image) => { if (prediction) prediction.rows = rows[image]; });
    map.one = map.protocol === "reference" ? 1 : 0;
    map.title = data.maps.some((m) => m.run !== map.run) ? `${map.method} · ${map.run}` : map.method;
    map.curves = {};
  }

  // ------------------------------------------------------------------------------------------- numbers

  const className = (label) => data.classes[label] ?? `class ${label}`;
  const truthOf = (image, map) => data.images[image].truth[map.protocol] ?? [];

  function boxesOf(image, which) {
    const prediction = data.maps[which].predictions[image];
    return prediction ? boxesAt(prediction.rows, state.k[which], state.contours) : [];
  }

  function iouOf(image, which) {
    const map = data.maps[which];
    return map.predictions[image] ? bestIou(boxesOf(image, which), truthOf(image, map), map.one) : NaN;
  }

  function curvesOf(which) {
    const map = data.maps[which];
    if (!map.curves[state.contours]) {
      const truths = data.images.map((_, image) => truthOf(image, map));
      map.curves[state.contours] = hitCounts(
        map.predictions, truths, map.one, map.thresholds, state.contours, IOUS,
      );
    }
    return map.curves[state.contours];
  }

  // --------------------------------------------------------------------------------------------- frames

  function drawFrame(stage, image, side, which = state.map, boxes = true) {
    const frame = stage.firstChild;
    const photo = frame.querySelector("img");
    if (photo && !photo.src) photo.src = `data:image/jpeg;base64,${data.images[image].jpeg}`;
    const prediction = data.maps[which].predictions[image];
    const canvas = frame.querySelector("canvas");
    frame.classList.toggle("warm", state.heat && Boolean(prediction));
    const key = `${which} ${image}`;
    if (prediction && state.heat && canvas.dataset.shows !== key) {
      paintHeat(canvas, prediction, side);
      canvas.dataset.shows = key;
    }
    if (!boxes) return;
    const set = (name, list) => {
      const path = outline(list);
      frame.querySelector(`path.${name}`).setAttribute("d", path);
      frame.querySelector(`path.${name}-rim`).setAttribute("d", path);
    };
    set("truth", truthOf(image, data.maps[which]));
    set("found", boxesOf(image, which));
    set("other", state.other >= 0 ? boxesOf(image, state.other) : []);
  }

  // ---------------------------------------------------------------------------------------------- cards

  const cards = data.images.map((image, index) => {
    const card = make("button", "card");
    card.type = "button";
    card.dataset.image = index;
    const label = make("div", "label");
    label.append(make("span", "mark"), make("span", "name", className(image.label)), make("span", "number"));
    card.append(makeFrame(data.images[index], data.frame), label);
    card.addEventListener("click", () => openLarge(index));
    return card;
  });

  function labelCard(card, index) {
    const iou = iouOf(index, state.map);
    const hit = iou >= state.iou;
    card.classList.toggle("miss", !hit);
    const [mark, , number] = card.lastChild.children;
    mark.textContent = hit ? "✓" : "✗";
    number.textContent = Number.isNaN(iou) ? "–" : decimals(iou);
    card.title = `${data.images[index].id}: ${className(data.images[index].label)}`;
    const verdict = hit ? "hit" : "miss";
    card.setAttribute("aria-label", `${card.title}, ${verdict}, IoU ${number.textContent}; enlarge`);
  }

  function drawCard(index) {
    drawFrame(cards[index].firstChild, index, 56);
    labelCard(cards[index], index);
  }

  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const index = Number(entry.target.dataset.image);
      if (entry.isIntersecting) {
        visible.add(index);
        drawCard(index);
      } else visible.delete(index);
    }
  }, { rootMargin: "300px" });

  // ------------------------------------------------------------------------------------ filter and sort

  function passes(index) {
    const chosen = el("class").value;
    if (chosen !== "" && data.images[index].label !== Number(chosen)) return false;
    const iou = iouOf(index, state.map);
    const hit = iou >= state.iou;
    const hits = el("hits").value;
    if (hits && (hits === "hit") !== hit) return false;
    if (iou < Number(el("iou-from").value) || iou > Number(el("iou-to").value)) return false;
    const agreement = state.other >= 0 ? el("agreement").value : "";
    if (!agreement) return true;
    const second = iouOf(index, state.other) >= state.iou;
    return {
      differ: hit !== second, first: hit && !second, second: !hit && second,
      both: hit && second, neither: !hit && !second,
    }[agreement];
  }

  function arrange() {
    const rank = {
      run: (index) => index,
      worst: (index) => iouOf(index, state.map),
      best: (index) => -iouOf(index, state.map),
      difference: (index) => -Math.abs(iouOf(index, state.map) - iouOf(index, state.other)),
    }[state.other < 0 && el("sort").value === "difference" ? "run" : el("sort").value];
    const found = data.images.map((_, index) => index).filter(passes);
    const ranks = new Map(found.map((index) => [index, rank(index)]));
    found.sort((a, b) => ranks.get(a) - ranks.get(b) || a - b);
    el("count").textContent = `– ${found.length} of ${data.images.length} images`;
    el("nothing").hidden = found.length > 0;
    if (found.length !== order.length || found.some((index, place) => order[place] !== index)) {
      order = found;
      const held = document.activeElement;
      el("grid").replaceChildren(...order.map((index) => cards[index]));
      if (held && held.classList.contains("card") && held.isConnected) held.focus({ preventScroll: true });
    }
  }

  /** Whether moving the threshold can change which cards are shown, or their order. */
  const depends = () => el("hits").value || el("agreement").value || el("sort").value !== "run"
    || Number(el("iou-from").value) > 0 || Number(el("iou-to").value) < 1;

  // -------------------------------------------------------------------------------------------- controls

  function scoreText(which) {
    const counts = curvesOf(which);
    const images = data.maps[which].predictions.filter(Boolean).length;
    const parts = IOUS.map((iou, i) => `${percent(counts[i][state.k[which]] / images)} from IoU ${iou}`);
    return `${data.maps[which].title} at ${decimals(state.k[which] / data.maps[which].thresholds)}: `
      + `${parts.join(" · ")} (${images} images)`;
  }

  function curvePath(which) {
    const counts = curvesOf(which)[IOUS.indexOf(state.iou)];
    const step = Math.max(1, Math.floor(counts.length / 250));
    const most = Math.max(1, ...curvesOf(state.map)[IOUS.indexOf(state.iou)]);
    let path = "";
    for (let k = 0; k < counts.length; k += step) {
      path += `${path ? "L" : "M"}${(1000 * k) / (counts.length - 1)} ${100 - Math.min(100, (90 * counts[k]) / most)}`;
    }
    return path;
  }

  function drawControls() {
    const map = data.maps[state.map];
    el("threshold").max = map.thresholds - 1;
    el("threshold").value = state.k[state.map];
    el("at").textContent = decimals(state.k[state.map] / map.thresholds);
    el("curve-line").setAttribute("d", curvePath(state.map));
    const x = (1000 * state.k[state.map]) / (map.thresholds - 1);
    el("curve-mark").setAttribute("d", `M${x} 0V100`);
    let text = scoreText(state.map);
    el("other-slider").hidden = state.other < 0;
    document.querySelector(".other-key").hidden = state.other < 0;
    el("agreement").disabled = state.other < 0;
    el("sort").querySelector("[value=difference]").disabled = state.other < 0;
    el("curve-other").setAttribute("d", state.other < 0 ? "" : curvePath(state.other));
    if (state.other >= 0) {
      const other = data.maps[state.other];
      el("other-threshold").max = other.thresholds - 1;
      el("other-threshold").value = state.k[state.other];
      el("other-at").textContent = decimals(state.k[state.other] / other.thresholds);
      text += `\n${scoreText(state.other)}`;
    }
    el("score").innerText = text;
  }

  /** Buttons that set a threshold: the best one on these images, and the transferred one. */
  function drawMarks() {
    for (const [id, which] of [["marks", state.map], ["other-marks", state.other]]) {
      if (which < 0) continue;
      const map = data.maps[which];
      const oracle = state.contours === "all" ? map.oracle_all : map.oracle;
      const marks = [["best", oracle], ["transferred", state.contours === "all" ? null : map.transferred]];
      el(id).replaceChildren(...marks.filter(([, value]) => value !== null).map(([name, value]) => {
        const button = make("button", "", `${name} ${decimals(value)}`);
        button.type = "button";
        button.addEventListener("click", () => moveTo(which, Math.round(value * map.thresholds)));
        return button;
      }));
    }
  }

  let waiting = false;
  function refresh() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      drawControls();
      if (depends() || order.length === 0) arrange();
      for (const index of visible) drawCard(index);
      if (state.open >= 0) drawLarge();
    });
  }

  function rearrange() {
    drawMarks();
    drawControls();
    arrange();
    refresh();
  }

  function moveTo(which, k) {
    state.k[which] = Math.min(Math.max(k, 0), data.maps[which].thresholds - 1);
    refresh();
  }

  // ------------------------------------------------------------------------------------------ large view

  const large = el("large");

  function openLarge(index) {
    state.open = index;
    el("large-frame").replaceChildren(makeFrame(data.images[index], data.frame));
    drawLarge();
    if (!large.open) large.showModal();
  }

  function stepLarge(by) {
    if (!order.length) return;
    const place = order.indexOf(state.open);
    openLarge(order[(Math.max(place, 0) + by + order.length) % order.length]);
  }

  function drawLarge() {
    const index = state.open;
    const image = data.images[index];
    el("large-name").textContent = `${className(image.label)} – ${image.id}`;
    drawFrame(el("large-frame").firstChild, index, 224);
    el("large-threshold").max = data.maps[state.map].thresholds - 1;
    el("large-threshold").value = state.k[state.map];
    el("large-at").textContent = el("at").textContent;
    const facts = [];
    const rows = data.maps.map((map, which) => {
      const iou = iouOf(index, which);
      const hit = Number.isNaN(iou) ? "" : iou >= state.iou ? " ✓" : " ✗";
      return [map.title, decimals(state.k[which] / map.thresholds), Number.isNaN(iou) ? "–" : decimals(iou) + hit];
    });
    facts.push(tableOf(["map", "threshold", "IoU"], rows));
    facts.push(make("p", "hint", ", and . move the threshold; ← and → go through the images shown"));
    const prediction = data.maps[state.map].predictions[index];
    if (prediction) {
      const list = make("ol");
      list.append(...prediction.top5.map((label) => make("li", "", className(label) + (label === image.label ? " (the label)" : ""))));
      facts.push(make("h4", "", "Classifier's top classes"), list);
      facts.push(...channelFacts(prediction, image));
    }
    el("large-facts").replaceChildren(...facts);
  }

  /** The saved channels of highest class weight, each with its weight. */
  function channelFacts(prediction, image) {
    if (!prediction.channels) return [];
    const holder = make("div", "channels");
    holder.append(...prediction.channels.map((channel) => {
      const one = make("div");
      const stage = makeFrame(image, data.frame);
      stage.querySelector("svg").remove();
      const photo = stage.querySelector("img");
      if (photo) photo.src = `data:image/jpeg;base64,${image.jpeg}`;
      stage.firstChild.classList.add("warm");
      paintHeat(stage.querySelector("canvas"), channel, 56);
      one.append(stage, make("div", "", `no. ${channel.index}: ${channel.weight.toFixed(3)}`));
      return one;
    }));
    return [make("h4", "", `Channels of highest weight for ${className(prediction.target)}`), holder];
  }

  large.addEventListener("close", () => {
    const card = cards[state.open];
    state.open = -1;
    if (card && card.isConnected) card.focus();
  });
  large.addEventListener("click", (event) => { if (event.target === large) large.close(); });
  el("close").addEventListener("click", () => large.close());
  el("previous").addEventListener("click", () => stepLarge(-1));
  el("next").addEventListener("click", () => stepLarge(1));

  // ---------------------------------------------------------------------------------------------- begin

  el("map").append(...data.maps.map((map, which) => option(which, map.title)));
  el("other").append(option(-1, "none"), ...data.maps.map((map, which) => option(which, map.title)));
  const labels = [...new Set(data.images.map((image) => image.label))].sort((a, b) => a - b);
  el("class").append(option("", `all ${labels.length}`), ...labels.map((label) => option(label, className(label))));
  const few = data.images.length < data.total;
  el("about").textContent = (few
    ? `${data.images.length} of the run's ${data.total} images, spread evenly from best to worst.`
    : `All ${data.total} images of the run.`)
    + " Moving the threshold moves the boxes on every image; the boxes shown are the ones scored."
    + (data.has_jpegs ? "" : " The images were not found, so maps are shown alone.");

  el("map").addEventListener("change", () => { state.map = Number(el("map").value); rearrange(); });
  el("other").addEventListener("change", () => { state.other = Number(el("other").value); rearrange(); });
  el("heat").addEventListener("change", () => { state.heat = el("heat").checked; refresh(); });
  el("threshold").addEventListener("input", () => moveTo(state.map, Number(el("threshold").value)));
  el("large-threshold").addEventListener("input", () => moveTo(state.map, Number(el("large-threshold").value)));
  el("other-threshold").addEventListener("input", () => moveTo(state.other, Number(el("other-threshold").value)));
  for (const radio of document.querySelectorAll("input[name=contours]")) {
    radio.addEventListener("change", () => { state.contours = radio.value; rearrange(); });
  }
  for (const radio of document.querySelectorAll("input[name=iou]")) {
    radio.addEventListener("change", () => { state.iou = Number(radio.value); rearrange(); });
  }
  for (const id of ["class", "hits", "agreement", "iou-from", "iou-to", "sort"]) {
    el(id).addEventListener("change", rearrange);
  }
  el("reset").addEventListener("click", () => {
    for (const id of ["class", "hits", "agreement"]) el(id).value = "";
    el("iou-from").value = 0;
    el("iou-to").value = 1;
    el("sort").value = "run";
    rearrange();
  });

  const keys = {
    ",": () => moveTo(state.map, state.k[state.map] - 1),
    ".": () => moveTo(state.map, state.k[state.map] + 1),
    "<": () => moveTo(state.map, state.k[state.map] - 10),
    ">": () => moveTo(state.map, state.k[state.map] + 10),
    b: () => el("marks").firstChild.click(),
    h: () => el("heat").click(),
    c: () => document.querySelector("input[name=contours]:not(:checked)").click(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    if (event.target.type === "number") return;
    if (event.target.type === "range" && event.key.startsWith("Arrow")) return;
    const sideways = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (sideways && state.open >= 0) {
      stepLarge(sideways);
      event.preventDefault();
    } else if (sideways && event.target.classList.contains("card")) {
      const next = order[order.indexOf(Number(event.target.dataset.image)) + sideways];
      if (next !== undefined) cards[next].focus();
      event.preventDefault();
    } else if (keys[event.key]) keys[event.key]();
  });

  for (const card of cards) watcher.observe(card);
  rearrange();
  document.documentElement.dataset.ready = "yes";
})().catch((error) => {
  document.getElementById("about").textContent = `This browser cannot show the explorer (${error.message}).`;
  throw error;
});
