"""A trained model for others: its arrays in safetensors, a table of songs, settings, results and a model card.

    publish("checkpoints/demo", "demo-model")
    push("demo-model", "somebody/demo-model")

The folder is what huggingface.co calls a model repository. It has no histories, so it says nothing of single users
unless their embeddings are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from music_map.errors import UserError, require_packages
from music_map.reporter import SILENT, Reporter
from music_map.run.config import Config, flat, to_dict
from music_map.run.folder import files_of, read_record, read_results
from music_map.run.recommender import Recommender
from music_map.storage import new_folder, write_json

MODEL, SONGS, SETTINGS, RESULTS, CARD = "model.safetensors", "songs.parquet", "config.json", "results.json", "README.md"
# Settings that say where files are on the machine that trained.
_PRIVATE = ("data.raw_dir", "data.path", "data.processed_dir")
_SHOWN = ("recall@20", "ndcg@20", "hit_rate@20", "coverage@20")

_TEXT = """
# {title}

Song embeddings of Music Map: LightGCN++ on a graph of users and songs from
listening logs.

## Intended use

Songs near a song or a playlist, as a feature of a recommender, for research on recommendation. The vectors know which
songs the same people play. They know nothing of a listener's age, mood or rights, and favour songs that many played.

## Data

{data}

## Use

```python
import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import load_file

vectors = load_file("{model}")["song_vectors"]  # float32 [{songs}, {dim}], rows of length 1
songs = pq.read_table("{songs_file}")  # row n is the song of vectors[n]
near = np.argsort(-(vectors @ vectors[[0, 1]].mean(axis=0)))[:10]
print(songs.take(near).to_pandas())
```

`song_vectors` are what the playlist query searches in, `song_embeddings` what the encoder gives{users}.

## Results

{results}

## Settings

Fields that differ from the defaults of Music Map; all are in `{settings_file}`.

{settings}

## Licence

None is given here: whoever publishes this model chooses it, and the licence of the logs may bind that choice.
"""


def publish(
    workdir: str | Path,
    folder: str | Path,
    *,
    title: str | None = None,
    users: bool = False,
    reporter: Reporter = SILENT,
) -> Path:
    """Writes model.safetensors, songs.parquet, config.json, results.json (if there) and the card README.md.

    Args:
      workdir: folder of a trained run.
      folder: new, or one that this function wrote.
      title: of the card; None: the workdir's name.
      users: adds the users' embeddings, in the order of their ids. They are personal data.
      reporter: shows a new export.

    Returns:
      The folder.

    Raises:
      UserError: the run is not trained, `folder` holds something else, or safetensors is not installed.
    """
    require_packages("publishing a model", "publish", "safetensors")
    from safetensors.numpy import save_file

    workdir, folder = Path(workdir).expanduser(), Path(folder).expanduser()
    if folder.exists() and not (folder.is_dir() and ((folder / MODEL).is_file() or not any(folder.iterdir()))):
        raise UserError(f"{folder}: holds something other than a published model; choose a new folder")
    config = read_record(workdir, reporter=reporter).config
    recommender = Recommender.load(workdir, index="exact", reporter=reporter)
    results = read_results(workdir) if files_of(workdir).has("results.json") else None
    export = recommender.export
    arrays = {"song_vectors": recommender.vectors, "song_embeddings": export.item_embeddings}
    if users:
        arrays["user_embeddings"] = export.user_embeddings
    shown = {name: value for name, value in flat(to_dict(config)).items() if name not in _PRIVATE}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as temporary:
        save_file({name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}, temporary / MODEL)
        pq.write_table(_songs(recommender), temporary / SONGS)
        write_json(temporary / SETTINGS, shown)
        if results is not None:
            write_json(temporary / RESULTS, results)
        card = _card(title or workdir.name, recommender, config, results, users=users)
        (temporary / CARD).write_text(card, encoding="utf-8")
    return folder


def push(folder: str | Path, repository: str, *, private: bool = True) -> str:
    """Uploads what `publish` wrote to huggingface.co (or HF_ENDPOINT), with the token of `hf auth login` or HF_TOKEN.

    Args:
      folder: of `publish`.
      repository: "owner/name"; created if it is not there.
      private: whether a new repository is seen by its owner alone.

    Returns:
      The address of the upload.

    Raises:
      UserError: the folder is no published model, or the hub refuses; one line says why.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    folder = Path(folder).expanduser()
    for name in (MODEL, CARD):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: has no {name}; write the model there first")
    api = HfApi()
    try:
        api.create_repo(repository, repo_type="model", private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, repo_type="model", folder_path=folder))
    except HFValidationError as e:
        raise UserError(f"{repository!r} is no name of a repository: OWNER/NAME") from e
    except LocalTokenNotFoundError as e:
        raise UserError("the hub wants a token that may write: hf auth login, or HF_TOKEN") from e
    # Releases of huggingface_hub differ in their HTTP client; its root of errors is a base of HfHubHTTPError.
    except (OSError, OfflineModeIsEnabled, *HfHubHTTPError.__bases__) as e:
        status = f" ({e.response.status_code})" if isinstance(e, HfHubHTTPError) else ""
        reason = " ".join(str(e).split()) or type(e).__name__
        raise UserError(
            f"{repository}: the upload failed{status}: {reason}; check HF_TOKEN, HF_ENDPOINT and the network, and give "
            f"the command again: {folder} is complete"
        ) from e


