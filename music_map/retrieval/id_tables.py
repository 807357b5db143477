"""Checks that id tables of launch/convert.py are those of a run, which has ids of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from music_map.errors import UserError
from music_map.ids import Ids
from music_map.preprocess.ids import IdIndex
from music_map.preprocess.own_ids import read_own_ids
from music_map.raw.layout import ID_TABLES
from music_map.retrieval.export import IdTables


def same_conversion(folder: Path, ids: IdTables) -> IdTables:
    """The ids of a run, checked against the tables of a folder; a run without ids gets them from the tables.

    Raises:
      UserError: there are no tables, or they belong to another conversion than the run's logs.
    """
    tables = {kind: folder / f"{ID_TABLES[kind]}.parquet" for kind in ("user", "item")}
    if not any(path.is_file() for path in tables.values()):
        names = " or ".join(path.name for path in tables.values())
        raise UserError(f"{folder}: holds no {names} of launch/convert.py")
    return ids._replace(users=_checked(tables["user"], ids.users), songs=_checked(tables["item"], ids.songs))


def _checked(path: Path, ids: Ids) -> Ids:
    if not path.is_file():
        return ids
    other = (
        f"{path}: is a table of another conversion than the logs that this run was trained on; leave it out, the run "
        "knows its ids"
    )
    try:
        found = read_own_ids(path, IdIndex(ids.numbers))
    except UserError as e:
        raise UserError(f"{other} ({e})") from e
    if ids.own is None:
        return found
    if found.own is None or not all(map(np.array_equal, found.own, ids.own)):
        raise UserError(other)
    return ids
