"""The demo's last step: recommendations for one song and for a playlist of a trained workdir.

    python launch/demo_queries.py --workdir=checkpoints/demo

Prints the two commands of launch/recommend.py and their answers. The playlist has the songs that the most active
listener heard most in train.
"""

import shlex
import subprocess
import sys

from absl import flags

from launch import app

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run of launch/train.py.", required=True)


def main() -> int:
    import numpy as np

    from music_map.run.run import open_graph

    workdir = app.path_of(_WORKDIR.value, "workdir")
    dataset, graph = open_graph(workdir)
    user = int(np.argmax(np.diff(graph.user_offsets)))
    row = slice(graph.user_offsets[user], graph.user_offsets[user + 1])
    songs = dataset.songs.labels(graph.item[row][np.argsort(-graph.weight[row], kind="stable")[:5]])
    for title, wanted in (("one song", songs[:1]), ("a playlist", songs)):
        args = ["launch/recommend.py", f"--workdir={workdir}", f"--songs={','.join(map(str, wanted))}", "--k=5"]
        app.say(f"\nFor {title}: python {shlex.join(args)}")
        subprocess.run([sys.executable, *args], check=True)
    return 0


if __name__ == "__main__":
    app.run(main)
