"""The page of a map: one HTML file with its styles, scripts, libraries and data; it makes no requests.

page/page.html     the template: {{title}}, {{style}}, {{scripts}} and {{data}} are filled in
page/*.css, *.js   in the order of STYLES and SCRIPTS
page/vendor/       third-party libraries with their licences; see README.md there
"""

from __future__ import annotations

import base64
import binascii
import html
import re
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from music_map.errors import DamagedFileError, UserError
from music_map.ids import index_of
from music_map.map.payload import pack, unpack
from music_map.storage import write_bytes

STYLES = ("page.css",)
SCRIPTS = (
    "vendor/regl-scatterplot.min.js",
    "data.js",
    "query.js",
    "names.js",
    "save.js",
    "contours.js",
    "plot.js",
    "touch.js",
    "app.js",
)
_BLOCK = re.compile(r'<script id="map-data" type="application/octet-stream;base64">([^<]*)</script>')


class Previous(NamedTuple):
    """An older map, in the order of the new map's songs.

    Attributes:
      position: float32 [I, 2], NaN for songs that the older map lacks.
      clusters: int32 [I], -1 for these.
      colours: by cluster.
    """

    position: np.ndarray
    clusters: np.ndarray
    colours: dict[int, int]


def render(block: bytes, *, title: str, service: bool = False) -> str:
    """The page.

    Args:
      block: of `music_map.map.payload.pack`.
      title: of the page.
      service: whether the page may ask the service that it came from; else it may ask nothing of anyone.
    """
    scripts = "\n".join(f"<script>\n{_part(name)}\n</script>" for name in SCRIPTS)
    parts = {
        "title": html.escape(title),
        "connect": "'self'" if service else "'none'",
        "style": "\n".join(_part(name) for name in STYLES),
        "scripts": scripts,
        "data": base64.b64encode(block).decode("ascii"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match.group(1)], _part("page.html"))


def live(text: str, *, source: str) -> str:
    """A page that asks the service for its answers, of the page of launch/export_map.py: smaller, it has no vectors.

    Args:
      text: the exported page.
      source: its file, for errors.

    Raises:
      DamagedFileError: it holds no map.
    """
    arrays, meta = unpack(block_of(text, source=source), source=source)
    del arrays["codes"]
    title = f"Music Map: {meta['facts']['title']}"
    return render(pack(arrays, {**meta, "service": True}), title=title, service=True)


def _part(name: str) -> str:
    text = resources.files("music_map.map").joinpath("page", *name.split("/")).read_text(encoding="utf-8")
    if name.endswith(".js") and "</script" in text:
        raise ValueError(f"{name}: would end the script element it stands in")
    return text


def block_of(text: str, *, source: str) -> bytes:
    """The block in a page. Raises DamagedFileError, naming `source`, where there is none."""
    found = _BLOCK.search(text)
    try:
        return base64.b64decode(found.group(1), validate=True) if found else b""
    except binascii.Error as e:
        raise DamagedFileError(f"{source}: its data is damaged; export it again with launch/export_map.py") from e


def read_previous(path: Path, item_ids: np.ndarray) -> Previous:
    """An older map: its page, or the Parquet file of its positions.

    Args:
      path: ends in .html or .parquet.
      item_ids: uint32 [I], of the new map.

    Raises:
      UserError: there is no such file, or it is not a map.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the page or the positions that launch/export_map.py wrote")
    colours: dict[int, int] = {}
    if path.suffix.lower() == ".parquet":
        try:
            table = pq.read_table(path, columns=["item_id", "x", "y", "cluster"])
            ids, x, y, clusters = (column.to_numpy() for column in table.columns)
            position = np.stack([x, y], axis=1).astype(np.float32)
        except (pa.ArrowException, OSError, ValueError) as e:
            raise UserError(f"{path}: no positions of a map (item_id, x, y, cluster): {str(e).splitlines()[0]}") from e
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as e:
            raise UserError(f"{path}: is no page of launch/export_map.py") from e
        block = block_of(text, source=str(path))
        if not block:
            raise UserError(f"{path}: is no page of launch/export_map.py: it holds no map")
        arrays, meta = unpack(block, source=str(path))
        ids, position, clusters = arrays["item_ids"], arrays["position"], arrays["clusters"]
        colours = {entry["number"]: entry["colour"] for entry in meta["clusters"]}
    at = index_of(item_ids, ids.astype(np.int64))
    found = Previous(np.full((len(item_ids), 2), np.nan, np.float32), np.full(len(item_ids), -1, np.int32), colours)
    found.position[at[at >= 0]] = position[at >= 0]
    found.clusters[at[at >= 0]] = clusters[at >= 0]
    return found


def save_positions(path: Path, item_ids: np.ndarray, position: np.ndarray, clusters: np.ndarray) -> None:
    """Writes item_id, x, y and cluster of every song as Parquet."""
    table = pa.table({"item_id": item_ids, "x": position[:, 0], "y": position[:, 1], "cluster": clusters})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_bytes(path, sink.getvalue().to_pybytes())
