"""Exports that people have, by name: which of their files to read, and what their columns mean.

A preset is a function from the paths that were given to an `Import`, and an entry in PRESETS with what tells it apart.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
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
      words: what a row is whose value of this field of `columns` is missing or wrong, where that is no fault.
      preset: the name of the preset, where an import has read the files.
    """

    inputs: dict[str, list[Path]]
    columns: dict[str, Any]
    source: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    words: Mapping[str, str] = dataclasses.field(default_factory=dict)
    preset: str = ""

    def told(self, reason: str) -> str:
        """A reason for which rows are left out, in words of the export."""
        for field, words in self.words.items():
            reason = re.sub(rf"column {re.escape(self.columns[field])}: must be .*?(?= \(the first: |$)", words, reason)
        return reason


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


_PACKED = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".dat", ".data", ".item", ".inter", ".listens", ".parquet")
_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


@contextlib.contextmanager
def unpacked(paths: Sequence[Path]) -> Iterator[tuple[list[Path], Callable[[str], str]]]:
    """The paths, with a folder in place of each ZIP or TAR archive, and a function that names the archive in a text in
    place of its folder. The folders go at the end.

    Raises:
      UserError: an archive is damaged, needs a password, or holds no file of an export. Errors inside the context name
        archives, too.
    """
    archives: dict[str, str] = {}

    def named(text: str) -> str:
        for folder, archive in archives.items():
            text = text.replace(folder, archive)
        return text

    with contextlib.ExitStack() as stack:
        found = []
        for path in paths:
            name = path.name.lower()
            if path.is_file() and name.endswith((".zip", *_TAR)):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="music-map-"))) / "export"
                try:
                    (_unzip if name.endswith(".zip") else _untar)(path, folder)
                except (zipfile.BadZipFile, tarfile.TarError, zlib.error, RuntimeError, EOFError) as e:
                    cause = str(e).partition("\n")[0].rstrip(":") or "it ends too early"
                    raise UserError(f"{path}: cannot be unpacked ({cause}); unpack it, and give the folder") from e
                if not folder.exists():
                    ends = ", ".join(_PACKED)
                    raise UserError(f"{path}: holds no file that ends in {ends}; is it the archive of an export?")
                archives[str(folder)] = str(path)
                path = folder
            found.append(path)
        try:
            yield found, named
        except UserError as e:
            if archives:
                raise UserError(named(str(e))) from e
            raise


def _unzip(path: Path, folder: Path) -> None:
    """Unpacks what may be a log: no pictures and papers. A name that leads out of the folder is mended."""
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.lower().endswith(_PACKED)])


def _untar(path: Path, folder: Path) -> None:
    """Likewise; a name that leads out of the folder is an error."""
    with tarfile.open(path) as archive:
        members = [member for member in archive if member.isfile() and member.name.lower().endswith(_PACKED)]
        archive.extractall(folder, members, filter="data")


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
        return Import({"listens": full}, _PLAYED_MS | columns, {"file_format": "jsonl"}, notes, _NO_SONG)
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
_NO_SONG = {"item": "podcasts and others without the id of a song"}
_PLAYED_MS = _ALONE | {"played_unit": "milliseconds", "played_threshold": 30.0}
_NAMED = {"item": "artist,title", "title": "title", "artist_name": "artist", "bad_rows": "skip"}


def lastfm(paths: Sequence[Path]) -> Import:
    """Scrobbles: JSON as the API has them, in pages (mainstream.ghan.nl) or not; a CSV with a header line, told by the
    names of its columns (mainstream.ghan.nl, lastfmstats.com, ...); or one of artist,album,track,date without a header
    line (lastfm-to-csv).
    """
    files = _pick(paths, "*.csv", "*.json", "*.tsv")
    heads = [_head(path) for path in files]
    layouts = [_scrobbles(path, head) for path, head in zip(files, heads, strict=True)]
    for path, layout in zip(files, layouts, strict=True):
        if layout != layouts[0]:
            raise UserError(f"{path}: has another layout than {files[0]}; import one of them")
    columns, source = layouts[0]
    return Import({"listens": files}, _ALONE | columns, source, words=_UNTIMED)


_UNTIMED = {
    "item": "scrobbles without an artist or a title",
    "time": "scrobbles without a time, as of a song that is playing",
}
# Columns of scrobbles by their names in lower case; "Date#name" of lastfmstats.com is a date.
_SCROBBLES = {
    "artist": ("artist", "artist_name", "artist name"),
    "title": ("track", "title", "track_name", "track name", "name", "song"),
    "album": ("album", "album_name", "album name"),
    "time": ("uts", "timestamp", "unix_timestamp", "date", "utc_time", "time", "played_at"),
}
_DATE = re.compile(rb"\d\d? [A-Z][a-z]{2} \d{4}(,?) \d\d:\d\d")


