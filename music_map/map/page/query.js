// From a playlist to its queries and its recommendations: what music_map/playlist/attention.py and tastes.py, music_map/retrieval/search.py
// and music_map/retrieval/filters.py do in Python, over vectors z = c / ||c|| of the codes c. Pure functions, but for the
// sources at the end, of which one asks the service instead.
"use strict";

// Songs of a playlist and disliked songs that count, at most.
const MAX_SONGS = 1024, MOST_DISLIKES = 128;
// Tastes of a playlist, at most; the fusion of their lists.
const MOST_TASTES = 8, KAPPA = 2, DEPTH = 100;

function songVectors(codes, dim) {
  const count = codes.length / dim, inverse = new Float64Array(count);
  for (let i = 0, at = 0; i < count; i++) {
    let square = 0;
    for (let j = 0; j < dim; j++, at++) square += codes[at] * codes[at];
    inverse[i] = square > 0 ? 1 / Math.sqrt(square) : 0;
  }
  return { codes, dim, count, inverse };
}

function vectorOf(songs, i) {
  const vector = new Float64Array(songs.dim);
  for (let j = 0; j < songs.dim; j++) vector[j] = songs.codes[i * songs.dim + j] * songs.inverse[i];
  return vector;
}

function dot(a, b) {
  let sum = 0;
  for (let j = 0; j < a.length; j++) sum += a[j] * b[j];
  return sum;
}

function unit(x) {
  const square = dot(x, x);
  return square > 0 ? x.map((v) => v / Math.sqrt(square)) : x;
}

function weightedSum(weights, rows, dim) {
  const sum = new Float64Array(dim);
  rows.forEach((row, i) => { for (let j = 0; j < dim; j++) sum[j] += weights[i] * row[j]; });
  return sum;
}

function softmax(logits) {
  const most = Math.max(...logits), odds = logits.map((l) => Math.exp(l - most));
  const total = odds.reduce((a, b) => a + b, 0);
  return odds.map((o) => o / total);
}

// Query and attention weights of songs in the order of listening, the latest last.
function attend(rows, popularity, head) {
  const dim = rows[0].length, last = rows[rows.length - 1];
  const centre = unit(weightedSum(rows.map(() => 1), rows, dim));
  const logits = rows.map((row, i) => {
    const place = rows.length - i;  // from the end, the last is 1
    const bucket = Math.min(31 - Math.clz32(place), head.position.length - 1);
    return head.position[bucket] + head.centre * dot(row, centre) + head.latest * dot(row, last)
      + head.popularity * popularity[i];
  });
  const weights = softmax(logits);
  return { query: unit(weightedSum(weights, rows, dim)), weights };
}

// The mean cosine of pairs of rows; 1 for a single one.
function cohesion(rows) {
  const n = rows.length;
  if (n < 2) return 1;
  const total = weightedSum(rows.map(() => 1), rows, rows[0].length);
  return (dot(total, total) - n) / (n * (n - 1));
}

// The tree of average linkage: merge m makes group n + m of two earlier ones.
function linkage(rows) {
  const n = rows.length, near = rows.map((a) => Float64Array.from(rows, (b) => 1 - dot(a, b)));
  const live = rows.map((_, i) => i), group = rows.map((_, i) => i), size = rows.map(() => 1), tree = [];
  while (live.length > 1) {
    let a = -1, b = -1, least = Infinity;
    for (let x = 1; x < live.length; x++) {
      const row = near[live[x]];
      for (let y = 0; y < x; y++) if (row[live[y]] < least) { least = row[live[y]]; a = live[y]; b = live[x]; }
    }
    tree.push([group[a], group[b]]);
    for (const c of live) {
      near[a][c] = near[c][a] = (size[a] * near[a][c] + size[b] * near[b][c]) / (size[a] + size[b]);
    }
    size[a] += size[b];
    group[a] = n + tree.length - 1;
    live.splice(live.indexOf(b), 1);
  }
  return tree;
}

// The taste of each row, from 0, numbered by their first rows.
function tastesOf(rows, least) {
  const n = rows.length, whole = cohesion(rows);
  if (whole >= least) return rows.map(() => 0);
  const tree = linkage(rows), members = rows.map((_, i) => [i]);
  for (const [a, b] of tree) members.push([...members[a], ...members[b]]);
  const groups = new Map([[members.length - 1, whole]]);
  while (groups.size < MOST_TASTES) {
    const [node, held] = [...groups].reduce((best, one) => (one[1] < best[1] ? one : best));
    if (held >= least) break;
    groups.delete(node);
    for (const half of tree[node - n]) groups.set(half, cohesion(members[half].map((i) => rows[i])));
  }
  const tastes = new Array(n);
  [...groups.keys()].map((node) => members[node]).sort((a, b) => Math.min(...a) - Math.min(...b))
    .forEach((songs, taste) => songs.forEach((i) => { tastes[i] = taste; }));
  return tastes;
}

