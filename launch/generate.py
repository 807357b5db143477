"""Generates logs in the schema and layout of Yambda: for the demo, for tests and for benchmarks of scale.

    python launch/generate.py --size=demo --output=data/demo
    python launch/generate.py --size=50m --output=/tmp/yambda-like
    python launch/generate.py --size=50m --num_listens=1000000000 --output=/tmp/billion
    python launch/generate.py --size=demo --moods_per_session=8 --output=data/long-sessions
    python launch/generate.py --size=demo --artist_runs=0.6 --output=data/runs

The same settings give the same rows. At --size=50m the marginals are those of the published Yambda-50M, which the
summary shows beside them.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from absl import flags

from launch import app
from music_map.raw.layout import EVENTS, ITEMS, event_path, pipeline_files
from music_map.synthetic.settings import PRESETS, Settings, settings_for
from music_map.text import size_text

OUTPUT = flags.DEFINE_string("output", "data/raw", "Folder to write to, in the hub's layout.")
SIZE = flags.DEFINE_enum("size", "demo", list(PRESETS), "Preset; also the folder's name under flat/.")
NUM_USERS = flags.DEFINE_integer("num_users", 0, "Users; 0 keeps the preset's.")
NUM_ITEMS = flags.DEFINE_integer("num_items", 0, "Songs; 0 keeps the preset's.")
NUM_LISTENS = flags.DEFINE_integer("num_listens", 0, "Listens, which likes and the rest follow; 0 keeps the preset's.")
MOODS = flags.DEFINE_float("moods_per_session", 1.0, "Above 1: longer sessions, in which what is played moves on.")
RUNS = flags.DEFINE_float("artist_runs", 0.0, "Probability that a listen goes on with the artist of the one before.")
SEED = flags.DEFINE_integer("seed", 0, "Another seed gives other rows of the same kind.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only say what would be written, and how large it is.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace files that are there, downloaded ones too.")


def _number(value: float) -> str:
    return f"{value:,.4f}" if 0 < value < 1 else f"{value:,.0f}"


def _report(raw_dir: Path, size: str, marginals: Mapping[str, float]) -> None:
    from music_map.synthetic.marginals import PUBLISHED_50M

    published = PUBLISHED_50M if size == "50m" else {}
    app.say(f"{'':32}{'generated':>15}" + (f"{'published':>15}" if published else ""))
    for name, value in marginals.items():
        beside = f"{_number(published[name]):>15}" if name in published else ""
        app.say(f"{name.replace('_', ' '):32}{_number(value):>15}{beside}")
    app.say()
    for name in pipeline_files(size, raw_dir):
        path = raw_dir / name
        app.say(f"{path}  {path.stat().st_size / 2**20:,.1f} MiB")


def _plan(raw_dir: Path, settings: Settings) -> None:
    from music_map.synthetic.writer import expected_bytes, read_record, require_free

    if not OVERWRITE.value and read_record(raw_dir, settings) is None:
        require_free(raw_dir, settings)
    app.say(f"{settings.num_users:,} users, {settings.num_items:,} songs, seed {settings.seed}; rows to write:")
    for name in EVENTS:
        app.say(f"{getattr(settings, f'num_{name}'):>16,}  {event_path(raw_dir, settings.size, name)}")
    for name in ITEMS:
        app.say(f"{'':>16}  {event_path(raw_dir, settings.size, name)}")
    app.say(f"about {size_text(expected_bytes(settings))} in all")


def main() -> None:
    from music_map.synthetic.writer import generate, generated_files, read_record

    raw_dir = app.path_of(OUTPUT.value, "output")
    settings = settings_for(
        SIZE.value,
        num_users=NUM_USERS.value,
        num_items=NUM_ITEMS.value,
        num_listens=NUM_LISTENS.value,
        moods_per_session=MOODS.value,
        artist_runs=RUNS.value,
        seed=SEED.value,
    )
    record = None if OVERWRITE.value else read_record(raw_dir, settings)
    whole = all((raw_dir / name).exists() for name in generated_files(settings.size))
    if record is not None and whole:
        app.say(f"{raw_dir}: up to date, these settings were generated before; nothing to do")
        return
    if DRY_RUN.value:
        _plan(raw_dir, settings)
        return
    begin = time.monotonic()
    # What an earlier version generated has the same rows, but no names.
    marginals = generate(raw_dir, settings, overwrite=OVERWRITE.value or record is not None, progress=app.bar)
    seconds = time.monotonic() - begin
    _report(raw_dir, settings.size, marginals)
    events = sum(marginals[name] for name in EVENTS)
    # Linux counts kilobytes, macOS bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    speed = f"{events:,} events in {seconds:.1f} s, {events / seconds:,.0f} a second with the songs' files"
    app.say(f"{speed}; peak memory {peak / 2**20:,.0f} MiB")


if __name__ == "__main__":
    app.run(main)
