"""Exports that people have, by name: which of their files to read, and what their columns mean.

A preset is a function from the paths that were given to an `Import`, and an entry in PRESETS.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from music_map.convert.formats import files_of
from music_map.errors import UserError
from music_map.registry import Registry


@dataclasses.dataclass(frozen=True)
class Import:
    """What a preset makes of the paths that were given.

    Attributes:
      inputs: files by what they hold, as `convert_logs` takes them.
      columns: fields of ColumnMapping.
      source: formats, delimiters and headers, as `convert_logs` takes them.
      notes: what a user should know.
    """

    inputs: dict[str, list[Path]]
    columns: dict[str, Any]
    source: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)


def _pick(paths: Sequence[Path], *patterns: str) -> list[Path]:
    """Of folders the files that fit the first pattern that any fits, of files themselves."""
    found = []
    for path in paths:
        if not path.is_dir():
            found += files_of(path)
            continue
        inside = next(filter(None, (sorted(path.rglob(pattern)) for pattern in patterns)), [])
        if not inside:
            raise UserError(f"{path}: holds none of {', '.join(patterns)}; give the files themselves")
        found += inside
    return found


def _head(path: Path) -> bytes:
    """The first bytes of a text file."""
    from music_map.convert.sources import Source, open_bytes

    with open_bytes(Source(path, (), lambda row, reason: None)) as stream:
        return stream.read(1 << 16)


def spotify(paths: Sequence[Path]) -> Import:
    """The extended streaming history (endsong_*.json before 2023), or that of the account data (one year)."""
    files = _pick(paths, "*treaming_[Hh]istory_Audio*.json", "endsong*.json", "StreamingHistory*.json")
    years = [path for path in files if b'"endTime"' in _head(path)]
    full = [path for path in files if path not in years]
    if full:
        notes = [f"{path}: left out, the extended history holds it too" for path in years]
        columns = {
            "item": "spotify_track_uri",
            "time": "ts",
            "played": "ms_played",
            "title": "master_metadata_track_name",
            "artist_name": "master_metadata_album_artist_name",
            "album_name": "master_metadata_album_album_name",
            "optional": ("master_metadata_album_album_name",),
        }
        return Import({"listens": full}, _PLAYED_MS | columns, {"file_format": "jsonl"}, notes)
    columns = {
        "item": "artistName,trackName",
        "time": "endTime",
        "played": "msPlayed",
        "title": "trackName",
        "artist_name": "artistName",
    }
    return Import({"listens": years}, _PLAYED_MS | columns, {"file_format": "jsonl"})


# One person's export: no column of users. Podcasts have no track: such rows are skipped, and counted.
_ALONE = {"user": None, "bad_rows": "skip"}
_PLAYED_MS = _ALONE | {"played_unit": "milliseconds", "played_threshold": 30.0}
_NAMED = {"item": "artist,title", "title": "title", "artist_name": "artist", "bad_rows": "skip"}


def lastfm(paths: Sequence[Path]) -> Import:
    """A CSV of scrobbles: artist,album,track,date without a header (lastfm-to-csv), or with uts among its columns."""
    files = _pick(paths, "*.csv")
    headed = [b"uts" in _head(path).partition(b"\n")[0] for path in files]
    if any(headed) != all(headed):
        raise UserError(
            f"{files[headed.index(False)]}: has another layout than {files[headed.index(True)]}; convert one"
        )
    if all(headed):
        columns = {
            "item": "artist,track",
            "title": "track",
            "artist_name": "artist",
            "album_name": "album",
            "time": "uts",
        }
        return Import({"listens": files}, _ALONE | columns | {"time_unit": "s"}, {"file_format": "csv"})
    columns = _ALONE | _NAMED | {"album_name": "album", "time": "date", "time_format": "%d %b %Y %H:%M"}
    source = {"file_format": "csv", "header": ["artist", "album", "title", "date"]}
    return Import({"listens": files}, columns, source)


def lastfm1k(paths: Sequence[Path]) -> Import:
    """The Last.fm data set of 1,000 users (Celma): many of its songs have no MusicBrainz id, all have names."""
    files = _pick(paths, "userid-timestamp-artid-artname-traid-traname.tsv*")
    source = {"file_format": "tsv", "header": ["user", "time", "artist_id", "artist", "track_id", "title"]}
    return Import({"listens": files}, _NAMED | {"user": "user", "time": "time"}, source)


def listenbrainz(paths: Sequence[Path]) -> Import:
    """ListenBrainz's export: JSON lines (listens/YEAR/MONTH.jsonl) or an array."""
    files = _pick(paths, "*.listens", "*.jsonl", "*.json")
    track = "track_metadata"
    columns = {
        "user": "user_name" if all(b'"user_name"' in _head(path) for path in files) else None,
        "item": f"{track}.artist_name,{track}.track_name",
        "time": "listened_at",
        "title": f"{track}.track_name",
        "artist_name": f"{track}.artist_name",
        "album_name": f"{track}.release_name",
        "optional": (f"{track}.release_name",),
        "bad_rows": "skip",
    }
    return Import({"listens": files}, columns, {"file_format": "jsonl"})


