"""Exports that people have, by name: which of their files to read, and what their columns mean.

A preset is a function from the paths that were given to an `Import`, and an entry in PRESETS with what tells it apart.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
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


@contextlib.contextmanager
def unpacked(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """The paths, with a folder in place of each ZIP archive; the folders go at the end.

    Raises:
      UserError: an archive is damaged, or needs a password.
    """
    with contextlib.ExitStack() as stack:
        found = []
        for path in paths:
            if path.is_file() and path.suffix.lower() == ".zip":
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="music-map-"))) / path.stem
                try:
                    with zipfile.ZipFile(path) as archive:
                        # Pictures and papers of an export stay inside. Names that leave the folder are mended.
                        wanted = [name for name in archive.namelist() if name.lower().endswith(_PACKED)]
                        archive.extractall(folder, wanted)
                except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as e:
                    raise UserError(f"{path}: cannot be unpacked ({e}); unpack it, and give the folder") from e
                folder.mkdir(parents=True, exist_ok=True)
                path = folder
            found.append(path)
        yield found


_PACKED = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".dat", ".data", ".item", ".inter", ".listens", ".parquet")


def spotify(paths: Sequence[Path]) -> Import:
    """The extended streaming history (endsong_*.json before 2023), or that of the account data (one year)."""
    files = _pick(paths, "*treaming_[Hh]istory_Audio*.json", "endsong*.json", "StreamingHistory*.json")
    # Since 2024 the account data has files of their own for podcasts and audiobooks, with other columns.
    files = [path for path in files if not re.match(r"StreamingHistory_(podcast|audiobook)", path.name)] or files
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
    """Scrobbles: a CSV of artist,album,track,date without a header (lastfm-to-csv), or with uts among its columns; or
    JSON as the API has them, in pages (mainstream.ghan.nl) or not.
    """
    files = _pick(paths, "*.csv", "*.json")
    if all(path.suffix.lower() == ".json" for path in files):
        columns = {
            "item": "artist.#text,name",
            "title": "name",
            "artist_name": "artist.#text",
            "album_name": "album.#text",
            "time": "date.uts",
            "time_unit": "s",
            "optional": ("album.#text", "date.uts"),
        }
        return Import({"listens": files}, _ALONE | columns, {"file_format": "pages"})
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
    files = _pick(paths, "*.listens", "listens*.jsonl", "listens/**/*.jsonl", "*.jsonl", "*.json")
    # An export also has the profile, the loved songs and the pinned ones.
    others = ("user.json", "feedback.jsonl", "pinned_recording.jsonl")
    files = [path for path in files if path.name not in others] or files
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
    notes = ["playlists have no times: a song's is its place, and the last songs of each playlist are held out"]
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
    movies["file_format"] = "csv"
    if files[0].suffix.lower() != ".csv":
        ratings, movies = ratings | {"header": [user, item, rating, time]}, movies | {"header": [item, title, "genres"]}
        if name == "u.item":
            movies |= {"header": [item, title, "day", "video", "url", *_GENRES], "file_format": "u.item"}
        movies["encoding"] = "latin-1"
    songs = [path for path in {file.with_name(name) for file in files} if path.is_file()]
    columns = {"user": user, "item": item, "time": time, "played": rating, "played_unit": "stars"}
    source = {"listens": {"file_format": "csv"} | ratings, "songs": movies}
    named = {"title": title, "genre": "genres"} if songs else {}
    return Import({"listens": files, "songs": songs}, columns | named, source)


# The columns of u.item that are 1 where a film has the genre, in their order.
_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip


_RATING = ("user", "movie", "rating", "timestamp", "title")
_NAMES = {
    "title": ("title", "name", "track_name", "movie_title", "song_name", "item_name", "title_name"),
    "artist_name": ("artist", "artist_name", "artists", "artist_title"),
    "album_name": ("album", "album_name", "album_title"),
    "genre": ("genre", "genres", "class", "category"),
}


def recbole(paths: Sequence[Path]) -> Import:
    """RecBole's atomic files: NAME.inter, and NAME.item for the names."""
    files = _pick(paths, "*.inter")
    songs = [path for path in (file.with_suffix(".item") for file in files) if path.is_file()]
    columns: dict[str, Any] = {"user": "user_id", "item": "item_id", "time": "timestamp"}
    if songs:
        fields = [
            name.partition(":")[0] for name in _head(songs[0]).partition(b"\n")[0].decode(errors="replace").split("\t")
        ]
        found = {role: next((name for name in names if name in fields), None) for role, names in _NAMES.items()}
        columns |= {role: name for role, name in found.items() if name}
        songs = songs if any(found.values()) else []
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

# What tells an export: names of its files (patterns, in lower case), and what the start of one of them holds.
_MARKS: dict[str, tuple[tuple[str, ...], tuple[bytes, ...]]] = {
    "lastfm1k": (("userid-timestamp-artid-artname-traid-traname.tsv*",), ()),
    "spotify": (
        ("*streaming_history_audio*.json", "endsong*.json", "streaminghistory*.json"),
        (b'"ms_played"', b'"msPlayed"'),
    ),
    "mpd": (("mpd.slice.*.json",), (b'"playlists"',)),
    "movielens": (("ratings.csv", "ratings.dat", "u.data"), ()),
    "recbole": (("*.inter",), ()),
    "listenbrainz": (("*.listens",), (b'"track_metadata"',)),
    "lastfm": ((), (b'"#text"', b"uts,utc_time", b"artist,album,", b'"uts"')),
    "lightgcn": (("train.txt",), ()),
}
_SCROBBLE = re.compile(rb"""[^\n]*,"?\d\d? [A-Z][a-z]{2} \d{4},? \d\d:\d\d"?\r?\n""")
_MOST_SNIFFED = 20


def detect(paths: Sequence[Path]) -> str:
    """The preset of an export, told by the names of its files, else by what they begin with.

    Raises:
      UserError: no preset is known by them.
    """
    files: list[Path] = []
    for path in paths:
        files += sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else files_of(path)
    for preset, (patterns, _) in _MARKS.items():
        if any(PurePosixPath(path.name.lower()).match(pattern) for path in files for pattern in patterns):
            return preset
    texts = [path for path in files if path.suffix.lower() in (".json", ".jsonl", ".csv", ".gz")]
    for path in texts[:_MOST_SNIFFED]:
        try:
            head = _head(path)
        except UserError:
            continue
        for preset, (_, marks) in _MARKS.items():
            if any(mark in head for mark in marks) or (preset == "lastfm" and _SCROBBLE.match(head)):
                return preset
    raise UserError(
        f"{', '.join(map(str, paths))}: is no export that is known; name its preset ({', '.join(_MARKS)}), or "
        "convert it with launch/convert.py, whose flags name the columns"
    )
