// What songs are called, and finding them by it.
"use strict";

const NUMBER = new Intl.NumberFormat("en");
const FOUND = 40;

function plural(count, one, many = one + "s") {
  return `${NUMBER.format(count)} ${count === 1 ? one : many}`;
}

function folded(text) {
  return text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();
}

function makeNames({ arrays, meta }) {
  const { item_ids: ids, artist_offsets: offsets, artists, artist_ids: artistIds } = arrays;
  const columns = meta.columns.map((c, at) => ({ ...c, codes: arrays[`column_${at}`] }));
  const cell = (column, i) => (column && column.codes[i] >= 0 ? column.values[column.codes[i]] : null);
  const columnOf = (name) => columns.find((c) => c.name.toLowerCase() === name);
  const titles = columnOf("title") || columnOf("name") || columnOf("track"), artistNames = columns[meta.artist_column];
  const rows = new Map();
  const idOf = meta.ids ? (i) => meta.ids[i] : (i) => ids[i];
  for (let i = 0; i < ids.length; i++) rows.set(idOf(i), i);
  // The song with an id, given as a text or as a number.
  const rowOf = (id) => rows.get(meta.ids ? String(id) : /^\d+$/.test(id) ? Number(id) : null);

  const named = (i) => cell(titles, i), title = (i) => named(i) || `Song ${idOf(i)}`;
  const artistIdsOf = (i) => Array.from(artists.subarray(offsets[i], offsets[i + 1]), (a) => artistIds[a]);
  // What songs are grouped by in "artist": the names where there are some, else the first id. -1: none.
  const artistCode = artistNames ? (i) => artistNames.codes[i] : (i) => (offsets[i + 1] > offsets[i] ? artists[offsets[i]] : -1);
  const artistName = (code) => (code < 0 ? null : artistNames ? artistNames.values[code] : `Artist ${artistIds[code]}`);
  const artistCount = artistNames ? artistNames.values.length : artistIds.length;
  const artist = (i) => {
    const list = artistIdsOf(i);
    return cell(artistNames, i) || (list.length ? `Artist ${list.slice(0, 3).join(", ")}` : null);
  };

  let texts = null;  // of all songs, made on the first search
  const index = () => {
    texts ||= Array.from(ids, (_, i) => folded([idOf(i), ...columns.map((c) => cell(c, i) || "")].join("\n")));
    return texts;
  };

  // Songs whose id starts with the words or whose texts have all of them; the most listened first, an exact id before.
  function search(text) {
    const words = folded(text.trim()).split(/\s+/).filter(Boolean);
    if (!words.length) return { songs: [], artists: [], total: 0 };
    const exact = rowOf(text.trim());
    let songs = [];
    index().forEach((line, i) => {
      if (columns.length || meta.ids ? words.every((w) => line.includes(w)) : words.every((w) => line.startsWith(w))) songs.push(i);
    });
    const total = songs.length, first = folded(words.join(" "));
    const rank = (i) => (i === exact ? 2 : folded(title(i)).startsWith(first) ? 1 : 0);
    songs = songs.map((i) => [rank(i), arrays.listeners[i], i]).sort((a, b) => b[0] - a[0] || b[1] - a[1]);
    const artistsFound = [];
    for (let code = 0; code < artistCount && artistsFound.length < 3; code++) {
      const name = artistNames ? folded(artistNames.values[code]) : String(artistIds[code]);
      if (artistNames ? words.every((w) => name.includes(w)) : name === words[0]) artistsFound.push(code);
    }
    return { songs: songs.slice(0, FOUND).map((s) => s[2]), artists: artistsFound, total };
  }

  // Ids in a list such as "12, 15 18", or null where the text is none: texts as ids are a list where two are known.
  function idsIn(text) {
    const wanted = text.trim().split(/\s*[,;\n]\s*|\s+/).filter(Boolean);
    const known = wanted.filter((id) => rowOf(id) !== undefined);
    if (wanted.length < 2 || (meta.ids ? known.length < 2 : !wanted.every((id) => /^\d+$/.test(id)))) return null;
    return { songs: known.map(rowOf), missing: wanted.filter((id) => rowOf(id) === undefined) };
  }

  return { columns, cell, idOf, titles, title, named, artist, artistCode, artistName, artistCount, artistIdsOf, search, idsIn, rowOf };
}
