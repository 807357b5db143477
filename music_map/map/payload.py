"""The data of a map's page: arrays and JSON-able values in one compressed block.

    gzip( uint32 length of the head | head, JSON | zeros up to a multiple of 8 | arrays, each at a multiple of 8 )

The head has "meta", and for each array its dtype, shape and offset from the first one. Little endian throughout; the
same arrays give the same bytes.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from music_map.errors import DamagedFileError
from music_map.map.clusters import centres_of
from music_map.map.colours import palette
from music_map.map.metadata import Column, Metadata
from music_map.playlist.heads import Heads, to_json
from music_map.retrieval.export import Export
from music_map.retrieval.filters import Filters, allowed_songs
from music_map.rows import select
from music_map.storage import strict_json

FORMAT_VERSION = 1
# Bits of "flags".
ALLOWED, HAS_AUDIO, KNOWN = 1, 2, 4
# Least share of a cluster's songs for a value to stand in its name beside the first.
_ALSO_NAMED = 0.15


def pack(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> bytes:
    """The block of some arrays and values."""
    head: dict[str, Any] = {"version": FORMAT_VERSION, "meta": dict(meta), "arrays": {}}
    blocks, offset = [], 0
    for name, array in arrays.items():
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        head["arrays"][name] = {"dtype": array.dtype.name, "shape": list(array.shape), "offset": offset}
        block = array.tobytes()
        blocks += [block, bytes(-len(block) % 8)]
        offset += len(block) + -len(block) % 8
    text = json.dumps(head, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    start = [np.uint32(len(text)).astype("<u4").tobytes(), text, bytes(-(4 + len(text)) % 8)]
    return gzip.compress(b"".join([*start, *blocks]), compresslevel=6, mtime=0)


def unpack(block: bytes, *, source: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The inverse of `pack`. Raises DamagedFileError, which names `source`, for any other content."""
    damaged = f"{source}: holds no map of this version; export it again with launch/export_map.py"
    try:
        data = gzip.decompress(block)
        length = int(np.frombuffer(data, "<u4", 1)[0])
        head = strict_json(data[4 : 4 + length].decode())
        if head["version"] != FORMAT_VERSION:
            raise DamagedFileError(damaged)
        first = 4 + length + -(4 + length) % 8
        arrays = {
            name: np.frombuffer(
                data, entry["dtype"], int(np.prod(entry["shape"])), offset=first + entry["offset"]
            ).reshape(entry["shape"])
            for name, entry in head["arrays"].items()
        }
        return arrays, head["meta"]
    except (OSError, EOFError, zlib.error, ValueError, LookupError, TypeError, AttributeError, OverflowError) as e:
        raise DamagedFileError(damaged) from e


def songs_of(export: Export, rows: np.ndarray) -> Export:
    """An export of some of the songs, int [n], ascending."""
    parts = {name: getattr(export, name)[rows] for name in ("item_ids", "item_embeddings", "recommendable")}
    parts |= {name: getattr(export, name)[rows] for name in ("listeners", "has_audio")}
    for offsets, values in (("artist_offsets", "artists"), ("album_offsets", "albums")):
        parts[offsets], at = select(getattr(export, offsets), rows)
        parts[values] = getattr(export, values)[at]
    return export._replace(**parts)


def groups_of(export: Export, metadata: Metadata | None, name: str) -> Column | None:
    """Songs by artist or by genre: the metadata's column of that name, else the model's first artist of each song."""
    for column in metadata.columns if metadata else ():
        if column.name.lower() in (name, f"{name}s", f"{name}_name"):
            return _first_parts(column) if name == "genre" else column
    if name != "artist" or not len(export.artist_ids):
        return None
    has = np.diff(export.artist_offsets) > 0
    codes = np.full(len(has), -1, np.int32)
    codes[has] = export.artists[export.artist_offsets[:-1][has]]
    return Column("artist", [f"artist {i}" for i in export.artist_ids.tolist()], codes)


def _first_parts(column: Column) -> Column:
    """The first of several genres: of "Drama|War" Drama."""
    if not any("|" in value for value in column.values):
        return column
    first = [value.split("|")[0].strip() for value in column.values]
    values, codes = np.unique(np.array(first, object), return_inverse=True)
    return Column(column.name, values.tolist(), np.where(column.codes >= 0, codes[column.codes], -1).astype(np.int32))


