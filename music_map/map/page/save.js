// A playlist as a file, a song as a link, a view as a link. Pure functions.
"use strict";

const LINE_BREAKS = /[\r\n\u2028\u2029]+/g;

// Where a song can be heard or looked up: by its id where the id says of what kind it is, else by a search for its name.
// {kind, url, uri: what a playlist file has in place of the id, or null} or null; `columns` are the texts that the data has of the song, by name in lower case.
function linkOf(id, { title = null, artist = null, columns = {} } = {}) {
  const text = String(id);
  for (const each of [text, columns.spotify_id, columns.spotify_track_uri].filter(Boolean)) {
    const spotify = /^(?:spotify:track:|https:\/\/open\.spotify\.com\/track\/)?([0-9A-Za-z]{22})$/.exec(each);
    if (spotify) return { kind: "Spotify", url: `https://open.spotify.com/track/${spotify[1]}`, uri: `spotify:track:${spotify[1]}` };
  }
  for (const each of [text, columns.recording_mbid, columns.musicbrainz_id, columns.mbid].filter(Boolean)) {
    if (/^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i.test(each)) {
      const url = `https://musicbrainz.org/recording/${each.toLowerCase()}`;
      return { kind: "MusicBrainz", url, uri: url };
    }
  }
  for (const each of [text, columns.isrc].filter(Boolean)) {
    if (/^[A-Z]{2}[A-Z0-9]{3}\d{7}$/.test(each)) return { kind: "MusicBrainz (ISRC)", url: `https://musicbrainz.org/isrc/${each}`, uri: null };
  }
  // Eleven characters are many things: only a column that says so holds ids of videos.
  for (const each of [columns.youtube_id, columns.video_id].filter(Boolean)) {
    if (/^[\w-]{11}$/.test(each)) return { kind: "YouTube", url: `https://www.youtube.com/watch?v=${each}`, uri: null };
  }
  if (!title) return null;
  const query = encodeURIComponent([artist, title].filter(Boolean).join(" "));
  return { kind: "search", url: `https://www.youtube.com/results?search_query=${query}`, uri: null };
}

// Songs {id, title, artist, album, uri} as an extended M3U, in UTF-8; read back by music_map/retrieval/playlist_files.py,
// which writes the same.
function m3u8Of(name, songs) {
  const line = (text) => String(text).replace(LINE_BREAKS, " ");
  // A location is one line, and no comment.
  const placeOf = (text) => (/^\s|\s$|^#|[%\p{C}\u2028\u2029]/u.test(text)
    ? encodeURIComponent(text).replaceAll("%20", " ").replaceAll("%2F", "/").replaceAll("%3A", ":").replaceAll("%2C", ",") : text);
  const entries = songs.flatMap(({ id, title, artist, album, uri }) => [
    `#EXTINF:-1,${line([artist, title].filter(Boolean).join(" - ") || id)}`,
    ...(album ? [`#EXTALB:${line(album)}`] : []),
    placeOf(String(uri || id)),
  ]);
  return ["#EXTM3U", `#PLAYLIST:${line(name)}`, ...entries, ""].join("\n");
}

// The same as JSPF (xspf.org/jspf), where identifiers are URIs.
function jspfOf(name, songs) {
  const track = songs.map(({ id, title, artist, album, uri }) => ({
    ...(title && { title }), ...(artist && { creator: artist }), ...(album && { album }),
    identifier: [uri || (/^[a-z][a-z\d+.-]*:[\x21-\x7e]*$/i.test(id) ? id : `urn:music-map:song:${encodeURIComponent(id)}`)],
  }));
  return `${JSON.stringify({ playlist: { title: name, track } }, null, 2)}\n`;
}

// What a link to a view holds: {at: [x, y, how much closer than the whole map], song, songs, dislikes, ordered, colour}.
// Ids are the logs' own, so that a link fits a map that was made again.
function hashOf({ at, song, songs, dislikes, ordered, colour }) {
  const parts = [`at=${at.map((v) => Number(v.toPrecision(5))).join(",")}`];
  const list = (ids) => ids.map((id) => encodeURIComponent(id)).join(",");
  if (colour !== "cluster") parts.push(`colour=${colour}`);
  if (song !== null) parts.push(`song=${list([song])}`);
  if (songs.length) parts.push(`songs=${list(songs)}`, ordered ? "" : "order=0");
  if (dislikes.length) parts.push(`dislikes=${list(dislikes)}`);
  return `#${parts.filter(Boolean).join("&")}`;
}

// The inverse; null for a link that says nothing, null or empty for what is missing or no number.
function viewOf(hash) {
  const parts = new Map(hash.replace(/^#/, "").split("&").map((part) => [part.slice(0, part.indexOf("=")), part.slice(part.indexOf("=") + 1)]));
  const decoded = (text) => { try { return decodeURIComponent(text); } catch { return text; } };
  const list = (name) => (parts.get(name) || "").split(",").filter(Boolean).map(decoded);
  const at = (parts.get("at") || "").split(",").map(Number);
  const found = {
    at: at.length === 3 && at.every(Number.isFinite) && at[2] > 0 ? at : null, song: list("song")[0] ?? null,
    songs: list("songs"), dislikes: list("dislikes"), ordered: parts.get("order") !== "0", colour: parts.get("colour") ?? null,
  };
  return found.at || found.song !== null || found.songs.length || found.colour ? found : null;
}

if (typeof module !== "undefined") module.exports = { linkOf, m3u8Of, jspfOf, hashOf, viewOf };
