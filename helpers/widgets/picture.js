// A picture with a point on it, put there by mouse or keyboard. Coordinates are shares of the picture, from 0 to 1.

const STEP = 1 / 64; // of the arrow keys
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const inside = (v) => Math.min(Math.max(v, 0), 0.9999);

function render({ model, el }) {
  const frame = document.createElement("div");
  frame.style.cssText = "position:relative;width:100%;line-height:0";
  const image = document.createElement("img");
  image.className = "widget-image";
  image.style.cssText = "width:100%;cursor:crosshair";
  image.tabIndex = 0;
  const ring = document.createElement("div");
  ring.style.cssText =
    "position:absolute;width:10px;height:10px;margin:-7px;border:2px solid white;border-radius:50%;outline:2px solid black;pointer-events:none";
  frame.append(image, ring);
  el.append(frame);

  function put() {
    const last = image.src;
    image.src = URL.createObjectURL(new Blob([model.get("value")], { type: "image/png" }));
    if (last) URL.revokeObjectURL(last);
  }
  function mark() {
    const [x, y] = model.get("point");
    ring.style.display = x === undefined ? "none" : "block";
    ring.style.left = `${100 * x}%`;
    ring.style.top = `${100 * y}%`;
  }
  function choose(x, y) {
    model.set("point", [inside(x), inside(y)]);
    model.save_changes();
  }
  image.addEventListener("click", (event) => {
    const box = image.getBoundingClientRect();
    choose((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  });
  image.addEventListener("keydown", (event) => {
    const way = KEYS[event.key];
    if (!way) return;
    event.preventDefault();
    event.stopPropagation();
    const [x, y] = model.get("point").length ? model.get("point") : [0.5, 0.5];
    choose(x + STEP * way[0], y + STEP * way[1]);
  });
  image.alt = image.title = model.get("about");
  model.on("change:value", put);
  model.on("change:point", mark);
  put();
  mark();
  return () => {
    model.off("change:value", put);
    model.off("change:point", mark);
    URL.revokeObjectURL(image.src);
  };
}

export default { render };