def names_of(clusters: np.ndarray, groups: Column | None, weight: np.ndarray, *, most: int = 2) -> dict[int, str]:
    """Names of clusters: the values with the largest p(value | cluster) log(p(value | cluster) / p(value)).

    The first of them, and others that at least 15 % of the cluster have.

    Args:
      clusters: int32 [I].
      groups: genres or artists of the songs, or None.
      weight: float [I], of each song.
      most: values in a name.
    """
    numbers = np.unique(clusters)
    if groups is None or not groups.values:
        return {int(c): f"group {c + 1}" for c in numbers}
    there = groups.codes >= 0
    overall = np.bincount(groups.codes[there], weight[there], len(groups.values))
    overall = overall / max(overall.sum(), 1e-12)
    found = {}
    for number in numbers:
        rows = there & (clusters == number)
        share = np.bincount(groups.codes[rows], weight[rows], len(groups.values))
        share = share / max(share.sum(), 1e-12)
        gain = np.where(share > 0, share * np.log(np.maximum(share, 1e-12) / np.maximum(overall, 1e-12)), -np.inf)
        best = [int(v) for v in np.argsort(-gain, kind="stable")[:most] if share[v] > 0]
        best = best[:1] + [v for v in best[1:] if share[v] >= _ALSO_NAMED]
        found[int(number)] = " · ".join(groups.values[v] for v in best) or f"group {number + 1}"
    return found


def map_payload(
    *,
    export: Export,
    codes: np.ndarray,
    position: np.ndarray,
    clusters: np.ndarray,
    finer: np.ndarray,
    colours: Mapping[int, int],
    heads: Heads,
    filters: Filters,
    dislike_push: float,
    metadata: Metadata | None,
    ids: Sequence[str] | None,
    facts: Mapping[str, Any],
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and values of a page.

    Args:
      export: of the map's songs.
      codes: int8 or int16 [I, d], see `music_map.map.quantise`.
      position: float32 [I, 2].
      clusters: int32 [I].
      finer: int32 [I], smaller groups, whose names are shown to one who looks closer.
      colours: of the clusters, positions in the palette.
      heads: of the playlist attention; `codes` are in its space.
      filters: of the page's recommendations.
      dislike_push: see `music_map.playlist.attention.push_away`.
      metadata: names, or None.
      ids: of the songs, where the logs' ids are texts; None: they are the numbers.
      facts: other values that the page shows, JSON-able.
    """
    artists, genres = (groups_of(export, metadata, name) for name in ("artist", "genre"))
    weight = np.log1p(export.listeners) + 0.1
    names, centres = names_of(clusters, genres or artists, weight), centres_of(position, clusters)
    finer_names, finer_centres = names_of(finer, artists or genres, weight), centres_of(position, finer)
    shades = palette(max(colours.values()) + 1)
    columns: Sequence[Column] = metadata.columns if metadata else ()
    flags = ALLOWED * allowed_songs(filters, export).astype(np.uint8)
    flags |= HAS_AUDIO * export.has_audio.astype(np.uint8) | KNOWN * export.recommendable.astype(np.uint8)
    arrays = {
        "item_ids": export.item_ids.astype(np.uint32),
        "position": position.astype(np.float32),
        "codes": codes,
        "listeners": export.listeners.astype(np.uint32),
        "flags": flags,
        "clusters": clusters.astype(np.uint16),
        "artist_offsets": export.artist_offsets.astype(np.uint32),
        "artists": export.artists.astype(np.uint32),
        "artist_ids": export.artist_ids.astype(np.uint32),
        "album_offsets": export.album_offsets.astype(np.uint32),
        "albums": export.albums.astype(np.uint32),
        "album_ids": export.album_ids.astype(np.uint32),
        **{f"column_{at}": column.codes for at, column in enumerate(columns)},
    }
    stored = to_json(heads)
    meta = {
        "ids": None if ids is None else list(ids),
        "columns": [{"name": column.name, "values": column.values} for column in columns],
        "artist_column": next((at for at, c in enumerate(columns) if artists and c is artists), None),
        "clusters": [
            {
                "number": number,
                "name": name,
                "colour": int(colours[number]),
                **shades[colours[number]]._asdict(),
                "centre": centres[number],
                "size": int((clusters == number).sum()),
            }
            for number, name in names.items()
        ],
        "finer": [
            {"name": name, "centre": finer_centres[number], "size": int((finer == number).sum())}
            for number, name in (finer_names.items() if artists or genres else ())
        ],
        "heads": {name: stored[name] for name in ("ordered", "unordered", "mixture")},
        "dislike_push": dislike_push,
        "filters": {name: getattr(filters, name) for name in ("max_per_artist", "max_per_album", "diversity")},
        "facts": dict(facts),
    }
    return arrays, meta