def mpd(paths: Sequence[Path]) -> Import:
    """The Million Playlist Dataset: a playlist is a user, a session in the order of its places."""
    columns = {
        "user": "pid",
        "item": "track_uri",
        "time": "time",
        "time_unit": "s",
        "duration": "duration_ms",
        "duration_unit": "milliseconds",
        "artist": "artist_uri",
        "album": "album_uri",
        "title": "track_name",
        "artist_name": "artist_name",
        "album_name": "album_name",
        "optional": ("duration_ms", "artist_uri", "album_uri", "album_name"),
        "bad_rows": "skip",
    }
    notes = ["playlists have no times: a song's is its playlist's last change, plus one second a place"]
    return Import({"listens": _pick(paths, "mpd.slice.*.json", "*.json")}, columns, {"file_format": "mpd"}, notes)


def movielens(paths: Sequence[Path]) -> Import:
    """MovieLens: ratings.csv and movies.csv, ratings.dat and movies.dat (1M), or u.data and u.item (100K)."""
    files = _pick(paths, "ratings.csv", "ratings.dat", "u.data")
    layouts = {
        ".csv": ({"header": []}, {"header": []}, "movies.csv", ("userId", "movieId", "rating", "timestamp", "title")),
        ".dat": ({"delimiter": "::"}, {"delimiter": "::"}, "movies.dat", _RATING),
        ".data": ({"delimiter": "\t"}, {"delimiter": "|"}, "u.item", _RATING),
    }
    ratings, movies, name, (user, item, rating, time, title) = layouts[files[0].suffix.lower()]
    if files[0].suffix.lower() != ".csv":
        ratings, movies = ratings | {"header": [user, item, rating, time]}, movies | {"header": [item, title, "genres"]}
        if name == "u.item":
            movies["header"] = [item, title, *(f"column {n}" for n in range(22))]
        movies["encoding"] = "latin-1"
    songs = [path for path in {file.with_name(name) for file in files} if path.is_file()]
    columns = {"user": user, "item": item, "time": time, "played": rating, "played_unit": "stars"}
    source = {"listens": {"file_format": "csv"} | ratings, "songs": {"file_format": "csv"} | movies}
    return Import({"listens": files, "songs": songs}, columns | ({"title": title} if songs else {}), source)


_RATING = ("user", "movie", "rating", "timestamp", "title")
_TITLES = ("title", "name", "track_name", "movie_title", "song_name", "item_name", "title_name")


def recbole(paths: Sequence[Path]) -> Import:
    """RecBole's atomic files: NAME.inter, and NAME.item for the titles."""
    files = _pick(paths, "*.inter")
    songs = [path for path in (file.with_suffix(".item") for file in files) if path.is_file()]
    columns: dict[str, Any] = {"user": "user_id", "item": "item_id", "time": "timestamp"}
    if songs:
        fields = [
            name.partition(":")[0] for name in _head(songs[0]).partition(b"\n")[0].decode(errors="replace").split("\t")
        ]
        title = next((name for name in _TITLES if name in fields), None)
        if title is None:
            songs = []
        else:
            columns["title"] = title
    return Import({"listens": files, "songs": songs}, columns, {"file_format": "recbole"})


def lightgcn(paths: Sequence[Path]) -> Import:
    """train.txt, valid.txt and test.txt as LightGCN's authors ship them: a user, then its items, a line."""
    from music_map.preprocess.text import TEXT_FILES

    files = _pick(paths, "t[re][as][it][nt]*.txt")
    [folder, *more] = {file.parent for file in files}
    if more:
        raise UserError(f"{folder}: one folder of train.txt and test.txt at a time")
    files = [folder / name for name in TEXT_FILES.values() if (folder / name).is_file()]
    notes = [
        "pairs have no times: those of train count as second 0, of valid as 1, of test as 2; to train and measure with "
        f"just these parts, use --config=configs/lightgcnpp.py:default --config.data.path={folder}"
    ]
    if len(files) == 2:
        notes.append("no valid.txt: a tenth of train's pairs counts as valid")
    columns = {"user": "user", "item": "item", "time": "time", "time_unit": "s"}
    return Import({"listens": files}, columns, {"file_format": "lightgcn"}, notes)


PRESETS: Registry[Callable[[Sequence[Path]], Import]] = Registry("--preset")
for _preset in (spotify, lastfm, lastfm1k, listenbrainz, mpd, movielens, recbole, lightgcn):
    PRESETS.register(_preset.__name__, _preset)
