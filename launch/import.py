"""Imports an export by name: Spotify, Last.fm, ListenBrainz, playlists, MovieLens, RecBole or LightGCN files.

    python launch/import.py spotify my_spotify_data.zip --output=data/own
    python launch/import.py lastfm scrobbles.csv --output=data/own
    python launch/import.py listenbrainz listenbrainz_export.zip --output=data/own
    python launch/import.py mpd spotify_million_playlist_dataset/data --output=data/mpd
    python launch/import.py auto ml-latest-small --output=data/films

PRESET is spotify, lastfm, lastfm1k, listenbrainz, mpd, movielens, recbole or lightgcn, or auto: told by the files. PATH
is a file, a folder or an archive (ZIP, TAR); several are one log. What is skipped, merged or too rare to learn from is
counted. Other logs: launch/convert.py, whose flags name the columns.
"""

from absl import flags

from launch import app

_OUTPUT = flags.DEFINE_string("output", "data/own", "Folder to fill: data.raw_dir of the configurations.")
_SIZE = flags.DEFINE_string("size", "own", "Name of the log: data.size of the configurations.")
_THRESHOLD = flags.DEFINE_float(
    "played_threshold", None, "Seconds that count as a whole song where the length is unknown; by default 30.", 0.001
)
_SITTINGS = flags.DEFINE_float(
    "sittings",
    None,
    "Minutes of pause that end a sitting, e.g. 30: each counts as a user, for the log of one listener.",
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an earlier conversion.")
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Only read the first rows of each file, and say what would become of them."
)


def main(preset: str, *paths: str) -> int:
    from music_map.convert.importing import import_logs

    given = [app.path_of(path, "path") for path in paths]
    raw_dir = app.path_of(_OUTPUT.value, "output")
    changes = {flag.name: flag.value for flag in (_THRESHOLD, _SITTINGS) if flag.value is not None}
    options = {"size": _SIZE.value, "overwrite": _OVERWRITE.value, "changes": changes, "preview": _DRY_RUN.value}
    found, summary = import_logs(preset, given, raw_dir, **options, reporter=app.reporter())
    app.say_conversion(summary, found.notes, raw_dir, _SIZE.value, dry_run=_DRY_RUN.value)
    return 0


if __name__ == "__main__":
    app.run(main, arguments=("PRESET", "PATH..."))
