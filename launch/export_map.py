"""Exports the music map: one HTML page of all songs, to look at, search, and build playlists in, offline.

python launch/export_map.py --workdir=checkpoints/demo --output=map.html
python launch/export_map.py --workdir=checkpoints/demo --output=map.html --metadata=songs.csv --positions=map.parquet
python launch/export_map.py --workdir=checkpoints/new --output=new.html --previous=map.html

The metadata file (CSV, Parquet, JSON or JSON lines) has item_id and any of title, artist, album, genre and others. A
map with --previous starts from an older one, so that what both have in common stays where it was. See docs/map.md.
"""

import dataclasses
import time
from pathlib import Path

import numpy as np
from absl import flags

from launch import app, experiment
from music_map.errors import UserError, require
from music_map.map.agreement import agreement
from music_map.map.clusters import cluster, colours_of, num_clusters_for, renumber_like
from music_map.map.metadata import read_metadata
from music_map.map.page import read_previous, render, save_positions
from music_map.map.payload import map_payload, pack, songs_of
from music_map.map.projection import METHODS, installed, kept_neighbours, project
from music_map.map.quantise import quantise
from music_map.playlist.heads import untrained
from music_map.retrieval.export import FOLDER, load_export
from music_map.retrieval.filters import filters_of
from music_map.retrieval.recommender import in_space, load_heads
from music_map.storage import read_json, write_text

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run of launch/train.py.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "The page, such as map.html.", required=True)
_METADATA = flags.DEFINE_string(
    "metadata", None, "Names of songs: item_id, title, artist, ... (.csv, .parquet, .json)."
)
_PREVIOUS = flags.DEFINE_string("previous", None, "An older map to stay close to: its page or its --positions file.")
_POSITIONS = flags.DEFINE_string("positions", None, "Parquet file for item_id, x, y, cluster of every song.")
_METHOD = flags.DEFINE_enum("method", "umap", METHODS, "umap: neighbourhoods; pca: quick, two principal components.")
_CLUSTERS = flags.DEFINE_integer("num_clusters", 0, "Groups to colour; 0: by the number of songs.", 0, 200)
_BITS = flags.DEFINE_enum("bits", "8", ["8", "16"], "Of a number of the page's vectors: 16 doubles the page's size.")
_MOST = flags.DEFINE_integer("max_songs", 300_000, "The page has the most listened songs, at most this many.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the projection and the clusters.", 0)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Only say how many songs the page would have, and how large it would be."
)
_TITLE = flags.DEFINE_string("title", None, "Of the page; by default the workdir's name.")


def _plan(workdir: Path, output: Path) -> int:
    """What --dry_run says."""
    if not (workdir / FOLDER / "manifest.json").is_file():
        app.say(f"{workdir / FOLDER}: to do, the embeddings of the best checkpoint")
        return 0
    songs, dims = load_export(workdir / FOLDER)[0].item_embeddings.shape
    shown = min(songs, _MOST.value)
    app.say(f"{shown:,} of {songs:,} songs, method {_METHOD.value}; names: {_METADATA.value or 'none'}")
    size = shown * (dims * int(_BITS.value) // 8 + 16)
    app.say(f"to write: {output}, about {app.size_text(4 * size // 3)}, and {_POSITIONS.value or 'no positions'}")
    return 0


def main() -> int:
    workdir, output = app.path_of(_WORKDIR.value, "workdir"), app.path_of(_OUTPUT.value, "output")
    if output.is_dir():
        raise UserError(f"--output={output}: is a folder; give a file such as {output / 'map.html'}")
    if _METHOD.value == "umap" and not installed():
        raise UserError("--method=umap: umap-learn is not installed; pip install umap-learn, or give --method=pca")
    settings = experiment.open_workdir(workdir).config.retrieval
    if _DRY_RUN.value:
        return _plan(workdir, output)
    experiment.load_model_export(workdir)  # made anew where it is missing or damaged
    export, _ = load_export(workdir / FOLDER)
    heads = load_heads(workdir) or untrained(settings.attention_temperature)
    vectors = in_space(export, heads)[0]
    total = len(vectors)
    if total > _MOST.value:
        rows = np.sort(np.argsort(-export.listeners.astype(np.int64), kind="stable")[: _MOST.value])
        export, vectors = songs_of(export, rows), vectors[rows]
        app.say(f"the {len(rows)} most listened of {total} songs; --max_songs sets how many")
    metadata = previous = None
    if _METADATA.value is not None:
        metadata = read_metadata(app.path_of(_METADATA.value, "metadata"), export.item_ids)
        app.say(f"metadata: {metadata.num_known} of {len(vectors)} songs have names ({metadata.num_rows} rows)")
        if not metadata.num_known:
            app.warn(f"{_METADATA.value}: none of its item_id is one of the model's, such as {export.item_ids[0]}")
    if _PREVIOUS.value is not None:
        previous = read_previous(app.path_of(_PREVIOUS.value, "previous"), export.item_ids)
        shared = int((previous.clusters >= 0).sum())
        require(shared >= 3, "--previous", _PREVIOUS.value, "a map with at least three songs of this model")
        app.say(f"previous map: has {shared} of {len(vectors)} songs")

    start = time.perf_counter()
    position = project(
        vectors,
        method=_METHOD.value,
        previous=None if previous is None else previous.position,
        seed=_SEED.value,
        progress=app.bar,
    )
    projected = time.perf_counter() - start
    kept = kept_neighbours(position, vectors)
    app.say(
        f"{_METHOD.value}: {len(vectors)} songs in {projected:.1f} s; "
        f"{kept:.0%} of a song's 10 nearest are among its 50 nearest on the map"
    )
    clusters = cluster(vectors, _CLUSTERS.value or num_clusters_for(len(vectors)), seed=_SEED.value)
    if previous is not None:
        clusters = renumber_like(clusters, previous.clusters)
        moved = np.linalg.norm(position - previous.position, axis=1)
        app.say(f"previous map: half of its songs moved less than {np.nanmedian(moved):.3f} of the map's half width")
    colours = colours_of(position, clusters, previous=None if previous is None else previous.colours)

    codes = quantise(vectors, bits=int(_BITS.value))
    filters = filters_of(settings)
    agrees = agreement(export, vectors, codes, clusters, heads, filters)
    app.say(
        f"int{_BITS.value} vectors: {agrees.same_top_10:.1%} of the top 10 of {agrees.num_queries} queries are the "
        f"same, scores differ by at most {agrees.worst_score_error:.4f}"
    )
    facts = {
        "title": _TITLE.value or workdir.absolute().name,
        "workdir": _WORKDIR.value,
        "step": read_json(workdir / FOLDER / "manifest.json")["meta"]["step"],
        "num_catalogue": total,
        "method": _METHOD.value,
        "kept_neighbours": kept,
        "bits": int(_BITS.value),
        **dataclasses.asdict(agrees),
    }
    block = pack(
        *map_payload(
            export=export,
            codes=codes,
            position=position,
            clusters=clusters,
            colours=colours,
            heads=heads,
            filters=filters,
            dislike_push=settings.dislike_push,
            metadata=metadata,
            facts=facts,
        )
    )
    page = render(block, title=f"Music Map: {facts['title']}")
    write_text(output, page)
    if _POSITIONS.value is not None:
        save_positions(app.path_of(_POSITIONS.value, "positions"), export.item_ids, position, clusters)
    app.say(f"{output}: {len(vectors)} songs, {clusters.max() + 1} clusters, {len(page.encode()) / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    app.run(main)
