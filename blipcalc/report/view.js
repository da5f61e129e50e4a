"use strict";
// The picture of a structure becomes one that turns: drag, or arrow keys; double click turns it back.
for (const box of document.querySelectorAll(".structure")) {
  const data = JSON.parse(box.querySelector("script").textContent);
  const still = box.querySelector("svg");
  const told = box.querySelector("output");
  const canvas = document.createElement("canvas");
  const pen = canvas.getContext("2d");
  if (!pen) continue;
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", still.getAttribute("aria-label") + "; arrow keys turn it");
  still.replaceWith(canvas);

  const START = [1, 0, 0, 0, 1, 0, 0, 0, 1];
  const size = { width: data.width, height: data.height };
  let turned = START.slice();
  let drawn = [];

  // (x, y, z) of every atom on the canvas, z towards the eye
  function project() {
    const scale = Math.min(size.width, size.height) / (2 * data.reach);
    const m = turned;
    return data.atoms.map(({ at: [x, y, z], r }) => ({
      x: size.width / 2 + scale * (m[0] * x + m[1] * y + m[2] * z),
      y: size.height / 2 - scale * (m[3] * x + m[4] * y + m[5] * z),
      z: m[6] * x + m[7] * y + m[8] * z,
      r: scale * r,
      scale,
    }));
  }

  function drawAtom(atom, p, worst) {
    pen.beginPath();
    pen.arc(p.x, p.y, p.r, 0, 2 * Math.PI);
    pen.fillStyle = atom.color;
    pen.fill();
    pen.lineWidth = 1;
    pen.strokeStyle = "#555";
    pen.stroke();
    pen.fillStyle = atom.ink;
    pen.font = `${Math.max(8, Math.min(15, p.r))}px system-ui, sans-serif`;
    pen.fillText(atom.symbol, p.x, p.y);
    if (!worst) return;
    pen.beginPath();
    pen.arc(p.x, p.y, p.r + 5, 0, 2 * Math.PI);
    pen.lineWidth = 3;
    pen.strokeStyle = data.mark;
    pen.stroke();
  }

  function draw() {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(size.width * ratio);
    canvas.height = Math.round(size.height * ratio);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.lineCap = "round";
    drawn = project();
    const parts = drawn.map((p, i) => ({ z: p.z, i }));
    for (const [i, j] of data.bonds) parts.push({ z: (drawn[i].z + drawn[j].z) / 2, i, j });
    parts.sort((a, b) => a.z - b.z);
    for (const { i, j } of parts) {
      if (j === undefined) {
        drawAtom(data.atoms[i], drawn[i], i === data.worst);
        continue;
      }
      // from ball to ball, so that no bond lies across one
      const [a, b] = [drawn[i], drawn[j]];
      const far = Math.hypot(b.x - a.x, b.y - a.y, a.scale * (b.z - a.z));
      const [f, g] = [(0.9 * a.r) / far, (0.9 * b.r) / far];
      if (f + g >= 1) continue;
      pen.beginPath();
      pen.moveTo(a.x + f * (b.x - a.x), a.y + f * (b.y - a.y));
      pen.lineTo(b.x + g * (a.x - b.x), b.y + g * (a.y - b.y));
      pen.lineWidth = Math.max(2, 0.35 * Math.min(a.r, b.r));
      pen.strokeStyle = "#8a8a8a";
      pen.stroke();
    }
  }

  // by angles about the upright and the level axis of the screen
  function turn(right, down) {
    const [c, s, d, t] = [Math.cos(right), Math.sin(right), Math.cos(down), Math.sin(down)];
    const by = [c, 0, s, t * s, d, -t * c, -d * s, t, d * c];
    const m = turned;
    turned = by.map((_, k) => {
      const [row, column] = [3 * Math.floor(k / 3), k % 3];
      return by[row] * m[column] + by[row + 1] * m[column + 3] + by[row + 2] * m[column + 6];
    });
    draw();
  }

  let last = null;
  canvas.addEventListener("pointerdown", (event) => {
    last = [event.clientX, event.clientY];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (last) {
      turn(0.01 * (event.clientX - last[0]), 0.01 * (event.clientY - last[1]));
      last = [event.clientX, event.clientY];
    }
    const [x, y] = [event.offsetX, event.offsetY];
    const hits = drawn.map((p, i) => ({ i, z: p.z, d: Math.hypot(p.x - x, p.y - y) - p.r })).filter((h) => h.d < 0);
    const front = hits.sort((a, b) => b.z - a.z)[0];
    told.textContent = front ? data.atoms[front.i].says : data.hint;
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (last = null));
  canvas.addEventListener("dblclick", () => { turned = START.slice(); draw(); });
  canvas.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
    if (!by) return;
    event.preventDefault();
    turn(...by);
  });
  new ResizeObserver(() => { size.width = canvas.clientWidth; size.height = canvas.clientHeight; draw(); }).observe(canvas);
  told.textContent = data.hint;
}
