// The page: what is chosen, and the lists beside the map.
"use strict";

const byId = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (name in node && name !== "list") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((c) => c !== null && c !== undefined));
  return node;
}

function remembered(key, value) {
  try {  // a browser may keep no storage for files
    if (value !== undefined) localStorage.setItem(key, value);
    return localStorage.getItem(key);
  } catch { return null; }
}

async function askService(path, body) {
  const token = () => { try { return sessionStorage.getItem("music-map-token"); } catch { return null; } };
  const ask = () => fetch(path, { method: body ? "POST" : "GET", body: body && JSON.stringify(body), headers: {
    ...(body && { "content-type": "application/json" }), ...(token() && { authorization: `Bearer ${token()}` }) } });
  let response = await ask();
  if (response.status === 401) {
    const given = prompt("This service wants its token:");
    if (given) { sessionStorage.setItem("music-map-token", given); response = await ask(); }
  }
  const found = await response.json();
  if (!response.ok) throw new Error(found.detail || `the service answers ${response.status}`);
  return found;
}

async function start() {
  const began = performance.now();
  const data = await readData(), { arrays, meta, shapes } = data, facts = meta.facts;
  const count = arrays.item_ids.length, { flags, listeners, clusters } = arrays;
  const names = makeNames(data), { idOf } = names;
  const clusterOf = new Map(meta.clusters.map((c, at) => [c.number, { ...c, at }]));

  const state = {
    colour: "cluster", spot: null, song: null, near: [], visited: new Set(), playlist: [], dislikes: [], ordered: true,
    answer: null, listener: null,
  };
  const root = document.documentElement, canvas = byId("plot");
  root.dataset.theme = remembered("music-map-theme") || (matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark");
  const theme = () => root.dataset.theme;
  const view = makePlot(data, names, {
    canvas, ground: byId("ground"), marks: byId("marks"), covering: [byId("tools"), byId("panel")], theme,
  });

  const may = (i) => Boolean(flags[i] & ALLOWED);
  const source = meta.service
    ? serviceSource({ ask: askService, idOf, rowOf: names.rowOf, position: arrays.position })
    : offlineSource({
      songs: songVectors(arrays.codes, shapes.codes[1]), popularity: Float64Array.from(listeners, (l) => Math.log1p(l)),
      heads: meta.heads, push: meta.dislike_push, may, position: arrays.position,
      artists: { offsets: arrays.artist_offsets, values: arrays.artists }, albums: { offsets: arrays.album_offsets, values: arrays.albums },
    });

  let quiet;
  function say(text, seconds = 5) {
    byId("status").textContent = text;
    clearTimeout(quiet);
    quiet = setTimeout(() => { byId("status").textContent = ""; }, seconds * 1000);
  }

  // ---- Colours. A mode gives each song a category, and each category a name and a colour.

  const bands = VIRIDIS.length;
  let loudest = 1;
  for (const l of listeners) loudest = Math.max(loudest, l);
  const topArtists = (() => {
    const heard = new Float64Array(names.artistCount + 1);
    for (let i = 0; i < count; i++) { const code = names.artistCode(i); if (code >= 0) heard[code] += listeners[i]; }
    return Array.from(heard.keys()).filter((a) => heard[a] > 0).sort((a, b) => heard[b] - heard[a]).slice(0, 7);
  })();
  const slotOfArtist = new Map(topArtists.map((a, at) => [a, at]));
  const cold = (i) => (listeners[i] > 0 ? 0 : flags[i] & KNOWN ? 1 : 2);
  const MODES = {
    cluster: {
      title: "Cluster",
      category: (i) => clusterOf.get(clusters[i]).at,
      colours: () => meta.clusters.map((c) => c[theme()]),
      legend: () => meta.clusters.slice().sort((a, b) => b.size - a.size).map((c) => ({
        key: `cluster ${c.number}`, name: c.name, size: c.size, colour: c[theme()], test: (i) => clusters[i] === c.number,
      })),
    },
    artist: {
      title: "Artist",
      category: (i) => slotOfArtist.get(names.artistCode(i)) ?? 7,
      colours: () => [...PALETTE[theme()], GREY[theme()]],
      legend: () => [
        ...topArtists.map((a, at) => artistEntry(a, PALETTE[theme()][at])),
        { key: "other", name: topArtists.length ? "All others" : "No artists in the data", colour: GREY[theme()],
          test: (i) => !slotOfArtist.has(names.artistCode(i)) },
      ],
    },
    popularity: {
      title: "Popularity",
      category: (i) => Math.min(bands - 1, Math.floor((bands * Math.log1p(listeners[i])) / Math.log1p(loudest))),
      colours: () => (theme() === "dark" ? VIRIDIS : VIRIDIS.slice().reverse()),
      ramp: true,
    },
    cold: {
      title: "Cold start",
      category: cold,
      colours: () => [GREY[theme()], PALETTE[theme()][5], PALETTE[theme()][3]],
      legend: () => ["Heard in training", "New: placed by sound, artist or album", "New: nothing is known of it"].map((name, at) => ({
        key: `cold ${at}`, name, colour: MODES.cold.colours()[at], test: (i) => cold(i) === at,
      })),
    },
  };

  function artistEntry(code, colour = PALETTE[theme()][1]) {
    return { key: `artist ${code}`, name: names.artistName(code), colour, test: (i) => names.artistCode(i) === code };
  }

  function paint() {
    const mode = MODES[state.colour], colours = mode.colours(), group = new Uint8Array(count);
    const dense = count > 50_000, opacity = colours.map(() => (dense ? 0.75 : 0.9));
    if (state.colour === "artist") opacity[7] = dense ? 0.3 : 0.5;
    if (state.colour === "cold") opacity[0] = dense ? 0.3 : 0.5;
    for (let i = 0; i < count; i++) group[i] = state.spot && !state.spot.test(i) ? colours.length : mode.category(i);
    root.dataset.colour = state.colour;
    return view.paint(group, [...colours, DIM[theme()]], [...opacity, 0.25]);
  }

  function drawLegend() {
    const mode = MODES[state.colour], list = byId("legend");
    if (mode.ramp) {
      list.replaceChildren(make("li", {},
        make("div", { className: "ramp", style: `background: linear-gradient(90deg, ${mode.colours().join(", ")})` }),
        make("div", { className: "ramp-ends" }, make("span", { textContent: "never heard" }),
          make("span", { textContent: plural(loudest, "listener") }))));
      return;
    }
    const entries = mode.legend();
    if (state.spot && !entries.some((e) => e.key === state.spot.key)) entries.unshift(state.spot);
    list.replaceChildren(...entries.map((entry) => {
      let size = entry.size ?? 0;
      if (entry.size === undefined) for (let i = 0; i < count; i++) size += entry.test(i);
      const on = state.spot?.key === entry.key;
      return make("li", {}, make("button", {
        type: "button", "aria-pressed": String(on), title: "Show only these", onclick: () => spotlight(on ? null : entry),
      }, make("i", { style: `background:${entry.colour}` }), make("span", { textContent: entry.name }),
      make("small", { textContent: NUMBER.format(size) })));
    }));
  }

  function spotlight(entry) {
    state.spot = entry;
    drawLegend();
    paint();
    if (!entry) return;
    const inside = [];
    for (let i = 0; i < count; i++) if (entry.test(i)) inside.push(i);
    if (inside.length) {
      // Stragglers would make the view as wide as the map: the middle nine tenths in each direction.
      const [xs, ys] = [view.x, view.y].map((v) => inside.map((i) => v[i]).sort((a, b) => a - b));
      const cut = (s, share) => s[Math.floor(share * (s.length - 1))];
      const core = inside.filter((i) => view.x[i] >= cut(xs, 0.05) && view.x[i] <= cut(xs, 0.95) && view.y[i] >= cut(ys, 0.05) && view.y[i] <= cut(ys, 0.95));
      view.show(core.length ? core : inside, 0.2);
    }
    say(`${entry.name}: ${plural(inside.length, "song")}`);
  }

  function colourBy(mode) {
    state.colour = mode;
    byId(`colour-${mode}`).checked = true;
    drawLegend();
    shareSoon();
    return paint();
  }

  function setTheme(next) {
    root.dataset.theme = next;
    remembered("music-map-theme", next);
    drawLegend();
    drawSong();
    drawPlaylist();
    return paint();
  }

  // ---- Songs in lists.

  function dotOf(i) {
    return make("i", { style: `background:${clusterOf.get(clusters[i])[theme()]}` });
  }

  function below(i) {
    return [names.artist(i), listeners[i] ? plural(listeners[i], "listener") : "never heard"].filter(Boolean).join(" · ");
  }

  function entryOf(i, { lead = null, value = "", more = below(i), buttons = [] } = {}) {
    const go = make("button", { type: "button", className: "go", onclick: () => select(i),
      title: `${names.title(i)} (${idOf(i)})`,
      onmouseenter: () => view.plot.hover(i, { preventEvent: true }), onmouseleave: () => view.plot.hover(-1, { preventEvent: true }) },
    make("span", { className: lead === null ? "lead" : "lead rank" }, lead === null ? dotOf(i) : String(lead)),
    make("span", { className: "name", textContent: names.title(i) }), make("span", { className: "value", textContent: value }),
    make("span", { className: "more", textContent: more }));
    return make("li", { "data-song": String(idOf(i)) }, go, ...buttons);
  }

  function small(text, label, onclick) {
    return make("button", { type: "button", className: "small", textContent: text, "aria-label": label, title: label, onclick });
  }

  function adder(i) {
    const inside = state.playlist.includes(i);
    return small(inside ? "−" : "+", `${inside ? "Remove" : "Add"} ${names.title(i)} ${inside ? "from" : "to"} the playlist`, () => toggle(i));
  }

  // ---- One song: its details and its nearest.

  async function select(i, { fly = true } = {}) {
    if (state.song !== i) state.visited = i === null ? new Set() : state.visited.add(i);
    state.song = i;
    state.near = [];
    if (i !== null) {
      const near = await answered(source.nearest(i, 10));
      if (state.song !== i) return;
      state.near = near || [];
      if (fly && !view.inView(i)) view.show([i, ...state.near.slice(0, 5).map((n) => n[0])]);
      if (near) say(`${names.title(i)} selected`, 3);
    }
    drawSong();
    drawMarks();
    shareSoon();
    if (i !== null && narrow.matches) showInSheet("song", i);
  }

  // What a source answers, or null where it does not: then the page says why.
  async function answered(promise) {
    try { return await promise; } catch (error) { say(error.message, 10); return null; }
  }

  function goTo(i) {
    return select(i, { fly: false }).then(() => view.show([i, ...state.near.slice(0, 5).map((n) => n[0])]));
  }

  function drawSong() {
    const i = state.song;
    byId("song").hidden = i === null;
    if (i === null) return;
    const cluster = clusterOf.get(clusters[i]), artist = names.artistCode(i), list = make("dl", { className: "facts" });
    const fact = (name, ...value) => list.append(make("dt", { textContent: name }), make("dd", {}, ...value));
    fact("Id", String(idOf(i)));
    if (artist >= 0) fact("Artist", make("button", { type: "button", className: "link", textContent: names.artist(i), title: "Show all songs of the artist", onclick: () => spotlight(artistEntry(artist)) }));
    for (const column of names.columns) {
      const text = names.cell(column, i);
      if (text && column !== names.titles && column !== names.columns[meta.artist_column]) fact(column.name, text);
    }
    const albums = Array.from(arrays.albums.subarray(arrays.album_offsets[i], arrays.album_offsets[i + 1]), (a) => arrays.album_ids[a]);
    if (albums.length) fact("Album id", albums.slice(0, 5).join(", "));
    fact("Cluster", make("button", { type: "button", className: "link", textContent: cluster.name, onclick: () => spotlight(MODES.cluster.legend().find((e) => e.key === `cluster ${cluster.number}`)) }));
    fact("Listeners", NUMBER.format(listeners[i]));
    fact("Sound", flags[i] & HAS_AUDIO ? "has an audio embedding" : "none");
    if (cold(i)) fact("Cold start", make("span", { className: "tag", textContent: cold(i) === 1 ? "placed by what it is" : "nothing is known of it" }));
    if (!(flags[i] & ALLOWED)) fact("Filtered", "never recommended, by the run's filters");
    const inside = state.playlist.includes(i), out = state.dislikes.includes(i);
    byId("song-body").replaceChildren(
      make("div", { className: "big", textContent: names.title(i) }), list,
      make("div", { className: "actions" },
        make("button", { type: "button", id: "add", className: inside ? "action" : "action main", textContent: inside ? "Remove from playlist" : "Add to playlist", onclick: () => toggle(i) }),
        make("button", { type: "button", className: "action", textContent: out ? "Disliked" : "Dislike", "aria-pressed": String(out),
          title: "The playlist's query turns away from it", onclick: () => dislike(i) }),
        make("button", { type: "button", className: "action", textContent: "Show", onclick: () => view.show([i, ...state.near.map((n) => n[0])], 0.05) })),
      linkNode(i),
      make("h3", { textContent: "Nearest songs" }),
      make("ol", { className: "songs", id: "nearest" }, ...state.near.map(([j, s]) => entryOf(j, { value: s.toFixed(3), buttons: [adder(j)] }))));
  }

  function linkOfSong(i) {
    const columns = Object.fromEntries(names.columns.map((c) => [c.name.toLowerCase(), names.cell(c, i)]));
    return linkOf(idOf(i), { title: names.named(i), artist: names.artistName(names.artistCode(i)), columns });
  }

  // A link that is followed on a click only; the page itself asks nothing of anyone.
  function linkNode(i) {
    const link = linkOfSong(i);
    return link && make("a", { id: "listen", className: "outside", href: link.url, target: "_blank", rel: "noopener noreferrer",
      textContent: link.kind === "search" ? "Search for it on YouTube ↗" : `Open in ${link.kind} ↗` });
  }

  // ---- The playlist and what it recommends.

  function toggle(i) {
    const inside = state.playlist.includes(i);
    setPlaylist(inside ? state.playlist.filter((j) => j !== i) : [...state.playlist, i]);
    say(`${names.title(i)} ${inside ? "removed" : "added"}: ${plural(state.playlist.length, "song")}`);
  }

  function dislike(i) {
    state.dislikes = state.dislikes.includes(i) ? state.dislikes.filter((j) => j !== i) : [...state.dislikes, i];
    if (state.dislikes.includes(i)) state.playlist = state.playlist.filter((j) => j !== i);
    return update();
  }

  // At most MAX_SONGS: the latest of a list that is in order, the most listened of a set.
  function setPlaylist(list, { ordered = state.ordered } = {}) {
    state.ordered = ordered;
    state.playlist = [...new Set([...list].reverse())].reverse();
    if (state.playlist.length > MAX_SONGS) {
      const kept = ordered ? state.playlist.slice(-MAX_SONGS)
        : state.playlist.slice().sort((a, b) => listeners[b] - listeners[a]).slice(0, MAX_SONGS);
      say(`A playlist has at most ${NUMBER.format(MAX_SONGS)} songs: the ${ordered ? "latest" : "most listened"} of ${NUMBER.format(list.length)}`, 8);
      state.playlist = kept;
    }
    state.dislikes = state.dislikes.filter((i) => !state.playlist.includes(i));
    if (state.playlist.length && state.listener !== null) { state.listener = null; byId("listener-id").value = ""; }
    return update();
  }

  // A listener in place of the playlist, or null: no more.
  async function setListener(user) {
    state.listener = user;
    if (user !== null) { state.playlist = []; state.dislikes = []; }
    await update();
    if (user === null || state.listener !== user || !state.answer) return;
    const { songs, played } = state.answer;
    if (songs.length) view.show([...songs, ...played.slice(0, 20)], 0.3);
    if (narrow.matches) showInSheet("answer");
  }

  const number = (id, low, high) => Math.min(high, Math.max(low, Math.floor(Number(byId(id).value) || low)));

  let turn = 0;  // of the question: an earlier one's answer may come later
  async function update() {
    const mine = ++turn;
    let answer = null;
    const asked = { k: number("k", 1, 200), diversity: Number(byId("diversity").value), maxPerArtist: number("max-per-artist", 0, 100),
      maxPerAlbum: meta.filters.max_per_album };
    if (state.listener !== null) answer = await answered(source.listener({ ...asked, user: state.listener }));
    else if (state.playlist.length) {
      answer = await answered(source.answer({ ...asked, playlist: state.playlist, dislikes: state.dislikes, ordered: state.ordered }));
    }
    if (mine !== turn) return;
    state.answer = answer;
    drawPlaylist();
    drawSong();
    drawMarks();
    shareSoon();
  }

  function drawPlaylist() {
    const { playlist, answer } = state, shown = 200;
    byId("playlist-count").textContent = playlist.length ? `· ${plural(playlist.length, "song")}` : "";
    byId("playlist-empty").hidden = playlist.length > 0;
    byId("playlist-body").hidden = playlist.length === 0;
    byId("answer").hidden = !answer;
    drawListener();
    byId("ordered").checked = state.ordered;
    const weight = new Map(answer?.playlist.map((i, at) => [i, answer.weights[at]]));
    const percent = (i) => (typeof weight.get(i) === "number" ? `${(100 * weight.get(i)).toFixed(1)} %` : "");
    const rows = playlist.slice(0, shown).map((i) => entryOf(i, { value: percent(i), buttons: [adder(i)] }));
    if (playlist.length > shown) rows.push(make("li", { className: "more", textContent: `and ${NUMBER.format(playlist.length - shown)} more` }));
    for (const i of state.dislikes) rows.push(entryOf(i, { value: "disliked", buttons: [small("✕", `No longer dislike ${names.title(i)}`, () => dislike(i))] }));
    byId("playlist").replaceChildren(...rows);
    if (!answer) return;
    byId("recommended").replaceChildren(...answer.songs.map((i, at) => {
      const reason = answer.reasons[at];
      const more = answer.words ? [names.artist(i), answer.words[at]].filter(Boolean).join(" · ") : reason === null || playlist.length < 2 ? below(i) : [names.artist(i), `like ${names.title(reason)}`].filter(Boolean).join(" · ");
      return entryOf(i, { lead: at + 1, value: answer.scores[at].toFixed(3), more, buttons: [adder(i)] });
    }));
    if (!answer.songs.length) byId("recommended").append(make("li", { className: "more", textContent: "No song is left to recommend." }));
    const quoted = (text) => (/^[\w:,.@%+/-]*$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
    const field = (text) => (/[,"]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const ids = (list) => quoted(list.map((i) => field(String(idOf(i)))).join(","));
    const most = number("max-per-artist", 0, 100), diversity = byId("diversity").value;
    byId("command").textContent = ["python launch/recommend.py", `--workdir=${quoted(facts.workdir)}`,
      state.listener === null ? `--songs=${ids(playlist)}` : `--user=${quoted(state.listener)}`, state.dislikes.length ? `--dislikes=${ids(state.dislikes)}` : "", `--k=${number("k", 1, 200)}`, state.ordered || state.listener !== null ? "" : "--ordered=false",
      `--max_per_artist=${most}`, `--diversity=${diversity}`].filter(Boolean).join(" ");
  }

  function drawListener() {
    const { listener, answer } = state, here = listener !== null && answer !== null;
    byId("answer-title").textContent = here ? `Recommended for ${listener}` : "Recommended next";
    byId("listener-body").hidden = !here;
    byId("playlist-section").hidden = here;
    if (!here) return;
    const { about, played } = answer, total = Object.values(about.events).reduce((sum, n) => sum + n, 0);
    byId("listener-about").textContent = [about.in_model ? "Known to the model" : "Not known to the model: placed by what the service was told",
      total ? `${plural(total, "event")} told to the service` : "", played.length ? "squares on the map: the songs played" : ""].filter(Boolean).join(" · ");
    byId("listener-played-title").textContent = `${played.length === 200 ? "The latest " : ""}${plural(played.length, "song")} played, the latest first`;
    byId("listener-played").replaceChildren(...played.map((i) => entryOf(i, { buttons: [adder(i)] })));
  }

  function drawMarks() {
    const answer = state.answer;
    view.state.marks = {
      playlist: answer?.played ?? state.playlist, weights: answer ? answer.playlist.map((_, at) => answer.weights[at] || 0) : [], recommended: answer ? answer.songs : [],
      stars: answer ? answer.stars : [], song: state.song, near: answer ? [] : state.near.map((n) => n[0]),
    };
    view.redraw();
  }

  // ---- The playlist as a file, the view as a link.

  function save(extension, write) {
    const what = byId("save-what").value, chosen = state.answer ? state.answer.songs : [];
    const list = { playlist: state.playlist, recommended: chosen, both: [...state.playlist, ...chosen] }[what];
    const name = `Music Map: ${plural(list.length, "song")}`;
    const album = names.columns.find((c) => ["album", "album_name", "release_name"].includes(c.name.toLowerCase()));
    const text = write(name, list.map((i) => ({
      id: idOf(i), title: names.named(i), artist: names.artistName(names.artistCode(i)), album: album ? names.cell(album, i) : null, uri: linkOfSong(i)?.uri,
    })));
    const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "text/plain" })), download: `music-map.${extension}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    say(`${plural(list.length, "song")} saved as music-map.${extension}`);
  }

  let sharing, shared = location.hash;
  function share() {
    const next = hashOf({ at: view.where(), song: state.song === null ? null : idOf(state.song), songs: state.playlist.map(idOf),
      dislikes: state.dislikes.map(idOf), ordered: state.ordered, colour: state.colour });
    if (next === shared) return;
    shared = next;
    try { history.replaceState(null, "", next); } catch { location.hash = next; }  // a browser may refuse it for files
  }
  function shareSoon() {
    clearTimeout(sharing);
    sharing = setTimeout(share, 300);
  }
  async function restore(hash) {
    const wanted = viewOf(hash), rows = (ids) => ids.map(names.rowOf).filter((i) => i !== undefined);
    if (!wanted) return;
    state.dislikes = rows(wanted.dislikes);
    await setPlaylist(rows(wanted.songs), { ordered: wanted.ordered });
    const [song] = rows(wanted.song === null ? [] : [wanted.song]);
    await select(song ?? null, { fly: false });
    if (wanted.colour && wanted.colour in MODES) await colourBy(wanted.colour);
    if (wanted.at) await view.lookAt(wanted.at);
    const lost = wanted.songs.length - state.playlist.length;
    if (lost > 0) say(`${plural(lost, "song")} of the link's playlist ${lost === 1 ? "is" : "are"} not on this map`, 10);
  }
  async function copyLink() {
    share();
    try {
      await navigator.clipboard.writeText(location.href);
      say("Link to this view copied");
    } catch { say("The address of this page is the link to this view", 8); }
  }

  // ---- A narrow screen: the panel is a sheet that covers the map when it is opened, and holds the toolbar.

  const narrow = matchMedia("(max-width: 820px)");
  function openSheet(open) {
    const sheet = narrow.matches;
    byId("panel").classList.toggle("open", sheet && open);
    byId("grip").setAttribute("aria-expanded", String(open));
    byId("rest").inert = sheet && !open;
    if (!open) byId("panel").scrollTop = 0;
    view.lookForCovers();
  }
  // Opens the sheet at a section; the song stays in the part of the map that is left.
  function showInSheet(section, i = null) {
    openSheet(true);
    byId("panel").scrollTop = Math.max(0, byId(section).offsetTop - 80);
    const free = canvas.clientHeight - byId("panel").offsetHeight, [, py] = i === null ? [0, 0] : view.screen(i);
    if (i !== null && (py < 20 || py > free - 20)) view.move(0, free / 2 - py);
  }
  byId("panel").addEventListener("transitionend", view.lookForCovers);
  function layOut() {
    if (narrow.matches) byId("rest").prepend(byId("tools"));
    else byId("stage").append(byId("tools"));
    byId("tools").setAttribute("aria-orientation", narrow.matches ? "horizontal" : "vertical");
    openSheet(!narrow.matches);
  }
  narrow.onchange = layOut;
  byId("grip").onclick = () => openSheet(byId("grip").getAttribute("aria-expanded") !== "true");

  // ---- Search.

  const box = byId("search"), results = byId("results");
  let options = [], active = -1;
  function showResults() {
    const text = box.value, list = names.idsIn(text);
    options = [];
    if (list) {
      const label = `Make ${plural(list.songs.length, "song")} the playlist` + (list.missing.length ? ` (${list.missing.length} unknown)` : "");
      if (list.songs.length) options.push({ name: label, more: "in this order, the latest last", run: () => { setPlaylist(list.songs, { ordered: true }); view.show(list.songs, 0.3); } });
    } else {
      const found = names.search(text);
      for (const code of found.artists) options.push({ name: names.artistName(code), more: "artist: show the songs", run: () => spotlight(artistEntry(code)) });
      for (const i of found.songs) options.push({ name: names.title(i), more: `${idOf(i)} · ${below(i)}`, run: () => goTo(i) });
    }
    active = options.length ? 0 : -1;
    results.hidden = !text.trim();
    box.setAttribute("aria-expanded", String(!results.hidden));
    results.replaceChildren(...options.map((o, at) => make("li", { role: "option", id: `option-${at}`, onmousedown: (e) => { e.preventDefault(); choose(at); } },
      make("div", { className: "name", textContent: o.name }), make("div", { className: "more", textContent: o.more }))));
    if (!options.length) results.append(make("li", { className: "none", textContent: "No song of the map has that id or name" }));
    mark();
  }
  function mark() {
    [...results.children].forEach((node, at) => node.setAttribute("aria-selected", String(at === active)));
    box.setAttribute("aria-activedescendant", active >= 0 ? `option-${active}` : "");
    if (active >= 0) results.children[active].scrollIntoView({ block: "nearest" });
  }
  function choose(at) {
    const option = options[at];
    closeResults();
    option?.run();
  }
  function closeResults() {
    results.hidden = true;
    box.setAttribute("aria-expanded", "false");
  }
  box.oninput = showResults;
  box.onfocus = () => { openSheet(true); if (box.value.trim()) showResults(); };
  box.onblur = closeResults;
  box.onkeydown = (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (results.hidden) showResults();
      else if (options.length) { active = (active + (event.key === "ArrowDown" ? 1 : options.length - 1)) % options.length; mark(); }
    } else if (event.key === "Enter" && !results.hidden) {
      event.preventDefault();
      choose(active);
    } else if (event.key === "Escape") {
      event.stopPropagation();
      if (results.hidden) { box.value = ""; box.blur(); } else closeResults();
    }
  };

  // ---- The map: hover, click, lasso.

  const tip = byId("tooltip");
  let lassoing = false, held = false;
  canvas.addEventListener("mousedown", (event) => { held = event.ctrlKey || event.metaKey; }, true);
  view.plot.subscribe("pointover", (i) => {
    tip.replaceChildren(make("b", { textContent: names.title(i) }), ...[names.artist(i), `${idOf(i)} · ${clusterOf.get(clusters[i]).name}`,
      listeners[i] ? plural(listeners[i], "listener") : cold(i) === 1 ? "never heard: placed by what it is" : "nothing is known of it"]
      .filter(Boolean).map((text) => make("span", { textContent: text })));
    tip.hidden = false;
    const [px, py] = view.screen(i), room = canvas.clientWidth - px;
    tip.style.left = room > 300 ? `${px + 14}px` : "auto";
    tip.style.right = room > 300 ? "auto" : `${room + 14}px`;
    tip.style.top = `${Math.min(py + 12, canvas.clientHeight - tip.offsetHeight - 8)}px`;
  });
  view.plot.subscribe("pointout", () => { tip.hidden = true; });
  view.plot.subscribe("view", () => { tip.hidden = true; shareSoon(); });
  view.plot.subscribe("lassoStart", () => { lassoing = true; });
  let lassoed = [];
  view.plot.subscribe("select", ({ points }) => {
    const found = [...points];
    // The page marks what is chosen itself.
    queueMicrotask(() => view.plot.deselect({ preventEvent: true }));
    if (lassoing) { lassoed = found; return; }
    if (held) toggle(found[0]);
    else select(found[0], { fly: false });
  });
  view.plot.subscribe("lassoEnd", () => {
    lassoing = false;
    const found = lassoed;
    lassoed = [];
    lassoMode(false);
    if (!found.length) { say("No song in the lasso"); return; }
    select(null);
    setPlaylist(found, { ordered: false }).then(() => {
      if (narrow.matches) showInSheet("answer");
      else byId("answer").scrollIntoView({ block: "nearest" });
    });
    if (found.length <= MAX_SONGS) say(`${plural(found.length, "song")} in the lasso`);
  });
  addTouch(canvas, {
    move: view.move, pinch: view.pinch, drawing: () => byId("lasso").getAttribute("aria-pressed") === "true",
    tap(px, py, reach) {
      const found = view.nearest(px, py, reach);
      if (found === null) openSheet(false);
      else select(found, { fly: false });
    },
  });
  function lassoMode(on) {
    view.plot.set({ mouseMode: on ? "lasso" : "panZoom" });
    byId("lasso").setAttribute("aria-pressed", String(on));
    canvas.classList.toggle("lasso", on);
    if (on) { openSheet(false); say("Draw around songs", 3); }
  }
  function labelsOn(on) {
    view.state.labels = on;
    byId("labels").setAttribute("aria-pressed", String(on));
    view.redraw();
  }
  function selectMiddle() {
    const [mx, my] = view.middle();
    let best = 0, least = Infinity;
    for (let i = 0; i < count; i++) {
      const away = (view.x[i] - mx) ** 2 + (view.y[i] - my) ** 2;
      if (away < least) { least = away; best = i; }
    }
    select(best, { fly: false });
  }
  function nextNearest() {
    if (state.song === null) return selectMiddle();
    const next = state.near.find(([j]) => !state.visited.has(j));
    if (next) select(next[0]);
  }

  // ---- Buttons and keys.

  byId("zoom-in").onclick = () => view.zoom(1 / 1.6);
  byId("zoom-out").onclick = () => view.zoom(1.6);
  byId("zoom-all").onclick = () => view.goHome();
  byId("lasso").onclick = () => lassoMode(byId("lasso").getAttribute("aria-pressed") !== "true");
  byId("labels").onclick = () => labelsOn(!view.state.labels);
  byId("theme").onclick = () => setTheme(theme() === "dark" ? "light" : "dark");
  byId("share").onclick = copyLink;
  byId("save-m3u8").onclick = () => save("m3u8", m3u8Of);
  byId("save-jspf").onclick = () => save("jspf", jspfOf);
  byId("help").onclick = () => byId("about").showModal();
  byId("listener").hidden = !meta.service;
  byId("listener-form").onsubmit = (event) => { event.preventDefault(); setListener(byId("listener-id").value.trim() || null); };
  byId("listener-clear").onclick = () => { byId("listener-id").value = ""; setListener(null); };
  byId("clear").onclick = () => { state.dislikes = []; setPlaylist([]); };
  byId("ordered").onchange = (event) => setPlaylist(state.playlist, { ordered: event.target.checked });
  for (const id of ["k", "max-per-artist", "diversity"]) byId(id).onchange = update;
  canvas.onfocus = () => { byId("crosshair").hidden = !canvas.matches(":focus-visible"); };
  canvas.onblur = () => { byId("crosshair").hidden = true; };
  canvas.onkeydown = (event) => {
    const keys = { ArrowLeft: () => view.pan(-1, 0), ArrowRight: () => view.pan(1, 0), ArrowUp: () => view.pan(0, 1), ArrowDown: () => view.pan(0, -1), Enter: selectMiddle };
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("about").open) return;
    if (event.target.matches("input:not([type=radio]):not([type=checkbox]), textarea")) return;
    const modes = Object.keys(MODES);
    const keys = {
      "/": () => { box.focus(); box.select(); }, "?": () => byId("about").showModal(), l: () => byId("lasso").click(), g: () => byId("labels").click(),
      t: () => byId("theme").click(), c: () => colourBy(modes[(modes.indexOf(state.colour) + 1) % modes.length]), n: nextNearest,
      a: () => { if (state.song !== null) toggle(state.song); }, "+": () => view.zoom(1 / 1.6), "=": () => view.zoom(1 / 1.6), "-": () => view.zoom(1.6), 0: () => view.goHome(),
      Escape: () => {
        if (byId("lasso").getAttribute("aria-pressed") === "true") lassoMode(false);
        else if (state.spot) spotlight(null);
        else if (state.song !== null) select(null);
      },
    };
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (keys[key]) { event.preventDefault(); keys[key](); }
  });
  document.addEventListener("focusout", () => { byId("crosshair").hidden = true; });

  // ---- What the page says of itself.

  const percent = (v) => `${(100 * v).toFixed(1)} %`;
  byId("subtitle").textContent = `${facts.title} · ${plural(count, "song")} · ${plural(meta.clusters.length, "cluster")}`;
  box.placeholder = names.titles ? "Search a song, an artist or an id" : "Search an id";
  const paragraph = (...parts) => make("p", {}, ...parts.map((p, at) => (at % 2 ? make("b", { textContent: p }) : p)));
  byId("about-body").replaceChildren(
    paragraph("", plural(count, "song"), count < facts.num_catalogue ? ` of ${NUMBER.format(facts.num_catalogue)}, the most listened,` : "",
      "", ` from the run ${facts.workdir}, step ${facts.step}. Near songs are alike: `, percent(facts.kept_neighbours), " of a song's ten nearest are among its fifty nearest on the map."),
    meta.service ? paragraph("Answers are those of the service that this page came from; nothing is asked of any other.") : paragraph("Everything is computed in this page, which asks nothing of any server. The songs' vectors are rounded to ", `${facts.bits} bits`,
      " a number; from those, nearest songs, queries and recommendations are those that the Python recommender gives. Against the unrounded vectors ",
      percent(facts.same_top_10), ` of the ten best songs of ${facts.num_queries} sample queries are the same, and scores differ by at most `, facts.worst_score_error.toFixed(4), "."),
    paragraph("A playlist's ", "star", " is its query: attention weighs the songs (in the list, in per cent). It stands at the median of its fifteen nearest songs; a playlist of several tastes has a star for each. ",
      "Squares", " are the playlist, ", "numbered discs", " what is recommended."),
    paragraph("A song's link is followed only where it is clicked. The address of the page holds the view and the playlist: it is a link to what is shown."),
    paragraph("Drawn by regl-scatterplot (MIT); the notices of all libraries are in this file."));
  byId("colour-by").replaceChildren(...Object.entries(MODES).map(([mode, { title }]) => make("label", {},
    make("input", { type: "radio", name: "colour", id: `colour-${mode}`, value: mode, onchange: () => colourBy(mode) }), make("span", { textContent: title }))));
  byId("artist-cap").hidden = !arrays.artists.length;
  byId("max-per-artist").value = meta.filters.max_per_artist;
  byId("diversity").value = meta.filters.diversity;
  layOut();
  drawPlaylist();
  await colourBy("cluster");
  await restore(location.hash);
  window.addEventListener("hashchange", () => { if (location.hash !== shared) restore(location.hash); });
  byId("loading").hidden = true;
  // For the console.
  window.musicMap = { data, names, view, source, state, select, setPlaylist, setListener, dislike, colourBy, spotlight, setTheme, seconds: (performance.now() - began) / 1000 };
}

start().catch((error) => {
  console.error(error);
  byId("loading").classList.add("failed");
  byId("loading-text").textContent = `The map cannot be shown: ${error.message}. It needs a browser of 2023 or later with WebGL.`;
});
