// Tiles are made once a set of them; pictures get their source when they come near the window.
const watched = new WeakMap();

export default function (component) {
  const { data, parentElement, setStateValue, setTriggerValue } = component;
  const grid = parentElement.querySelector(".grid");
  grid.style.gridTemplateColumns = `repeat(auto-fill, minmax(${data.width}px, 1fr))`;
  const signature = data.tiles.map((tile) => tile.key + tile.caption).join();
  const state = watched.get(grid) ?? { turn: 0 };
  if (data.turn >= state.turn) {
    // Else these are from before the last tick, which they would undo.
    state.chosen = new Set(data.selected);
    state.turn = data.turn;
  }
  state.select = () => setStateValue("ticks", { keys: [...state.chosen], turn: ++state.turn });
  state.open = (key) => setTriggerValue("open", key);
  watched.set(grid, state);
  if (state.signature !== signature) {
    state.signature = signature;
    state.observer?.disconnect();
    state.observer = new IntersectionObserver(reveal, { rootMargin: "400px" });
    grid.replaceChildren(...data.tiles.map((tile) => make(tile, state, data.selectable)));
  }
  for (const tile of grid.children) mark(tile, state.chosen.has(tile.dataset.key));
  return () => {};
}

function make(data, state, selectable) {
  const tile = document.createElement("div");
  tile.className = "tile";
  tile.role = "listitem";
  tile.dataset.key = data.key;
  const link = document.createElement("a");
  link.href = `feature?key=${encodeURIComponent(data.key)}`;
  link.title = `${data.title}\n${data.caption}`;
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    state.open(data.key);
  });
  const frame = document.createElement("div");
  frame.className = "frame";
  if (data.source) {
    const image = document.createElement("img");
    image.alt = data.title;
    image.decoding = "async";
    image.dataset.source = data.source;
    frame.append(image);
    state.observer.observe(image);
  } else {
    frame.classList.add("missing");
    frame.textContent = "no file";
  }
  const title = document.createElement("bdi");
  title.textContent = data.title;
  const caption = document.createElement("bdi");
  caption.textContent = data.caption;
  link.append(frame, line("title", title), line("caption", caption));
  tile.append(link);
  if (selectable) {
    const box = document.createElement("input");
    box.type = "checkbox";
    box.className = "box";
    box.ariaLabel = `Select ${data.title}`;
    box.addEventListener("change", () => {
      box.checked ? state.chosen.add(data.key) : state.chosen.delete(data.key);
      mark(tile, box.checked);
      state.select();
    });
    tile.append(box);
  }
  return tile;
}

function line(name, content) {
  const span = document.createElement("span");
  span.className = name;
  span.append(content);
  return span;
}

function mark(tile, chosen) {
  tile.classList.toggle("chosen", chosen);
  const box = tile.querySelector(".box");
  if (box) box.checked = chosen;
}

function reveal(entries, observer) {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    entry.target.src = entry.target.dataset.source;
    delete entry.target.dataset.source;
    observer.unobserve(entry.target);
  }
}
