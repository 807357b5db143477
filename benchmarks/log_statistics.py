"""What logs are like: repeats, sessions, popularity, drift and order, a column for each log.

    python benchmarks/log_statistics.py --logs=data/demo/raw:demo,data/own/raw:own --days=5 --json=statistics.json
    python benchmarks/log_statistics.py --logs=data/demo/processed --json=statistics.json

A log is FOLDER:SIZE, raw logs in the hub's layout, or a processed folder; the listens are read, of all splits. Shares
of repeats and of new songs depend on how long a log is and on how many people are in it: compare logs of the same
--days and --users.

What the rows mean is in plays.py.
"""

import options
from absl import flags
from plays import of_processed, of_raw, statistics, window

from music_map.errors import UserError
from music_map.storage import write_json

_LOGS = flags.DEFINE_list("logs", None, "Logs, each FOLDER:SIZE or a processed folder.", required=True)
_DAYS = flags.DEFINE_float("days", 0.0, "Only the last so many days; 0: all.")
_USERS = flags.DEFINE_integer("users", 0, "Only so many users of those days, drawn at random; 0: all.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the users drawn.")
_JSON = flags.DEFINE_string("json", None, "File for all figures.")


def text(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.3f}" if value < 2 else f"{value:.1f}"


def main() -> int:
    found = {}
    for log in _LOGS.value:
        folder, colon, size = log.rpartition(":")
        read = of_raw(options.path_of(folder, "logs"), size) if colon else of_processed(options.path_of(log, "logs"))
        plays = window(read, days=_DAYS.value, users=_USERS.value, seed=_SEED.value)
        if len(plays.user) < 2:
            raise UserError(f"--logs={log}: has fewer than two listens in these days")
        found[log] = statistics(plays)
    options.say("| | " + " | ".join(found) + " |\n|---|" + "---|" * len(found))
    for name in next(iter(found.values())):
        options.say(f"| {name} | " + " | ".join(text(column[name]) for column in found.values()) + " |")
    if _JSON.value is not None:
        write_json(options.path_of(_JSON.value, "json"), found)
    return 0


if __name__ == "__main__":
    options.run(main)
