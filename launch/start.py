"""From an export to its map in one command: import, train with settings that fit, evaluate, open the map.

    python launch/start.py my_spotify_data.zip
    python launch/start.py listenbrainz_export.zip --workdir=checkpoints/mine
    python launch/start.py ml-100k --preset=movielens --open=false

FILE is a file, a folder or an archive (ZIP, TAR) of Spotify, Last.fm, ListenBrainz, the Million Playlist Dataset,
MovieLens, RecBole or LightGCN; several are one log. The run's folder gets logs, model, results and map.html. After a
stop the same command goes on. For logs with columns of your own: launch/convert.py, then launch/train.py.
"""

import re
from pathlib import Path

from absl import flags

from launch import app
from music_map.convert.presets import AUTO, PRESETS

_PRESET = flags.DEFINE_enum(
    "preset",
    AUTO,
    [*PRESETS.all(), AUTO],
    "What the export is of; auto: told by the names and the first bytes of its files.",
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; by default checkpoints/ and the name of FILE.")
_EPOCHS = flags.DEFINE_integer("epochs", None, "Passes of training; by default they follow from the log.", 1)
_OPEN = flags.DEFINE_bool("open", True, "Open the map in the browser.")


def main(*files: str) -> int:
    from music_map.run.start import start

    paths = [app.path_of(file, "file") for file in files]
    name = re.sub(r"[^\w.-]+", "-", paths[0].absolute().name.split(".")[0]).strip("-.") or "own"
    workdir = Path("checkpoints") / name if _WORKDIR.value is None else app.path_of(_WORKDIR.value, "workdir")
    options = {} if _EPOCHS.value is None else {"epochs": _EPOCHS.value}
    with app.stop_on_signal() as asked:
        made = start(paths, workdir, preset=_PRESET.value, should_stop=asked.is_set, reporter=app.reporter(), **options)
    if made.page is None:
        app.say("stopped by a signal; checkpoint saved. Run the same command to go on.")
        return 0
    song = made.run.dataset.songs.name(int(made.run.graph.item[0])) or made.run.dataset.songs.label(0)
    app.say(f"map: {made.page.absolute()}")
    app.say(app.command("recommend.py", f"--workdir={workdir}", f"--songs={song}"))
    if _OPEN.value:
        import webbrowser

        webbrowser.open(made.page.absolute().as_uri())
    return 0


if __name__ == "__main__":
    app.run(main, arguments=("FILE...",))
