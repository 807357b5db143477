"""Playlists as files: M3U8 and JSPF are written; M3U, M3U8, JSPF, CSV and plain text are read.

    tracks = read_playlist("party.m3u8")
    recommender.recommend(songs=tracks, k=10)

A file names songs in its own way: by an id of the logs, by a path, by artist and title. A Track has all of it, and the
recommender looks for each.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from music_map.errors import UserError
from music_map.ids import Ids, folded
from music_map.storage import json_text, write_text

# The identifier of a song whose id is no URI, in JSPF, where identifiers are URIs.
_URN = "urn:music-map:song:"
_TITLES = ("track name", "title", "track", "song", "name", "track_name", "trackname", "song_title")
_ARTISTS = ("artist name(s)", "artist name", "artist", "artists", "creator", "artist_name", "artistname")
_ALBUMS = ("album name", "album", "album_name", "albumname", "release")
_IDS = ("track uri", "uri", "spotify uri", "spotify id", "id", "item_id", "song_id", "track_id", "item", "track_uri")


@dataclasses.dataclass(frozen=True)
class Track:
    """A song as a playlist file names it.

    Attributes:
      title, artist, album: "" if unknown.
      ids: what may be its id in the logs: identifiers and locations.
    """

    title: str = ""
    artist: str = ""
    album: str = ""
    ids: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """ "Artist - Title", or what of these is known, or the first id."""
        return " - ".join(filter(None, (self.artist, self.title))) or next(iter(self.ids), "")

    def __str__(self) -> str:
        return self.name

    def find(self, songs: Ids) -> list[int]:
        """The positions of the songs that this may be: by id; else by artist and title, or by the name of a file."""
        ids = list(dict.fromkeys(form for text in self.ids for form in _forms(text)))
        if (known := songs.indices(ids)).max(initial=-1) >= 0:
            return [int(known[known >= 0][0])]
        names = [self.name, *ids, *(PurePosixPath(text.replace("\\", "/")).stem for text in ids)]
        return next(filter(None, map(songs.find, names)), [])


def _forms(text: str) -> Iterator[str]:
    """An identifier or a location in the forms that a log may have it in."""
    yield text
    yield unquote(text)
    # https://musicbrainz.org/recording/ID, https://open.spotify.com/track/ID?si=..., spotify:track:ID
    last = urlsplit(text).path.rstrip("/").replace(":", "/").rpartition("/")[2]
    if "musicbrainz.org/" in text:
        yield last
    if "open.spotify.com/track/" in text or text.startswith("spotify:track:"):
        yield f"spotify:track:{last}"
        yield last


def track_of(songs: Ids, position: int) -> Track:
    """The song at a position."""
    fields = {name: songs.field(name, position) or "" for name in ("title", "artist", "album")}
    if not fields["title"]:
        fields["title"] = songs.name(position) or ""
    return Track(**fields, ids=(str(songs.label(position)),))


def read_playlist(path: str | Path) -> list[Track]:
    """The songs of a playlist file, in its order; its suffix tells the format.

    Args:
      path: .m3u or .m3u8 (extended or plain), .jspf or .json (JSPF), .csv (a header with title and artist, or ids, as
        Exportify's), .txt (an id or "Artist - Title" a line).

    Raises:
      UserError: the file cannot be read, or holds no song.
    """
    path = Path(path).expanduser()
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise UserError(f"{path}: is no playlist; give a file that ends in {', '.join(_READERS)}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else f"byte {e.start} is no UTF-8"
        raise UserError(f"{path}: cannot be read ({reason}); give a playlist in UTF-8") from e
    try:
        found = [track for track in read(text) if track.name]
    except (ValueError, TypeError, AttributeError, RecursionError, csv.Error) as e:
        raise UserError(f"{path}: is no {path.suffix[1:].upper()} playlist ({str(e)[:200]}); export it again") from e
    if not found:
        raise UserError(f"{path}: holds no song")
    return found


def write_playlist(path: str | Path, tracks: Sequence[Track], *, title: str = "Music Map") -> None:
    """Writes a playlist.

    Args:
      path: .m3u, .m3u8 or .jspf.
      tracks: in order.
      title: of the playlist.

    Raises:
      UserError: another suffix.
    """
    path = Path(path).expanduser()
    write_text(path, writer_of(path)(tracks, " ".join(title.split())))


def writer_of(path: Path) -> Callable[[Sequence[Track], str], str]:
    """What writes a playlist as the suffix of `path` tells. Raises UserError for other suffixes."""
    if (write := _WRITERS.get(path.suffix.lower())) is None:
        raise UserError(f"{path}: is no playlist that can be written; end it in {', '.join(_WRITERS)}")
    return write


def _read_m3u(text: str) -> list[Track]:
    tracks, about = [], {}
    for line in map(str.strip, text.split("\n")):
        if line.startswith("#EXTINF:"):
            name = line.removeprefix("#EXTINF:").partition(",")[2].strip()
            artist, dash, title = name.partition(" - ")
            about |= {"title": title, "artist": artist} if dash else {"title": name}
        elif line.startswith(("#EXTART:", "#EXTALB:")):
            about["artist" if line[4:7] == "ART" else "album"] = line[8:].strip()
        elif line and not line.startswith("#"):
            tracks.append(Track(**about, ids=(line,)))
            about = {}
    return tracks


def _write_m3u(tracks: Sequence[Track], title: str) -> str:
    lines = ["#EXTM3U", f"#PLAYLIST:{title}"]
    for track in tracks:
        lines.append(f"#EXTINF:-1,{' '.join(track.name.split())}")
        if track.album:
            lines.append(f"#EXTALB:{' '.join(track.album.split())}")
        place = track.ids[0] if track.ids else track.name
        # A location is one line, and no comment.
        plain = place.isprintable() and place == place.strip() and not place.startswith("#") and "%" not in place
        lines.append(place if plain else quote(place, safe=" /:,"))
    return "\n".join([*lines, ""])


def _read_jspf(text: str) -> list[Track]:
    playlist = json.loads(text)
    playlist = playlist.get("playlist", playlist)
    found = []
    for track in playlist["track"] if "track" in playlist else _missing("playlist.track"):
        ids = [*_list(track.get("identifier")), *_list(track.get("location"))]
        ids = [unquote(one.removeprefix(_URN)) if one.startswith(_URN) else one for one in map(str, ids)]
        fields = {name: str(track.get(key) or "") for name, key in (("title", "title"), ("artist", "creator"))}
        found.append(Track(**fields, album=str(track.get("album") or ""), ids=tuple(ids)))
    return found


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _missing(what: str) -> Any:
    raise ValueError(f"has no {what}")


def _write_jspf(tracks: Sequence[Track], title: str) -> str:
    rows = []
    for track in tracks:
        ids = [one if urlsplit(one).scheme and one.isascii() else _URN + quote(one, safe="") for one in track.ids]
        fields = {"title": track.title or track.name, "creator": track.artist, "album": track.album, "identifier": ids}
        rows.append({name: value for name, value in fields.items() if value})
    return json_text({"playlist": {"title": title, "track": rows}})


def _read_csv(text: str) -> list[Track]:
    rows = csv.DictReader(io.StringIO(text), restkey="")
    columns = {folded(name): name for name in rows.fieldnames or () if name}
    given = {
        kind: next((columns[name] for name in names if name in columns), None)
        for kind, names in (("title", _TITLES), ("artist", _ARTISTS), ("album", _ALBUMS), ("ids", _IDS))
    }
    if not given["title"] and not given["ids"]:
        raise ValueError(f"its columns are {', '.join(columns) or 'none'}; it needs title and artist, or id")

    def cell(row: Mapping[str, Any], kind: str) -> str:
        return (row.get(given[kind]) or "").strip() if given[kind] else ""

    return [
        Track(cell(row, "title"), cell(row, "artist"), cell(row, "album"), tuple(filter(None, (cell(row, "ids"),))))
        for row in rows
    ]


def _read_text(text: str) -> list[Track]:
    return [Track(ids=(line,)) for line in map(str.strip, text.split("\n")) if line]


_READERS: Mapping[str, Callable[[str], list[Track]]] = {
    ".m3u": _read_m3u, ".m3u8": _read_m3u, ".jspf": _read_jspf, ".json": _read_jspf, ".csv": _read_csv,
    ".txt": _read_text,
}  # fmt: skip
_WRITERS = {".m3u": _write_m3u, ".m3u8": _write_m3u, ".jspf": _write_jspf}
