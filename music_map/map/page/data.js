// The data of the page: a block of arrays and values, as music_map/map/payload.py packs it.
"use strict";

const ALLOWED = 1, HAS_AUDIO = 2, KNOWN = 4;
const ARRAY_TYPES = {
  int8: Int8Array, int16: Int16Array, int32: Int32Array, uint8: Uint8Array, uint16: Uint16Array,
  uint32: Uint32Array, float32: Float32Array,
};

function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const first = Math.ceil((4 + length) / 8) * 8;
  const arrays = {};
  for (const [name, { dtype, shape, offset }] of Object.entries(head.arrays)) {
    arrays[name] = new ARRAY_TYPES[dtype](buffer, first + offset, shape.reduce((a, b) => a * b, 1));
  }
  return { arrays, meta: head.meta, shapes: Object.fromEntries(Object.entries(head.arrays).map(([k, v]) => [k, v.shape])) };
}

async function readData() {
  const node = document.getElementById("map-data");
  const packed = bytesOf(node.textContent);
  node.remove();
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return unpack(await new Response(stream).arrayBuffer());
}
