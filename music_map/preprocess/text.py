"""The text format of the LightGCN++ authors: train.txt, valid.txt, test.txt, each line a user, then its items."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import numpy as np

from music_map.errors import UserError
from music_map.preprocess.dataset import EVENT_TYPES, LISTEN, SPLITS, WITHDRAWAL_TYPES, Events, Withdrawals
from music_map.preprocess.features import write_audio, write_mapping
from music_map.preprocess.ids import IdIndex
from music_map.preprocess.settings import PreprocessSettings
from music_map.preprocess.shards import ShardWriter
from music_map.reporter import Progress
from music_map.storage import ArrayWriter

TEXT_FILES = {"train": "train.txt", "val": "valid.txt", "test": "test.txt"}


_SHIFT = np.uint64(32)


def read_pairs(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads user-item pairs. A line has integers separated by whitespace: first the user, then its items.

    Args:
      path: text file; blank lines are skipped, a user may have no items, or several lines.
    Returns:
      pairs: uint64 [P], user * 2^32 + item, distinct, ascending.
      users: uint64 [V], the users that begin a line, ascending and distinct.
    Raises:
      UserError: the file is missing, or a token is no integer in 0..4294967295; the message names the line.
    """
    if not path.is_file():
        names = ", ".join(TEXT_FILES.values())
        raise UserError(f"{path}: no such file; point --config.data.path at a folder with {names}")
    users, parts = [], [np.empty(0, np.uint64)]
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            tokens = line.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").split()
            for token in tokens:
                # bytes.isdigit admits ASCII digits only; int() would let signs and underscores through.
                if not token.isdigit() or int(token) > 0xFFFFFFFF:
                    raise UserError(
                        f"{path}: line {number}: {token.decode(errors='replace')!r} is no integer in 0..4294967295; "
                        "correct the line"
                    )
            if tokens:
                users.append(int(tokens[0]))
                items = np.array([int(token) for token in tokens[1:]], np.uint64)
                parts.append(np.uint64(users[-1]) << _SHIFT | items)
    return np.unique(np.concatenate(parts)), np.unique(np.array(users, np.uint64))


def cut_validation(pairs: np.ndarray) -> np.ndarray:
    """The train pairs that become validation if there is no valid.txt: bool [P], a tenth, chosen by a hash of the pair.

    Args:
      pairs: uint64 [P], user * 2^32 + item.
    """
    # The finaliser of SplitMix64: every bit of the pair changes half of the bits of the hash.
    mixed = pairs + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (mixed ^ (mixed >> np.uint64(31))) % np.uint64(10) == 0


def preprocess_text(
    folder: Path, settings: PreprocessSettings, writer: ArrayWriter, *, progress: Progress
) -> dict[str, Any]:
    """Writes the arrays of a processed folder from train.txt, valid.txt and test.txt.

    If there is no valid.txt, validation is a part of train's pairs, see `cut_validation`.

    Every pair becomes an organic listen of 100 % at timestamp 0 (train), 1 (val) or 2 (test). A pair in two files is in
    both splits. All users and songs of the three files are kept, without a filter. There are no item features.

    Args:
      folder: the folder of the three files.
      settings: train_on_val merges the pairs of valid.txt into train (each once); chunk_size is the size of a shard.
      writer: the folder to write into.
      progress: shows the files read.
    Returns:
      The manifest's meta, like preprocess_logs.
    Raises:
      UserError: a missing file, a token that is no id, or a file without a pair.
    """
    pairs, users = {}, []
    with progress("read text", len(TEXT_FILES), "file") as advance:
        for split, name in TEXT_FILES.items():
            if split == "val" and not (folder / name).is_file():
                cut = cut_validation(pairs["train"]) & (not settings.train_on_val)
                pairs["train"], pairs["val"], named = pairs["train"][~cut], pairs["train"][cut], users[0]
            else:
                pairs[split], named = read_pairs(folder / name)
            users.append(named)
            if len(pairs[split]) == 0 and not (split == "val" and settings.train_on_val):
                remedy = "fill it, or delete it to take a tenth of train" if split == "val" else "fill the file"
                raise UserError(f"{folder / name}: has no item, so the {split} split would be empty; {remedy}")
            advance(1)
    if settings.train_on_val:
        pairs["train"] = np.union1d(pairs["train"], pairs["val"])
        pairs["val"] = pairs["val"][:0]
    every_pair = np.concatenate(list(pairs.values()))
    user_ids = IdIndex(np.unique(np.concatenate(users)).astype(np.uint32))
    item_ids = IdIndex(np.unique(every_pair & np.uint64(0xFFFFFFFF)).astype(np.uint32))

    writer.write("user_ids", user_ids.ids)
    writer.write("item_ids", item_ids.ids)
    writer.write("track_seconds", np.zeros(len(item_ids), np.float32))
    write_audio(writer, None, item_ids, progress=progress)
    for name in ("artist", "album"):
        writer.write(f"{name}_ids", write_mapping(writer, name, None, item_ids, progress=progress))
    num_shards, num_withdrawn_shards = {}, {}
    for at, split in enumerate(SPLITS):
        count = len(pairs[split])
        values = (
            user_ids.lookup((pairs[split] >> _SHIFT).astype(np.uint32)),
            item_ids.lookup(pairs[split].astype(np.uint32)),
            *(np.full(count, value) for value in (at, LISTEN, 1, 100)),
        )
        shards = ShardWriter(writer, f"{split}/", Events._fields, EVENT_TYPES, chunk_size=settings.chunk_size)
        shards.append(values)
        num_shards[split] = shards.finish()
        none = ShardWriter(
            writer, f"{split}/withdrawn_", Withdrawals._fields, WITHDRAWAL_TYPES, chunk_size=settings.chunk_size
        )
        num_withdrawn_shards[split] = none.finish()
    sizes = {split: len(p) for split, p in pairs.items()}
    return {
        "stats": {
            "total_interactions": sum(sizes.values()),
            "num_users": len(user_ids),
            "num_items": len(item_ids),
            "train_size": sizes["train"],
            "val_size": sizes["val"],
            "test_size": sizes["test"],
            "min_interactions": 0,
            "chunk_size": settings.chunk_size,
        },
        "train_end": 0,
        "num_shards": num_shards,
        "num_withdrawn_shards": num_withdrawn_shards,
    }
