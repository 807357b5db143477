"""Each preset on an export in its true layout: what came in, what was left out and why, as a table.

    python benchmarks/exports.py --folder=DIR --num_plays=3000
    python benchmarks/exports.py --folder=DIR --num_plays=100000 --presets=spotify

The plays are generated, see benchmarks/layouts.py. DIR/NAME/ holds the exports, as `launch/import.py` and
`launch/start.py` take them.
"""

import options
import pyarrow.parquet as pq
from absl import flags
from layouts import EXPORTS, written

from music_map.convert.importing import import_logs
from music_map.errors import UserError

_FOLDER = flags.DEFINE_string("folder", None, "Folder of the exports and of what they become.", required=True)
_PLAYS = flags.DEFINE_integer("num_plays", 3_000, "Of an export.", 100)
_PRESETS = flags.DEFINE_list("presets", [], "Only these exports; by default all.")


def main() -> int:
    folder = options.path_of(_FOLDER.value, "folder").absolute()
    if unknown := set(_PRESETS.value) - set(EXPORTS):
        raise UserError(f"--presets={', '.join(unknown)}: no such export; choose of {', '.join(EXPORTS)}")
    options.say("| export | given | events | users | songs | with a title | left out |")
    options.say("|---|---|---|---|---|---|---|")
    for name, (preset, archive, make) in EXPORTS.items():
        if _PRESETS.value and name not in _PRESETS.value:
            continue
        path = written(folder / name, archive, make(_PLAYS.value))
        raw_dir = folder / "logs" / name
        for told in ("auto", preset):
            _, summary = import_logs(told, [path], raw_dir, overwrite=True)
        table = raw_dir / "flat" / "own" / "song_ids.parquet"
        titles = 0
        if table.exists():
            songs = pq.read_table(table)
            titles = len(songs) - songs["title"].null_count if "title" in songs.column_names else 0
        left = "; ".join(
            f"{count:,}: {reason.partition(' (the first')[0]}" for reason, count in summary.reasons.items()
        )
        events = sum(summary.events.values())
        what = archive or (f"folder, {next(path.rglob('*.*')).suffix}")
        options.say(
            f"| {name} | {what} | {events:,} | {summary.num_users:,} | {summary.num_items:,} | {titles:,} | {left} |"
        )
    return 0


if __name__ == "__main__":
    options.run(main)