def _scrobbles(path: Path, head: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """The columns of a file of scrobbles, and its format, from its first bytes."""
    if path.suffix.lower() == ".json":
        if b'"scrobbles"' in head:  # of lastfmstats.com
            columns = {"artist": "artist", "title": "track", "album": "album", "time": "date"}
            return _named(columns), {"file_format": "scrobbles"}
        columns = {"artist": "artist.#text", "title": "name", "album": "album.#text", "time": "date.uts"}
        # The song that is playing has no date.
        return _named(columns) | {"time_unit": "s", "optional": ("album.#text", "date.uts")}, {"file_format": "pages"}
    line = head.partition(b"\n")[0].decode(errors="replace").removeprefix("\ufeff")
    delimiter = max(",;\t", key=line.count)
    names = [name.strip().strip('"') for name in line.split(delimiter)]
    known = {name.lower().partition("#")[0]: name for name in reversed(names)}
    found = {role: next((known[name] for name in likely if name in known), None) for role, likely in _SCROBBLES.items()}
    source = {"file_format": "csv", "delimiter": delimiter}
    if not (found["artist"] and found["title"] and found["time"]):
        found = {role: role for role in _SCROBBLES}
        source |= {"header": ["artist", "album", "title", "time"]}
    columns = _named({role: name for role, name in found.items() if name})
    if (found["time"] or "").lower() not in ("uts", "timestamp") and (date := _DATE.search(head)):
        columns["time_format"] = f"%d %b %Y{date[1].decode()} %H:%M"
    return columns, source


def _named(columns: dict[str, str]) -> dict[str, Any]:
    """Fields of a mapping for songs that are their artist and title."""
    album = {"album_name": columns["album"]} if "album" in columns else {}
    artist, title = columns["artist"], columns["title"]
    return {
        "item": f"{artist},{title}",
        "title": title,
        "artist_name": artist,
        "time": columns["time"],
        "optional": tuple(album.values()),
        **album,
    }


def lastfm1k(paths: Sequence[Path]) -> Import:
    """The Last.fm data set of 1,000 users (Celma): many of its songs have no MusicBrainz id, all have names."""
    files = _pick(paths, "userid-timestamp-artid-artname-traid-traname.tsv*")
    source = {"file_format": "tsv", "header": ["user", "time", "artist_id", "artist", "track_id", "title"]}
    columns = _NAMED | {"user": "user", "time": "time"}
    return Import({"listens": files}, columns, source, words={"item": "plays without an artist or a title"})


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


# What RecBole's own data sets call the item.
_ITEMS = ("item_id", "track_id", "tracks_id", "song_id", "music_id", "artist_id", "artists_id", "movie_id")


def recbole(paths: Sequence[Path]) -> Import:
    """RecBole's atomic files: NAME.inter, and NAME.item for the names; or NAME.train.inter and the like, cut before."""
    files = _pick(paths, "*.inter")
    items = {file.with_name(f"{file.name.removesuffix('.inter').split('.')[0]}.item") for file in files}
    items |= {file.with_suffix(".item") for file in files}
    songs = sorted(path for path in items if path.is_file())
    fields = [_fields(path) for path in files]
    timed = all("timestamp" in names for names in fields)
    item = next((name for name in _ITEMS if all(name in names for names in fields)), _ITEMS[0])
    columns: dict[str, Any] = {"user": "user_id", "item": item, "time": "timestamp" if timed else None}
    if songs:
        names = set.intersection(*(set(_fields(path)) for path in songs))
        found = {role: next((name for name in likely if name in names), None) for role, likely in _NAMES.items()}
        columns |= {role: name for role, name in found.items() if name}
        songs = songs if any(found.values()) and item in names else []
    return Import({"listens": files, "songs": songs}, columns, {"file_format": "recbole"})


def _fields(path: Path) -> list[str]:
    """The names in the header of an atomic file, without their types."""
    line = _head(path).partition(b"\n")[0].decode(errors="replace")
    return [name.partition(":")[0].strip() for name in line.split("\t")]


def lightgcn(paths: Sequence[Path]) -> Import:
    """train.txt, valid.txt and test.txt as LightGCN's authors ship them: a user, then its items, a line."""
    from music_map.preprocess.text import TEXT_FILES

    files = _pick(paths, "train.txt", "test.txt")
    [folder, *more] = {file.parent for file in files}
    if more:
        raise UserError(f"{folder}: one folder of train.txt and test.txt at a time")
    files = [folder / name for name in TEXT_FILES.values() if (folder / name).is_file()]
    notes = [
        "pairs have no times: those of train count as second 0, of valid as 1, of test as 2; to train and measure on "
        "these very parts, use --config=configs/lightgcnpp.py:default --config.data.path=FOLDER of these files"
    ]
    if len(files) == 2:
        notes.append("no valid.txt: a tenth of train's pairs counts as valid")
    columns = {"user": "user", "item": "item", "time": "time", "time_unit": "s"}
    return Import({"listens": files}, columns, {"file_format": "lightgcn"}, notes)


AUTO = "auto"  # the preset is told by the files
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
    "lastfm": (
        (),
        (
            b'"#text"',
            b"uts,utc_time",
            b"artist,album,",
            b'"uts"',
            b"Artist;Album;",
            b'"Artist";"Album"',
            b'"scrobbles"',
        ),
    ),
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
