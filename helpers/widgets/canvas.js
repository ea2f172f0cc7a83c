// Boxes and arrows over a picture, drawn by mouse, touch or keyboard. Coordinates are shares of the picture, from 0 to 1.
// Everything happens here, also while Python computes; what is drawn is sent when a gesture ends.

const SVG = "http://www.w3.org/2000/svg";
const SMALLEST = 0.03; // side of a box, length of an arrow
const STEP = 1 / 64; // of the arrow keys
const WATCHED = ["boxes", "arrows", "labels", "colors", "mode"];
const HELP =
  "Draw with the mouse. Or press Enter for a new shape, Tab to choose one, arrow keys to move it, Shift and arrow keys to resize it, Delete to remove it.";

const clip = (v, low = 0, high = 1) => Math.min(Math.max(v, low), high);
const round = (v) => Math.round(v * 1e4) / 1e4;
const percent = (v) => `${Math.round(100 * v)} %`;

function make(name, attributes, parent, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text; // never as HTML: a phrase is what somebody typed
  parent.append(node);
  return node;
}

function moved(shape, dx, dy) {
  // as far as the picture reaches
  const points = shape.box ? [shape.box.slice(0, 2), shape.box.slice(2)] : [shape.handle, shape.target];
  const [xs, ys] = [0, 1].map((k) => points.map((point) => point[k]));
  dx = clip(dx, -Math.min(...xs), 1 - Math.max(...xs));
  dy = clip(dy, -Math.min(...ys), 1 - Math.max(...ys));
  const [a, b] = points.map(([x, y]) => [round(x + dx), round(y + dy)]);
  return shape.box ? { ...shape, box: [...a, ...b] } : { ...shape, handle: a, target: b };
}

function ordered([x0, y0, x1, y1]) {
  return [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)].map(round);
}

function large(shape) {
  if (shape.box) return shape.box[2] - shape.box[0] >= SMALLEST && shape.box[3] - shape.box[1] >= SMALLEST;
  return Math.hypot(shape.target[0] - shape.handle[0], shape.target[1] - shape.handle[1]) >= SMALLEST;
}

