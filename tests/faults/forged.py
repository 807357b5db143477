"""Folders of somebody who knows the format: files changed and given fitting checksums. Any answer, or one line."""

import functools
import json
import math

import numpy as np
from harness import judge

from music_map.runfiles import RunFiles
from music_map.storage import ArrayFolder, ArrayWriter

VALUES = (
    None, True, -1, 0, 2, 10**30, -0.5, 1e308, "", "x", "../../x", "\x1b[31m", [], [0], [-1, 2**40], {}, {"x": 1}, ...,
)  # fmt: skip


def _places(value, at=()):
    """The keys of every value inside a JSON value."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, one in inner:
        yield from _places(one, (*at, key))


def _changed(value, at, new):
    if not at:
        return {} if new is ... else new
    holder = functools.reduce(lambda found, key: found[key], at[:-1], value)
    if new is ...:
        del holder[at[-1]]
    else:
        holder[at[-1]] = new
    return value


ARRAYS = {
    "zeros": np.zeros_like,
    "the largest": lambda a: np.full_like(a, np.finfo(a.dtype).max if a.dtype.kind == "f" else np.iinfo(a.dtype).max),
    "minus one": lambda a: np.full_like(a, -1) if a.dtype.kind in "if" else a[::-1],
    "NaN": lambda a: np.full_like(a, math.nan) if a.dtype.kind == "f" else a[::-1],
    "one less": lambda a: a[:-1],
    "none": lambda a: a[:0],
    "twice": lambda a: np.concatenate([a, a]),
    "float64": lambda a: a.astype(np.float64),
    "int8": lambda a: a.astype(np.int8),
    "text": lambda a: a.astype(str),
    "a dimension more": lambda a: a[None],
    "big end first": lambda a: a.astype(a.dtype.newbyteorder(">")),
}


def forged(scene, rng, count=400):
    """A value of a JSON file of the run, or an array of its export, replaced; all checksums fit."""
    scene.put("trained")
    work = scene.folder / "work"
    texts = [p for p in sorted(work.rglob("*.json")) if p.name != "manifest.json" and "checkpoints" not in p.parts]
    names = [str(p.relative_to(work)) for p in texts]
    places = [(name, at) for name in names for at in _places(json.loads((work / name).read_text()))]
    arrays = list(ArrayFolder.open(work / "embeddings").arrays)
    for _ in range(count):
        reader = rng.choice(sorted(scene.readers))
        if rng.random() < 0.5:
            (name, at), new = rng.choice(places), rng.choice(VALUES)
            change = functools.partial(_forge_json, name, at, new)
            yield f"{name} {at} = {new!r}, {reader}", functools.partial(_trial, scene, change, reader)
        else:
            name, how = rng.choice(arrays), rng.choice(sorted(ARRAYS))
            change = functools.partial(_forge_array, name, how)
            yield f"embeddings/{name}: {how}, {reader}", functools.partial(_trial, scene, change, reader)


def _forge_json(name, at, new, files):
    files.write_json({name: _changed(json.loads((files.folder / name).read_text()), at, new)})


def _forge_array(name, how, files):
    store = ArrayFolder.open(files.folder / "embeddings")
    with files.new_folder("embeddings") as folder:
        writer = ArrayWriter(folder)
        for one in store.arrays:
            array = np.array(store.load(one))
            writer.write(one, ARRAYS[how](array) if one == name else array)
        writer.finish(fingerprint=store.fingerprint, meta=store.meta)


def _trial(scene, change, reader):
    scene.put("trained")
    change(RunFiles(scene.folder / "work"))
    done, _ = scene.answer(reader)
    return judge(done, True)
