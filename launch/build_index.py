"""Builds and saves the index of a trained workdir, its parameters chosen by measured recall.

    python launch/build_index.py --workdir=checkpoints/demo
    python launch/build_index.py --workdir=checkpoints/demo --index=exact

Writes WORKDIR/index: vectors, ids, checksums and, with ScaNN, the tree. launch/recommend.py and launch/serve.py load
it; where there is none they build one in memory at each start. An index of another checkpoint is refused.
"""

import time
from pathlib import Path

from absl import flags

from launch import app, experiment
from launch.plan import folder_size
from music_map.playlist.heads import untrained
from music_map.retrieval.export import FOLDER as EMBEDDINGS
from music_map.retrieval.export import load_export
from music_map.retrieval.index import (
    BACKENDS,
    FOLDER,
    build_index,
    choose_backend,
    load_index,
    sample_queries,
    save_index,
)
from music_map.retrieval.recommender import in_space, index_fingerprint, load_heads

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run of launch/train.py.", required=True)
_INDEX = flags.DEFINE_enum("index", None, BACKENDS, "Backend, in place of the configuration's retrieval.index.")
_TARGET = flags.DEFINE_float("recall_target", None, "Of recall@100, in place of the configuration's.", 0.0, 1.0)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only say what would be indexed, how, and what is there already.")


def _plan(workdir: Path, backend: str) -> int:
    if not (workdir / EMBEDDINGS).is_dir():
        app.say(f"embeddings: to do, from the best checkpoint -> {workdir / EMBEDDINGS}")
        return 0
    songs = load_export(workdir / EMBEDDINGS)[0].item_embeddings
    there = ""
    if (workdir / FOLDER).is_dir():
        there = f", in place of one of {app.size_text(folder_size(workdir / FOLDER))}"
    app.say(
        f"index: to do: {choose_backend(backend, len(songs))}, {len(songs):,} songs of {songs.shape[1]} dimensions, "
        f"{app.size_text(songs.nbytes)} of vectors -> {workdir / FOLDER}{there}"
    )
    return 0


def main() -> int:
    workdir = app.path_of(_WORKDIR.value, "workdir")
    config = experiment.open_workdir(workdir).config
    settings = config.retrieval
    if _DRY_RUN.value:
        return _plan(workdir, _INDEX.value or settings.index)
    experiment.load_model_export(workdir)  # made anew where it is missing
    export, embeddings = load_export(workdir / EMBEDDINGS)
    heads = load_heads(workdir) or untrained(settings.attention_temperature)
    songs, users = in_space(export, heads)
    identity = index_fingerprint(embeddings, heads)
    start = time.perf_counter()
    index = build_index(
        songs,
        backend=_INDEX.value or settings.index,
        recall_target=settings.recall_target if _TARGET.value is None else _TARGET.value,
        queries=sample_queries(users, songs),
        devices=experiment.ranking_devices(config),
    )
    seconds = time.perf_counter() - start
    save_index(index, songs, export.item_ids, workdir / FOLDER, fingerprint=identity)
    size = sum(p.stat().st_size for p in (workdir / FOLDER).rglob("*") if p.is_file())
    start = time.perf_counter()
    load_index(workdir / FOLDER, fingerprint=identity)
    facts = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in index.facts.items())
    app.say(f"index of {index.num_items} songs: {facts}")
    app.say(
        f"built and measured in {seconds:.1f} s, {size / 2**20:.0f} MiB in {workdir / FOLDER}, loads in "
        f"{time.perf_counter() - start:.2f} s"
    )
    if index.facts.get("recall@100_at_least", 1.0) < index.facts.get("recall_target", 0.0):
        app.warn(f"recall@100 {index.facts['recall@100']:.4f} is not surely the target; --index=exact has 1")
    return 0


if __name__ == "__main__":
    app.run(main)