// One list from those of several tastes, each of scores of all songs and the best of them: [song, score] in their order.
function fuse(lists, weights) {
  const gain = new Map(), best = new Map();
  lists.forEach(({ scores, songs }, taste) => songs.forEach((i, at) => {
    gain.set(i, (gain.get(i) || 0) + (at < DEPTH ? weights[taste] / (KAPPA + at + 1) : 0));
    best.set(i, Math.max(best.has(i) ? best.get(i) : -Infinity, scores[i]));
  }));
  const order = [...gain.keys()].sort((a, b) => gain.get(b) - gain.get(a) || best.get(b) - best.get(a) || a - b);
  const values = [...best.values()].sort((a, b) => b - a);
  return order.map((i, at) => [i, values[at]]);
}

// The query turned away from disliked songs.
function pushAway(query, disliked, strength) {
  if (!disliked.length) return query;
  const near = disliked.map((row) => dot(row, query));
  const weights = softmax(near.map((s) => 4 * s)).map((w, i) => w * Math.max(0, near[i]));
  const away = weightedSum(weights, disliked, query.length);
  return unit(query.map((v, j) => v - strength * away[j]));
}

// Scores of all songs.
function scoresOf(songs, query) {
  const { codes, dim, count, inverse } = songs, scores = new Float64Array(count);
  for (let i = 0, at = 0; i < count; i++) {
    let sum = 0;
    for (let j = 0; j < dim; j++, at++) sum += codes[at] * query[j];
    scores[i] = sum * inverse[i];
  }
  return scores;
}

// The n best of the songs that `may` lets through, best first; of equal scores the earlier song.
function topSongs(scores, n, may) {
  const heap = [];  // the worst of the best at its root
  const worse = (a, b) => scores[a] < scores[b] || (scores[a] === scores[b] && a > b);
  const sink = (at) => {
    for (;;) {
      let least = at;
      for (const child of [2 * at + 1, 2 * at + 2]) {
        if (child < heap.length && worse(heap[child], heap[least])) least = child;
      }
      if (least === at) return;
      [heap[at], heap[least]] = [heap[least], heap[at]];
      at = least;
    }
  };
  for (let i = 0; i < scores.length; i++) {
    if (heap.length === n && (n === 0 || scores[i] <= scores[heap[0]])) continue;
    if (!may(i)) continue;
    if (heap.length < n) {
      heap.push(i);
      for (let at = heap.length - 1; at > 0;) {
        const parent = (at - 1) >> 1;
        if (!worse(heap[at], heap[parent])) break;
        [heap[at], heap[parent]] = [heap[parent], heap[at]];
        at = parent;
      }
    } else {
      heap[0] = i;
      sink(0);
    }
  }
  return heap.sort((a, b) => scores[b] - scores[a] || a - b);
}

// Counts of the artists and albums that were picked, each rule {most, offsets, values}.
function capsOf(rules) {
  const counts = rules.map(() => new Map());
  return (song) => {
    const mine = rules.map(({ offsets, values }) => values.subarray(offsets[song], offsets[song + 1]));
    if (mine.some((list, r) => list.some((v) => (counts[r].get(v) || 0) >= rules[r].most))) return false;
    mine.forEach((list, r) => list.forEach((v) => counts[r].set(v, (counts[r].get(v) || 0) + 1)));
    return true;
  };
}

// Picks k of the pool, best first, under the caps and with diversity by marginal relevance.
function choose(songs, pool, scores, k, rules, diversity) {
  const admit = capsOf(rules), picked = [];
  if (!diversity) {
    for (const song of pool) {
      if (picked.length === k) break;
      if (admit(song)) picked.push(song);
    }
    return picked;
  }
  const rows = pool.map((song) => vectorOf(songs, song)), nearest = new Array(pool.length).fill(null);
  const left = new Array(pool.length).fill(true);
  for (let tried = 0; picked.length < k && tried < pool.length; tried++) {
    let best = -1, most = -Infinity;
    pool.forEach((song, i) => {
      if (!left[i]) return;
      const gain = (1 - diversity) * scores[song] - diversity * (nearest[i] === null ? 0 : nearest[i]);
      if (gain > most) { most = gain; best = i; }
    });
    left[best] = false;
    if (!admit(pool[best])) continue;
    picked.push(pool[best]);
    rows.forEach((row, i) => {
      const near = dot(row, rows[best]);
      nearest[i] = nearest[i] === null ? near : Math.max(nearest[i], near);
    });
  }
  return picked;
}

