"""Writes a trained model for others: safetensors, songs, settings, results, a model card; uploads it if asked.

    python launch/publish.py --workdir=checkpoints/demo --output=demo-model
    python launch/publish.py --workdir=checkpoints/demo --output=demo-model --push=OWNER/NAME --private=false

The folder has no histories of users. --users adds their embeddings, which are personal data. --push uploads the folder
to huggingface.co, with the token of `hf auth login` or HF_TOKEN. Needs the extra publish: pip install
'music-map[publish]'.
"""

from absl import flags

from launch import app
from music_map.errors import require_packages

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run of launch/train.py.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write: new, or of an earlier publish.", required=True)
_TITLE = flags.DEFINE_string("title", None, "Title of the card; by default the workdir's name.")
_USERS = flags.DEFINE_bool("users", False, "Adds the embeddings of users: personal data.")
_PUSH = flags.DEFINE_string("push", None, "OWNER/NAME on huggingface.co to upload to.")
_PRIVATE = flags.DEFINE_bool("private", True, "Whether a new repository is seen by its owner alone.")


def main() -> int:
    require_packages("publishing a model", "publish", "safetensors")
    from music_map.run.publish import MODEL, publish, push
    from music_map.text import size_text

    workdir, output = app.path_of(_WORKDIR.value, "workdir"), app.path_of(_OUTPUT.value, "output")
    folder = publish(workdir, output, title=_TITLE.value, users=_USERS.value, reporter=app.reporter())
    app.say(f"model in {folder}: {MODEL} of {size_text((folder / MODEL).stat().st_size)}, card in README.md")
    if _PUSH.value is not None:
        with app.naming("push"):
            app.say(f"uploaded: {push(folder, _PUSH.value, private=_PRIVATE.value)}")
    return 0


if __name__ == "__main__":
    app.run(main)
