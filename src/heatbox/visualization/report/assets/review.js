/* The review: images with proposed boxes, least confident first. Text is set as textContent only. */
(() => {
  const data = JSON.parse(document.getElementById("review-data").textContent);
  const el = (id) => document.getElementById(id);
  const state = { heat: false, open: -1 };
  const marked = new Set();
  const visible = new Set();
  let order = [];

  const names = (image) => image.labels.map((label) => data.classes[label] ?? `class ${label}`).join(", ");
  const confidence = (image) => (image.scores.length ? image.scores : ["no box"]).map(
    (score) => (typeof score === "number" ? decimals(score) : score),
  ).join(" ");

  function drawFrame(stage, index, side) {
    const frame = stage.firstChild;
    const image = data.images[index];
    const photo = frame.querySelector("img");
    if (photo && !photo.src) photo.src = `data:image/jpeg;base64,${image.jpeg}`;
    frame.classList.toggle("warm", state.heat && Boolean(image.map));
    const canvas = frame.querySelector("canvas");
    if (state.heat && image.map && !canvas.dataset.shows) {
      paintHeat(canvas, image.map, side);
      canvas.dataset.shows = "yes";
    }
    for (const [name, list] of [["found", image.boxes], ["truth", image.kept ?? []]]) {
      frame.querySelector(`path.${name}`).setAttribute("d", outline(list));
      frame.querySelector(`path.${name}-rim`).setAttribute("d", outline(list));
    }
  }

  const cards = data.images.map((image, index) => {
    const card = make("button", "card");
    card.type = "button";
    card.dataset.image = index;
    const label = make("div", "label");
    label.append(make("span", "mark"), make("span", "name", names(image)), make("span", "number", confidence(image)));
    card.append(makeFrame(image, data.frame), label);
    card.title = image.id;
    card.addEventListener("click", () => openLarge(index));
    return card;
  });

  function drawCard(index) {
    const image = data.images[index];
    drawFrame(cards[index].firstChild, index, 56);
    cards[index].classList.toggle("miss", marked.has(index));
    cards[index].lastChild.firstChild.textContent = marked.has(index) ? "✗" : "";
    const words = marked.has(index) ? ", marked" : "";
    cards[index].setAttribute("aria-label", `${image.id}: ${names(image)}, confidence ${confidence(image)}${words}; enlarge`);
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

  function passes(index) {
    const image = data.images[index];
    const chosen = el("class").value;
    if (chosen !== "" && !image.labels.includes(Number(chosen))) return false;
    return {
      "": true, boxes: image.boxes.length > 0, none: !image.boxes.length, several: image.boxes.length > 1,
      marked: marked.has(index),
    }[el("show").value];
  }

  function arrange() {
    order = data.images.map((_, index) => index).filter(passes);
    if (el("sort").value === "best") order.reverse();
    el("count").textContent = `${order.length} of ${data.images.length} images`;
    el("nothing").hidden = order.length > 0;
    el("grid").replaceChildren(...order.map((index) => cards[index]));
  }

  function refresh() {
    for (const index of visible) drawCard(index);
    if (state.open >= 0) drawLarge();
    el("marked").hidden = !marked.size;
    el("marked-count").textContent = `${marked.size} marked`;
    el("marked-names").value = [...marked].sort((a, b) => a - b).map((index) => data.images[index].id).join("\n");
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
    if (order.length) openLarge(order[(Math.max(order.indexOf(state.open), 0) + by + order.length) % order.length]);
  }

  function drawLarge() {
    const image = data.images[state.open];
    el("large-name").textContent = `${marked.has(state.open) ? "✗ " : ""}${names(image)} – ${image.id}`;
    drawFrame(el("large-frame").firstChild, state.open, 224);
    const rows = image.boxes.map((_, i) => [
      data.classes[image.kinds[i]] ?? `class ${image.kinds[i]}`, decimals(image.scores[i]),
      image.pixels[i].map((value) => value.toFixed(0)).join(" "),
    ]);
    el("large-facts").replaceChildren(
      rows.length ? tableOf(["class", "confidence", "x1 y1 x2 y2"], rows) : make("p", "", "no box"),
      make("p", "hint", `place ${state.open + 1} of ${data.images.length} in the order of review`),
      make("p", "hint", "← and → go through the images shown; x marks an image, h shows the heatmap"),
    );
  }

  function mark(index) {
    if (!marked.delete(index)) marked.add(index);
    refresh();
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

  const labels = [...new Set(data.images.flatMap((image) => image.labels))].sort((a, b) => a - b);
  el("class").append(
    option("", `all ${labels.length}`),
    ...labels.map((label) => option(label, data.classes[label] ?? `class ${label}`)),
  );
  for (const id of ["class", "show", "sort"]) el(id).addEventListener("change", arrange);
  el("heat").addEventListener("change", () => { state.heat = el("heat").checked; refresh(); });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const card = event.target.classList.contains("card") ? Number(event.target.dataset.image) : -1;
    const sideways = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (sideways && state.open >= 0) {
      stepLarge(sideways);
      event.preventDefault();
    } else if (sideways && card >= 0) {
      const next = order[order.indexOf(card) + sideways];
      if (next !== undefined) cards[next].focus();
      event.preventDefault();
    } else if (event.key === "x" && (state.open >= 0 || card >= 0)) mark(state.open >= 0 ? state.open : card);
    else if (event.key === "h") el("heat").click();
  });
  for (const card of cards) watcher.observe(card);
  arrange();
  refresh();
  if (cards.length) cards[order[0]].focus({ preventScroll: true });
  document.documentElement.dataset.ready = "yes";
})();