def _songs(recommender: Recommender) -> pa.Table:
    """The songs in the order of the vectors: id, name if there are names, number of listeners."""
    songs = recommender.ids.songs
    columns: dict[str, Any] = {"item_id": songs.labels(range(len(songs)))}
    if songs.named:
        columns["name"] = [songs.name(at) for at in range(len(songs))]
    return pa.table(columns | {"listeners": recommender.export.listeners})


def _card(
    title: str, recommender: Recommender, config: Config, results: Mapping[str, Any] | None, *, users: bool
) -> str:
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        library_name="music-map",
        pipeline_tag="graph-ml",
        tags=["recommendation", "music", "lightgcn", "jax"],
    )
    export = recommender.export
    return (
        f"---\n{data.to_yaml()}\n---\n"
        + _TEXT.format(
            title=title,
            data=(
                f"{len(export.item_ids):,} songs and {len(export.user_ids):,} users of listening logs "
                f"(size {config.data.size!r}), users and songs with at least {config.data.min_interactions} "
                f"interactions. The {config.data.split} split keeps later events out of the training."
            ),
            model=MODEL,
            songs_file=SONGS,
            settings_file=SETTINGS,
            songs=f"{len(export.item_ids):,}",
            dim=recommender.vectors.shape[1],
            users="; `user_embeddings` are in the order of the users' ids" if users else "",
            results=_results(results),
            settings=_settings(config),
        ).lstrip()
    )


def _results(results: Mapping[str, Any] | None) -> str:
    """The model beside the baselines as a table."""
    if results is None:
        return "Not evaluated."
    rows = {"Music Map": results["model"], **results.get("baselines", {})}
    shown = [name for name in _SHOWN if name in results["model"]]
    lines = [f"Protocol `{results['protocol']}`, {results['split']} split, {results['num_users']:,} users.", ""]
    lines += ["| | " + " | ".join(shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(f"{row[key]:.4f}" if key in row else "" for key in shown) + " |")
    return "\n".join(lines)


def _settings(config: Config) -> str:
    usual = flat(to_dict(Config()))
    own = {
        name: value
        for name, value in flat(to_dict(config)).items()
        if name not in _PRIVATE and value != usual.get(name)
    }
    return "\n".join(f"- `{name}`: {json.dumps(value)}" for name, value in own.items()) or "None differs."
