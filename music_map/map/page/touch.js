// Fingers on the map: one moves it, two zoom, a tap chooses the nearest song. The library below knows a mouse alone.
"use strict";

// Pixels that a tap may move; how far from a song it may be.
const TAP = 10, REACH = 24;

function addTouch(canvas, { move, pinch, tap, drawing }) {
  const fingers = new Map();
  let moved = 0;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  // In lasso mode a finger is the mouse that the library draws with.
  const asMouse = (type, event) => {
    const at = { clientX: event.clientX, clientY: event.clientY, bubbles: true, cancelable: true, buttons: type === "mouseup" ? 0 : 1, view: window };
    (type === "mousedown" ? canvas : window).dispatchEvent(new MouseEvent(type, at));
  };
  canvas.addEventListener("touchend", (event) => event.preventDefault(), { passive: false });  // no mouse after it
  canvas.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "touch") return;
    if (!fingers.size) moved = 0;
    fingers.set(event.pointerId, place(event));
    canvas.setPointerCapture(event.pointerId);
    if (drawing()) asMouse("mousedown", event);
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const now = place(event);
    if (drawing()) { asMouse("mousemove", event); return; }
    moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
    const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
    fingers.set(event.pointerId, now);
    if (moved < TAP) return;
    if (!other) { move(now[0] - before[0], now[1] - before[1]); return; }
    moved += TAP;
    const apart = (p) => Math.max(10, Math.hypot(p[0] - other[0], p[1] - other[1]));
    move((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
    pinch(apart(before) / apart(now), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  });
  const lift = (event) => {
    if (!fingers.delete(event.pointerId)) return;
    if (drawing()) asMouse("mouseup", event);
    else if (event.type === "pointerup" && !fingers.size && moved < TAP) tap(...place(event), REACH);
  };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
}
