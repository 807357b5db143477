"""Downloads the files of Yambda that the pipeline reads; an interrupted download can be continued.

    python launch/download.py --size=50m --output=data/raw
    python launch/download.py --size=5b --output=data/raw --dry_run

Environment: HF_ENDPOINT (another hub), HF_TOKEN.
"""

import sys

from absl import flags

from launch import app
from music_map.raw import layout

SIZE = flags.DEFINE_enum("size", "50m", layout.SIZES, "Which size of Yambda, in events.")
OUTPUT = flags.DEFINE_string("output", "data/raw", "Folder to fill: data.raw_dir of the configurations.")
REVISION = flags.DEFINE_string("revision", "main", "Branch, tag or commit of the data set.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only list the files and their sizes.")


def main() -> None:
    from music_map.raw import hub

    paths = layout.pipeline_files(SIZE.value)
    output = app.path_of(OUTPUT.value, "output")
    source = hub.Source(revision=REVISION.value, note=app.note)
    try:
        files = hub.list_files(source, paths)
        missing = 0
        for file in files:
            path = output / file.path
            there = path.is_file() and path.stat().st_size == file.size
            missing += 0 if there else file.size
            app.say(f"{file.size / 1e6:12,.1f} MB  {path}{'  (there)' if there else ''}")
        app.say(f"{sum(file.size for file in files) / 1e6:12,.1f} MB  in total, commit {files[0].commit}")
        app.say(f"{missing / 1e6:12,.1f} MB  not there yet")
        if not DRY_RUN.value:
            fetched = hub.download(source, files, output, progress=app.bar)
            app.say(f"{output}: {len(fetched)} files fetched, {len(files) - len(fetched)} were there; hashes verified")
    except hub.HubError as e:
        missing = hub.by_hand(source, paths, output)
        if missing:
            e.add_note("These files are missing; fetch them elsewhere and put them in place (address -> path):")
        else:
            e.add_note(f"{output}: all files are in place; only their hashes could not be verified")
        for line in missing:
            e.add_note(f"  {line}")
        raise
    except KeyboardInterrupt:
        print(f"{output}: what has arrived is kept; the same command goes on from there", file=sys.stderr)
        raise


if __name__ == "__main__":
    app.run(main)
