"""Writes the events that a service has stored as logs for training; joined with the logs of the run that was served.

python launch/export_events.py --workdir=checkpoints/demo --output=data/next
python launch/export_events.py --workdir=checkpoints/demo --output=data/next --events=postgresql://music@localhost/music
python launch/export_events.py --workdir=checkpoints/demo --output=data/next --join=false

Songs and users keep their numbers; new ones get the next. Users who were deleted from the service are left out. Train
on the result in a new folder, and let the service take it in: see docs/service.md.
"""

from pathlib import Path

from absl import flags

from launch import app
from music_map.errors import UserError, require_packages

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run that was served.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to fill: data.raw_dir of the configurations.", required=True)
_EVENTS = flags.DEFINE_string(
    "events", None, "Of the service: a file, or postgresql://...; by default WORKDIR.events.sqlite."
)
_SIZE = flags.DEFINE_string("size", None, "Name of the log: data.size of the configurations; by default the run's.")
_JOIN = flags.DEFINE_bool("join", True, "Whether to write the logs of the run too; else the events alone.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an earlier export.")


def main() -> int:
    require_packages("the store of events", "serve", "sqlalchemy")
    from music_map.events.export import Logs, export_events
    from music_map.events.store import EventStore, StoreUnavailable
    from music_map.run.folder import read_record

    workdir, output = app.path_of(_WORKDIR.value, "workdir"), app.path_of(_OUTPUT.value, "output")
    data = read_record(workdir, reporter=app.reporter()).config.data
    size = _SIZE.value or data.size
    if Path(size).name != size or not size.isprintable():
        raise UserError(f"--size={size}: must be a name without slashes; it becomes the folder flat/{size}/")
    url = app.events_of(_EVENTS.value, workdir)
    if "://" not in url and not Path(url).is_file():
        raise UserError(f"--events={url}: no such file; give that of launch/serve.py")
    with app.naming("events"):
        store = EventStore.open(url)
    try:
        done = export_events(
            store,
            Logs(output, size),
            before=Logs(Path(data.raw_dir).expanduser(), data.size) if _JOIN.value else None,
            overwrite=_OVERWRITE.value,
            progress=app.bar,
        )
    except StoreUnavailable as e:
        raise UserError(f"--events={e}") from e
    finally:
        store.close()
    for kind, count in done.events.items():
        before = f" and {done.before[kind]:,} of the logs" if _JOIN.value else ""
        app.say(f"{count:>14,} {kind} of the service{before}")
    app.say(f"{done.new_users:>14,} new users, {done.new_songs:,} new songs")
    for count, what in (
        (done.forgotten, "rows of deleted users left out of the logs"),
        (done.repeated, "events left out: the logs have them already"),
    ):
        if count:
            app.say(f"{count:>14,} {what}")
    app.say("\nNow train in a new folder, with the configuration and fields of the run:")
    app.say(
        f"python launch/train.py --config=configs/... --config.data.raw_dir={output} --config.data.size={size} "
        f"--config.data.processed_dir={output / 'processed'} --workdir={workdir}-next"
    )
    return 0


if __name__ == "__main__":
    app.run(main)