function render({ model, el }) {
  const side = model.get("side");
  el.classList.add("canvas-widget");
  const svg = document.createElementNS(SVG, "svg");
  for (const [key, value] of Object.entries({ viewBox: "0 0 1 1", width: side, height: side, tabindex: 0 }))
    svg.setAttribute(key, value);
  svg.setAttribute("role", "application");
  const said = document.createElement("div");
  said.setAttribute("aria-live", "polite");
  said.className = "canvas-said";
  el.append(svg, said);
  const picture = make("image", { width: 1, height: 1, preserveAspectRatio: "none" }, svg);
  const shapes = make("g", {}, svg);
  let selected = null; // [name of the list, index]
  let gesture = null; // {shape, begin, change}
  let url = null;

  const kind = () => (model.get("mode") === "arrow" ? "arrows" : "boxes");
  const color = (label) => {
    const colors = model.get("colors");
    return colors[Math.max(model.get("labels").indexOf(label), 0) % colors.length];
  };
  const where = (event) => {
    const frame = svg.getBoundingClientRect();
    return [clip((event.clientX - frame.left) / frame.width), clip((event.clientY - frame.top) / frame.height)];
  };
  const told = (name, shape) =>
    name === "boxes"
      ? `box of ${shape.label || "nothing"}, from ${percent(shape.box[0])}, ${percent(shape.box[1])} to ${percent(shape.box[2])}, ${percent(shape.box[3])}`
      : `arrow from ${percent(shape.handle[0])}, ${percent(shape.handle[1])} to ${percent(shape.target[0])}, ${percent(shape.target[1])}`;

  function keep(name, list) {
    model.set(name, list);
    model.save_changes();
    draw();
  }

  function put(name, index, shape) {
    const list = [...model.get(name)];
    list[index] = shape;
    keep(name, list);
    said.textContent = told(name, shape);
  }

  function add(name, shape) {
    if (name === "arrows") {
      selected = [name, model.get(name).length];
      return put(name, selected[1], shape);
    }
    const label = model.get("label"), labels = model.get("labels");
    const list = model.get(name).filter((other) => other.label !== label); // a phrase has one box
    selected = [name, list.length];
    const free = labels.filter((other) => other !== label && !list.some((box) => box.label === other));
    if (free.length) model.set("label", free[0]);
    keep(name, [...list, { ...shape, label }]);
    said.textContent = told(name, { ...shape, label });
  }

  function remove() {
    if (!selected) return;
    const [name, index] = selected;
    selected = null;
    said.textContent = `removed the ${told(name, model.get(name)[index])}`;
    keep(name, model.get(name).filter((_, k) => k !== index));
    svg.focus();
  }

  function draw() {
    const focused = shapes.contains(document.activeElement);
    shapes.replaceChildren();
    for (const name of ["boxes", "arrows"])
      model.get(name).forEach((shape, index) => one(name, index, gesture?.at(name, index) ?? shape));
    if (gesture?.fresh) one(gesture.name, -1, gesture.shape);
    if (focused && selected) shapes.querySelector('[aria-pressed="true"]')?.focus();
  }

  function one(name, index, shape) {
    const chosen = selected && selected[0] === name && selected[1] === index;
    const group = make("g", { role: "button", "aria-label": told(name, shape), "aria-pressed": !!chosen }, shapes);
    if (name === kind()) group.setAttribute("tabindex", 0);
    else group.classList.add("canvas-off"); // seen, but not in the way of what is drawn now
    group.dataset.name = name;
    group.dataset.index = index;
    const points = [];
    if (name === "boxes") {
      const [x0, y0, x1, y1] = shape.box, stroke = color(shape.label);
      make("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0, class: "canvas-box", stroke, fill: stroke }, group);
      make("text", { x: x0 + 0.012, y: y0 + 0.045, class: "canvas-label" }, group, shape.label);
      points.push([x0, y0, "0,1"], [x1, y0, "2,1"], [x0, y1, "0,3"], [x1, y1, "2,3"]);
    } else {
      const [[x0, y0], [x1, y1]] = [shape.handle, shape.target];
      const length = Math.max(Math.hypot(x1 - x0, y1 - y0), 1e-6), [ux, uy] = [(x1 - x0) / length, (y1 - y0) / length];
      const head = [[x1 - 0.05 * ux - 0.025 * uy, y1 - 0.05 * uy + 0.025 * ux], [x1, y1], [x1 - 0.05 * ux + 0.025 * uy, y1 - 0.05 * uy - 0.025 * ux]];
      for (const part of ["canvas-halo", "canvas-arrow"]) {
        make("line", { x1: x0, y1: y0, x2: x1, y2: y1, class: part }, group);
        make("polyline", { points: head.map((p) => p.join(",")).join(" "), class: part, fill: "none" }, group);
      }
      points.push([x0, y0, "handle"], [x1, y1, "target"]);
    }
    if (chosen) for (const [x, y, end] of points) make("circle", { cx: x, cy: y, r: 0.016, class: "canvas-end" }, group).dataset.end = end;
  }

  function change(shape, end, [x, y]) {
    if (!shape.box) return { ...shape, [end]: [round(x), round(y)] };
    const box = [...shape.box], [i, j] = end.split(",").map(Number);
    box[i] = x;
    box[j] = y;
    return { ...shape, box };
  }

  svg.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    const begin = where(event), group = event.target.closest("g[data-index]"), end = event.target.dataset?.end;
    svg.setPointerCapture(event.pointerId);
    if (group) {
      const name = group.dataset.name, index = Number(group.dataset.index), shape = model.get(name)[index];
      selected = [name, index];
      gesture = {
        name, index, shape,
        at: (n, k) => (n === name && k === index ? gesture.shape : undefined),
        to: (place) => (end ? change(shape, end, place) : moved(shape, place[0] - begin[0], place[1] - begin[1])),
      };
    } else {
      selected = null;
      const name = kind();
      gesture = {
        name, fresh: true,
        shape: name === "boxes" ? { label: model.get("label"), box: [...begin, ...begin] } : { handle: begin.map(round), target: begin },
        at: () => undefined,
        to: ([x, y]) => name === "boxes" ? { label: model.get("label"), box: ordered([...begin, x, y]) } : { handle: begin.map(round), target: [round(x), round(y)] },
      };
    }
    draw();
  });

  svg.addEventListener("pointermove", (event) => {
    if (!gesture) return;
    gesture.shape = gesture.to(where(event));
    draw();
  });

  function finish() {
    if (!gesture) return;
    const { name, index, fresh, shape } = gesture;
    gesture = null;
    const whole = shape.box ? { ...shape, box: ordered(shape.box) } : shape;
    if (!large(whole)) draw(); // a click, or a shape that was made too small: as before
    else if (fresh) add(name, whole);
    else if (JSON.stringify(whole) !== JSON.stringify(model.get(name)[index])) put(name, index, whole);
    if (selected) shapes.querySelector('[aria-pressed="true"]')?.focus();
  }
  svg.addEventListener("pointerup", finish);
  svg.addEventListener("pointercancel", () => ((gesture = null), draw()));

  svg.addEventListener("focusin", (event) => {
    const group = event.target.closest?.("g[data-index]");
    if (!group || gesture) return;
    const asked = [group.dataset.name, Number(group.dataset.index)];
    if (selected && selected[0] === asked[0] && selected[1] === asked[1]) return;
    selected = asked;
    draw();
    shapes.querySelector('[aria-pressed="true"]')?.focus();
    said.textContent = told(asked[0], model.get(asked[0])[asked[1]]);
  });

  svg.addEventListener("keydown", (event) => {
    const ways = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
    const way = ways[event.key];
    if (event.key === "Enter") {
      add(kind(), kind() === "boxes" ? { box: [0.3, 0.3, 0.7, 0.7] } : { handle: [0.35, 0.5], target: [0.65, 0.5] });
      shapes.querySelector('[aria-pressed="true"]')?.focus();
    } else if (event.key === "Delete" || event.key === "Backspace") remove();
    else if (event.key === "Escape") {
      selected = gesture = null;
      draw();
      svg.focus();
    } else if (way && selected) {
      const [name, index] = selected, shape = model.get(name)[index];
      let next;
      if (!event.shiftKey) next = moved(shape, ...way);
      else {
        const [end, [x, y]] = shape.box ? ["2,3", shape.box.slice(2)] : ["target", shape.target];
        next = change(shape, end, [clip(x + way[0]), clip(y + way[1])].map(round));
      }
      if (large(next)) put(name, index, next);
    } else return;
    event.preventDefault();
    event.stopPropagation(); // JupyterLab has commands on these keys
  });

  function show() {
    const bytes = model.get("picture");
    if (url) URL.revokeObjectURL(url);
    url = bytes?.byteLength ? URL.createObjectURL(new Blob([bytes], { type: "image/png" })) : null;
    if (url) picture.setAttribute("href", url);
    else picture.removeAttribute("href");
  }

  const label = () => svg.setAttribute("aria-label", `${kind() === "arrows" ? "Drag" : "Layout"}. ${HELP}`);
  const changed = () => {
    label();
    if (selected && (selected[0] !== kind() || selected[1] >= model.get(selected[0]).length)) selected = null;
    if (!gesture) draw();
  };
  for (const name of WATCHED) model.on(`change:${name}`, changed);
  model.on("change:picture", show);
  label();
  show();
  draw();
  return () => {
    if (url) URL.revokeObjectURL(url);
    for (const name of WATCHED) model.off(`change:${name}`, changed);
    model.off("change:picture", show);
  };
}

export default { render };
