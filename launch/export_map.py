"""Exports the music map: one HTML page of all songs, to look at, search, and build playlists in, offline.

python launch/export_map.py --workdir=checkpoints/demo --output=map.html
python launch/export_map.py --workdir=checkpoints/demo --output=map.html --metadata=songs.csv --positions=map.parquet
python launch/export_map.py --workdir=checkpoints/new --output=new.html --previous=map.html

Songs have the names that the logs have. A metadata file (CSV, Parquet, JSON or JSON lines) with item_id and any of
title, artist, album, genre and others adds to them. A map with --previous starts from an older one, so that songs in
both keep their places. See docs/map.md.
"""

from pathlib import Path

from absl import flags

from launch import app
from music_map.errors import UserError, require_packages

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run of launch/train.py.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "The page, such as map.html.", required=True)
_METADATA = flags.DEFINE_string(
    "metadata", None, "Names of songs: item_id, title, artist, ... (.csv, .parquet, .json)."
)
_PREVIOUS = flags.DEFINE_string("previous", None, "An older map to stay close to: its page or its --positions file.")
_POSITIONS = flags.DEFINE_string("positions", None, "Parquet file for item_id, x, y, cluster of every song.")
_METHOD = flags.DEFINE_enum(
    "method", "umap", ("umap", "pca"), "umap: neighbourhoods; pca: quick, two principal components."
)
_CLUSTERS = flags.DEFINE_integer("num_clusters", 0, "Groups to colour, at most; 0: by the number of songs.", 0, 200)
_BITS = flags.DEFINE_enum("bits", "8", ["8", "16"], "Of a number of the page's vectors: 16 doubles the page's size.")
_MOST = flags.DEFINE_integer("max_songs", 300_000, "The page has the most listened songs, at most this many.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the projection and the clusters.", 0, 2**31 - 1)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Only say how many songs the page would have, and how large it would be."
)
_TITLE = flags.DEFINE_string("title", None, "Title of the page; by default the workdir's name.")


def main() -> int:
    from music_map import Recommender
    from music_map.map.export import make_map
    from music_map.storage import write_text

    workdir, output = app.path_of(_WORKDIR.value, "workdir"), app.path_of(_OUTPUT.value, "output")
    if output.is_dir():
        raise UserError(f"--output={output}: is a folder; give a file such as {output / 'map.html'}")
    if _METHOD.value == "umap":
        require_packages("--method=umap", "map", "umap")
    if _DRY_RUN.value:
        return _plan(workdir, output)
    recommender = Recommender.load(workdir, index="exact", reporter=app.reporter())
    page = make_map(
        recommender,
        title=_TITLE.value or workdir.absolute().name,
        source=_WORKDIR.value,
        metadata=None if _METADATA.value is None else app.path_of(_METADATA.value, "metadata"),
        previous=None if _PREVIOUS.value is None else app.path_of(_PREVIOUS.value, "previous"),
        positions=None if _POSITIONS.value is None else app.path_of(_POSITIONS.value, "positions"),
        method=_METHOD.value,
        num_clusters=_CLUSTERS.value,
        bits=int(_BITS.value),
        max_songs=_MOST.value,
        seed=_SEED.value,
        reporter=app.reporter(),
    )
    write_text(output, page.html)
    app.say(
        f"{output}: {page.num_songs} songs, {page.num_clusters} clusters, {len(page.html.encode()) / 2**20:.1f} MiB"
    )
    return 0


def _plan(workdir: Path, output: Path) -> int:
    """What --dry_run says."""
    from music_map.retrieval.export import FOLDER, load_export
    from music_map.text import size_text

    if not (workdir / FOLDER / "manifest.json").is_file():
        app.say(f"{workdir / FOLDER}: to do, the embeddings of the best checkpoint")
        return 0
    songs, dims = load_export(workdir / FOLDER)[0].item_embeddings.shape
    shown = min(songs, _MOST.value)
    app.say(f"{shown:,} of {songs:,} songs, method {_METHOD.value}; names: {_METADATA.value or 'of the run'}")
    size = shown * (dims * int(_BITS.value) // 8 + 16)
    app.say(f"to write: {output}, about {size_text(4 * size // 3)}, and {_POSITIONS.value or 'no positions'}")
    return 0


if __name__ == "__main__":
    app.run(main)
