"""The music map of a recommender: positions, clusters, quantised vectors and names in one page."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from music_map.errors import require
from music_map.map.agreement import agreement
from music_map.map.clusters import colours_of, islands, num_clusters_for, renumber_like
from music_map.map.metadata import joined, names_of_run, of_songs, read_metadata
from music_map.map.page import read_previous, render, save_positions
from music_map.map.payload import map_payload, pack, songs_of
from music_map.map.projection import installed as installed
from music_map.map.projection import kept_neighbours, project
from music_map.map.quantise import quantise
from music_map.reporter import SILENT, Reporter
from music_map.retrieval.recommender import Recommender


class Page(NamedTuple):
    """A map: its HTML, and the numbers of its songs and clusters."""

    html: str
    num_songs: int
    num_clusters: int


def make_map(
    recommender: Recommender,
    *,
    title: str,
    source: str = "",
    metadata: Path | None = None,
    previous: Path | None = None,
    positions: Path | None = None,
    method: str = "umap",
    num_clusters: int = 0,
    bits: int = 8,
    max_songs: int = 300_000,
    seed: int = 0,
    reporter: Reporter = SILENT,
) -> Page:
    """Places all songs of a model on a plane and renders the page.

    Args:
      recommender: the model.
      title: of the page.
      source: folder of the run, shown on the page.
      metadata: file of names (item_id, title, artist, ...), beside those that the run knows.
      previous: an older map to stay close to: its page or its positions.
      positions: Parquet file to write: item_id, x, y, cluster of every song.
      method: "umap" or "pca".
      num_clusters: groups to colour, at most; 0: by the number of songs.
      bits: per number of the page's vectors, 8 or 16.
      max_songs: songs on the map, the most listened ones.
      seed: of the projection and the clusters.
      reporter: shows progress.

    Raises:
      UserError: a file that cannot be used.
    """
    export, vectors, heads, filters = recommender.export, recommender.vectors, recommender.heads, recommender.filters
    total = len(vectors)
    rows = np.arange(total)
    names, before = names_of_run(recommender.ids.songs), None
    if metadata is not None:
        given = read_metadata(metadata, recommender.ids.songs)
        reporter.say(f"metadata: {given.num_known} of {total} songs have names ({given.num_rows} rows)")
        if not given.num_known:
            reporter.warn(
                f"{metadata}: none of its item_id is one of the model's, such as {recommender.ids.songs.label(0)}"
            )
        names = joined(given, names)
    if total > max_songs:
        rows = np.sort(np.argsort(-export.listeners.astype(np.int64), kind="stable")[:max_songs])
        export, vectors, names = songs_of(export, rows), vectors[rows], of_songs(names, rows)
        reporter.say(f"the {len(rows)} most listened of {total} songs; --max_songs sets how many")
    if previous is not None:
        before = read_previous(previous, export.item_ids)
        shared = int((before.clusters >= 0).sum())
        require(shared >= 3, "previous", str(previous), "a map with at least three songs of this model")
        reporter.say(f"previous map: has {shared} of {len(vectors)} songs")

    start = time.perf_counter()
    position = project(
        vectors,
        method=method,
        previous=None if before is None else before.position,
        seed=seed,
        progress=reporter.bar,
    )
    projected = time.perf_counter() - start
    kept = kept_neighbours(position, vectors)
    reporter.say(
        f"{method}: {len(vectors)} songs in {projected:.1f} s; "
        f"{kept:.0%} of a song's 10 nearest are among its 50 nearest on the map"
    )
    clusters, finer = islands(position, num_clusters or num_clusters_for(len(vectors)), seed=seed)
    if before is not None:
        clusters = renumber_like(clusters, before.clusters)
        moved = np.linalg.norm(position - before.position, axis=1)
        reporter.say(
            f"previous map: half of its songs moved less than {np.nanmedian(moved):.3f} of the map's half width"
        )
    colours = colours_of(position, clusters, previous=None if before is None else before.colours)

    codes = quantise(vectors, bits=bits)
    agrees = agreement(export, vectors, codes, clusters, heads, filters)
    reporter.say(
        f"int{bits} vectors: {agrees.same_top_10:.1%} of the top 10 of {agrees.num_queries} queries are the "
        f"same, scores differ by at most {agrees.worst_score_error:.4f}"
    )
    facts = {
        "title": title,
        "workdir": source,
        "step": recommender.step,
        "num_catalogue": total,
        "method": method,
        "kept_neighbours": kept,
        "bits": bits,
        **dataclasses.asdict(agrees),
    }
    block = pack(
        *map_payload(
            export=export,
            codes=codes,
            position=position,
            clusters=clusters,
            finer=finer,
            colours=colours,
            heads=heads,
            filters=filters,
            dislike_push=recommender.dislike_push,
            metadata=names,
            ids=None if recommender.ids.songs.own is None else recommender.ids.songs.labels(rows.tolist()),
            facts=facts,
        )
    )
    page = render(block, title=f"Music Map: {facts['title']}")
    if positions is not None:
        save_positions(positions, export.item_ids, position, clusters)
    return Page(page, len(vectors), int(clusters.max()) + 1)