// The whole answer to a playlist.
//   songs: of songVectors.   popularity: by song, log(1 + listeners).   heads: {ordered, unordered, mixture: {cohesion}}.
//   asked: {playlist, dislikes, ordered, k, diversity}, songs by index.   may: whether a song may be recommended at all.
//   rules: caps.   push: share of a disliked song's direction that is taken out.
// Returns {weights, playlist, songs, values, tastes}: `playlist` without its duplicates, which `weights` belong to, `values`
// the scores of `songs`, and for each taste the scores of all songs.
function recommend({ songs, popularity, heads, asked, may, rules, push }) {
  // The last place of a duplicate counts: it was played last there.
  const playlist = [...new Set([...asked.playlist].reverse())].reverse();
  const inside = new Set(playlist), disliked = [...new Set(asked.dislikes)];
  const rows = playlist.map((i) => vectorOf(songs, i));
  const head = asked.ordered ? heads.ordered : heads.unordered;
  const { weights } = attend(rows, playlist.map((i) => popularity[i]), head);
  const pushed = disliked.filter((i) => !inside.has(i)).sort((a, b) => a - b).slice(0, MOST_DISLIKES);
  const away = pushed.map((i) => vectorOf(songs, i)), of = tastesOf(rows, heads.mixture.cohesion);
  const tastes = Array.from({ length: Math.max(...of) + 1 }, (_, taste) => {
    const plain = unit(weightedSum(weights.map((w, i) => (of[i] === taste ? w : 0)), rows, songs.dim));
    return scoresOf(songs, pushAway(plain, away, push));
  });
  const shares = tastes.map((_, taste) => weights.reduce((sum, w, i) => sum + (of[i] === taste ? w : 0), 0));
  const out = new Set([...playlist, ...disliked]);
  const allowed = (i) => may(i) && !out.has(i);
  const byScore = !rules.length && !asked.diversity;
  let size = byScore ? asked.k : (asked.diversity ? 5 : 2) * asked.k;
  for (;;) {
    let scores = tastes[0], pool;
    if (tastes.length === 1) pool = topSongs(scores, size, allowed);
    else {
      const depth = Math.max(size, DEPTH);
      const fused = fuse(tastes.map((own) => ({ scores: own, songs: topSongs(own, depth, allowed) })), shares).slice(0, size);
      pool = fused.map(([i]) => i);
      scores = Object.fromEntries(fused);
    }
    const picked = byScore ? pool : choose(songs, pool, scores, asked.k, rules, asked.diversity);
    if (byScore || picked.length === asked.k || pool.length < size) {
      return { weights, playlist, songs: picked, values: picked.map((i) => scores[i]), tastes };
    }
    size *= 2;
  }
}

// Where a query lies on the map: the geometric median of its nearest songs, weighted as UMAP weighs neighbours. A mean
// would lie between two groups, where there is nothing.
function placeAmong(songs, scores, position) {
  const away = scores.map((s) => Math.max(0, 1 - s)), least = Math.min(...away);
  const spread = away.reduce((a, b) => a + b - least, 0) / songs.length || 1;
  const weight = away.map((d) => Math.exp(-(d - least) / spread));
  let x = 0, y = 0, total = 0;
  songs.forEach((i, at) => {
    x += weight[at] * position[2 * i]; y += weight[at] * position[2 * i + 1]; total += weight[at];
  });
  x /= total; y /= total;
  for (let step = 0; step < 50; step++) {  // Weiszfeld
    let sx = 0, sy = 0, sum = 0;
    songs.forEach((i, at) => {
      const pull = weight[at] / Math.max(1e-6, Math.hypot(position[2 * i] - x, position[2 * i + 1] - y));
      sx += pull * position[2 * i]; sy += pull * position[2 * i + 1]; sum += pull;
    });
    x = sx / sum; y = sy / sum;
  }
  return [x, y];
}

