"""Builds and saves the index of a trained workdir, its parameters chosen by measured recall.

    python launch/build_index.py --workdir=checkpoints/demo
    python launch/build_index.py --workdir=checkpoints/demo --index=exact

Writes WORKDIR/index: vectors, ids, checksums and, with ScaNN, the tree. launch/recommend.py and launch/serve.py load
it; without an index they build one in memory at each start. An index of another checkpoint is refused.
"""

import time
from pathlib import Path

from absl import flags

from launch import app
from music_map.retrieval.settings import BACKENDS

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run of launch/train.py.", required=True)
_INDEX = flags.DEFINE_enum("index", None, BACKENDS, "Backend, in place of the configuration's retrieval.index.")
_TARGET = flags.DEFINE_float(
    "recall_target", None, "The recall@100 to reach, in place of the configuration's.", 0.0, 1.0
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only say what would be indexed, how, and what is there already.")


def main() -> int:
    from music_map import Recommender
    from music_map.retrieval.index import FOLDER, build_index, load_index, missing, sample_queries, write_index
    from music_map.run.folder import files_of, read_record
    from music_map.run.run import ranking_devices
    from music_map.text import folder_size

    workdir = app.path_of(_WORKDIR.value, "workdir")
    config = read_record(workdir, reporter=app.reporter()).config
    settings = config.retrieval
    if _DRY_RUN.value:
        return _plan(workdir, _INDEX.value or settings.index)
    recommender = Recommender.load(workdir, index="exact", reporter=app.reporter())
    songs, users = recommender.vectors, recommender.tastes
    if line := missing(_INDEX.value or settings.index, len(songs)):
        app.warn(line)
    start = time.perf_counter()
    index = build_index(
        songs,
        backend=_INDEX.value or settings.index,
        recall_target=settings.recall_target if _TARGET.value is None else _TARGET.value,
        queries=sample_queries(users, songs),
        devices=ranking_devices(config),
    )
    seconds = time.perf_counter() - start
    folder, identity = workdir / FOLDER, recommender.identity
    with files_of(workdir).new_folder(FOLDER) as temporary:
        write_index(index, songs, recommender.export.item_ids, temporary, fingerprint=identity)
    start = time.perf_counter()
    load_index(folder, fingerprint=identity)
    loaded = time.perf_counter() - start
    facts = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in index.facts.items())
    app.say(f"index of {index.num_items} songs: {facts}")
    size = folder_size(folder) / 2**20
    app.say(f"built and measured in {seconds:.1f} s, {size:.0f} MiB in {folder}, loads in {loaded:.2f} s")
    if index.facts.get("recall@100_at_least", 1.0) < index.facts.get("recall_target", 0.0):
        app.warn(f"recall@100 {index.facts['recall@100']:.4f} may be below the target; --index=exact has 1")
    return 0


def _plan(workdir: Path, backend: str) -> int:
    from music_map.retrieval.export import FOLDER as EMBEDDINGS
    from music_map.retrieval.export import load_export
    from music_map.retrieval.index import FOLDER, choose_backend
    from music_map.text import folder_size, size_text

    if not (workdir / EMBEDDINGS).is_dir():
        app.say(f"embeddings: to do, from the best checkpoint -> {workdir / EMBEDDINGS}")
        return 0
    songs = load_export(workdir / EMBEDDINGS)[0].item_embeddings
    there = ""
    if (workdir / FOLDER).is_dir():
        there = f", in place of one of {size_text(folder_size(workdir / FOLDER))}"
    app.say(
        f"index: to do: {choose_backend(backend, len(songs))}, {len(songs):,} songs of {songs.shape[1]} dimensions, "
        f"{size_text(songs.nbytes)} of vectors -> {workdir / FOLDER}{there}"
    )
    return 0


if __name__ == "__main__":
    app.run(main)
