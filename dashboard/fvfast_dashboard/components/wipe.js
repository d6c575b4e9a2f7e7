export default function (component) {
  const { data, parentElement } = component;
  const wipe = parentElement.querySelector(".wipe");
  const line = wipe.querySelector(".line");
  const [left, right] = data.labels;
  show(wipe.querySelector(".left"), data.left, left);
  show(wipe.querySelector(".right"), data.right, right);
  wipe.querySelector(".at-left").textContent = left;
  wipe.querySelector(".at-right").textContent = right;

  const move = (percent) => {
    const at = Math.min(100, Math.max(0, percent));
    wipe.style.setProperty("--at", `${at}%`);
    line.ariaValueNow = String(Math.round(at));
    wipe.dataset.at = at;
  };
  const follow = (event) => {
    const box = wipe.getBoundingClientRect();
    move((100 * (event.clientX - box.left)) / box.width);
  };
  wipe.onpointerdown = (event) => {
    wipe.setPointerCapture(event.pointerId);
    follow(event);
  };
  wipe.onpointermove = (event) => {
    if (wipe.hasPointerCapture(event.pointerId)) follow(event);
  };
  line.onkeydown = (event) => {
    const by = { ArrowLeft: -2, ArrowRight: 2, Home: -100, End: 100 }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    move(Number(wipe.dataset.at) + by);
  };
  move(Number(wipe.dataset.at ?? 50));
  return () => {};
}

function show(image, source, label) {
  if (image.src !== source) image.src = source;
  image.alt = label;
}