function placeOf(scores, position, near = 15) {
  const songs = topSongs(scores, near, () => true);
  return placeAmong(songs, songs.map((i) => scores[i]), position);
}

// ---- Where answers come from. A source has two functions, which give promises:
//   nearest(song, k): [[song, score], ...]
//   answer(asked): {playlist, weights, songs, scores, reasons, stars}. `weights` belong to `playlist` (null: not known),
//     `scores` and `reasons` (the song of the playlist that speaks for it most, or null) to `songs`; `stars` are the
//     places of the queries.
// That of the service has a third, listener(asked), which answers so for a listener without a playlist: `words` are the
//   reasons, `played` the listener's songs, the latest first, and `about` what GET /users/ID says.

// The page's own arithmetic over its vectors.
function offlineSource({ songs, popularity, heads, push, may, artists, albums, position }) {
  return {
    async nearest(song, k) {
      const scores = scoresOf(songs, vectorOf(songs, song));
      return topSongs(scores, k, (j) => may(j) && j !== song).map((j) => [j, scores[j]]);
    },
    async answer(asked) {
      const rules = [{ most: asked.maxPerArtist, ...artists }, { most: asked.maxPerAlbum, ...albums }].filter((rule) => rule.most);
      const found = recommend({ songs, popularity, heads, asked, may, rules, push });
      const rows = found.playlist.map((j) => vectorOf(songs, j));
      const reasons = found.songs.map((i) => {
        const own = vectorOf(songs, i), gains = rows.map((row, n) => found.weights[n] * dot(own, row));
        return found.playlist[gains.reduce((best, gain, n) => (gain > gains[best] ? n : best), 0)];
      });
      return { playlist: found.playlist, weights: found.weights, songs: found.songs, scores: found.values, reasons,
        stars: found.tastes.map((scores) => placeOf(scores, position)) };
    },
  };
}

// The service that the page came from. `ask(path, body)` posts JSON, or gets where there is no body, and gives JSON; ids are
// the logs' own.
function serviceSource({ ask, idOf, rowOf, position }) {
  const rows = (ids) => ids.map(rowOf).filter((i) => i !== undefined);
  const known = (found) => found.recommendations.map((r) => ({ ...r, row: rowOf(r.item_id) })).filter((r) => r.row !== undefined);
  const filters = (asked) => ({ max_per_artist: asked.maxPerArtist, diversity: asked.diversity });
  const listed = (found) => ({ songs: found.map((r) => r.row), scores: found.map((r) => r.score) });
  // The query of a taste lies among what is recommended for its songs, or else among them.
  const starOf = (taste, found) => {
    const led = found.filter((r) => r.why.length && taste.songs.includes(r.why[0].item_id)).slice(0, 15);
    const songs = led.length ? led.map((r) => r.row) : rows(taste.songs);
    return songs.length ? [placeAmong(songs, led.length ? led.map((r) => r.score) : songs.map(() => 1), position)] : [];
  };
  return {
    async nearest(song, k) {
      return known(await ask("similar", { song: idOf(song), k })).map((r) => [r.row, r.score]);
    },
    async answer(asked) {
      const playlist = [...new Set([...asked.playlist].reverse())].reverse();
      const answer = await ask("recommend", {
        songs: playlist.map(idOf), dislikes: asked.dislikes.map(idOf), ordered: asked.ordered, k: asked.k, reasons: 10,
        filters: filters(asked),
      });
      const found = known(answer), weights = new Map(found.flatMap((r) => r.why.map((reason) => [rowOf(reason.item_id), reason.weight])));
      return { playlist, weights: playlist.map((i) => weights.get(i) ?? null), ...listed(found),
        reasons: found.map((r) => (r.why.length ? rowOf(r.why[0].item_id) : null)),
        stars: found.length ? answer.tastes.flatMap((taste) => starOf(taste, found)) : [] };
    },
    async listener(asked) {
      const about = await ask(`users/${encodeURIComponent(asked.user)}?latest=200`);
      const found = known(await ask("recommend", { user: asked.user, k: asked.k, reasons: 3, filters: filters(asked) }));
      return { playlist: [], weights: [], ...listed(found), reasons: found.map(() => null),
        words: found.map((r) => r.reasons.map((reason) => reason.text).join("; ")), stars: [], played: rows(about.latest), about };
    },
  };
}

if (typeof module !== "undefined") {
  module.exports = { songVectors, vectorOf, attend, pushAway, scoresOf, topSongs, recommend, placeOf, offlineSource, serviceSource };
}
