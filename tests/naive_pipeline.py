"""Oracles: preprocess and the graph as plain loops over all rows at once, written from the specification."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow.parquet as pq

from music_map.graph.settings import GraphSettings
from music_map.preprocess.settings import PreprocessSettings

KINDS = {"listens": 0, "likes": 1, "dislikes": 2}
SPLITS = ("train", "val", "test")


def read_rows(raw_dir: Path, size: str = "50m") -> dict[str, list[tuple[int, ...]]]:
    """Rows of every event file of a raw folder."""
    rows = {}
    for path in (raw_dir / "flat" / size).glob("*.parquet"):
        rows[path.stem] = list(zip(*(c.to_pylist() for c in pq.read_table(path).columns), strict=True))
    return rows


class NothingLeft(Exception):
    """The filter leaves nothing, or a split would be empty."""


def preprocess(log: dict[str, list[tuple[int, ...]]], settings: PreprocessSettings) -> dict:
    """Ids, per split the rows (user, item, timestamp, kind, organic, pct) and withdrawals, and track lengths."""
    rows = []
    for name, kind in KINDS.items():
        for row in log.get(name) or []:
            rows.append((*row[:4], kind, row[4] if kind == 0 else 0, row[5] if kind == 0 else 0))
    last_timestamp = max(row[1] for row in rows)
    while True:
        users, items = Counter(r[0] for r in rows), Counter(r[2] for r in rows)
        kept = [r for r in rows if min(users[r[0]], items[r[2]]) >= settings.min_interactions]
        unchanged = len(kept) == len(rows)
        rows = kept
        if unchanged or settings.filter == "once":
            break
    if not rows:
        raise NothingLeft
    user_ids, item_ids = sorted({r[0] for r in rows}), sorted({r[2] for r in rows})

    if settings.split == "temporal":
        times = sorted(r[1] for r in rows)
        places = [0, *(n for n in range(1, len(times)) if times[n] != times[n - 1]), len(times)]

        def cut(fraction: float) -> float:
            wanted = round(fraction * len(times))
            place = min(places, key=lambda n: (abs(n - wanted), n))
            return times[place] if place < len(times) else math.inf

        val_from, test_from = cut(settings.train_fraction), cut(settings.train_fraction + settings.val_fraction)
        train_before, val_before = val_from, test_from
    else:
        end = math.ceil(last_timestamp / 1000) * 1000
        test_from = end - 86_400
        val_before = test_from - 1_800
        val_from = val_before - 86_400
        train_before = val_from - 1_800
    if settings.train_on_val:
        train_before, val_from = val_before, val_before

    def split_of(timestamp: int) -> str | None:
        if timestamp < train_before:
            return "train"
        if val_from <= timestamp < val_before:
            return "val"
        return "test" if timestamp >= test_from else None

    user_of, item_of = {u: n for n, u in enumerate(user_ids)}, {i: n for n, i in enumerate(item_ids)}
    rows.sort(key=lambda r: (r[0], r[1], r[4]))
    events = {split: [] for split in SPLITS}
    seconds = [0] * len(item_ids)
    for uid, timestamp, item, organic, kind, pct, length in rows:
        if (split := split_of(timestamp)) is not None:
            events[split].append((user_of[uid], item_of[item], timestamp, kind, organic, pct))
        if split == "train":
            seconds[item_of[item]] = seconds[item_of[item]] or length
    withdrawn = {split: [] for split in SPLITS}
    marks = [(*r, 1) for r in log.get("unlikes") or []] + [(*r, 2) for r in log.get("undislikes") or []]
    for uid, timestamp, item, _, kind in sorted(marks, key=lambda r: (r[0], r[1], r[4])):
        if uid in user_of and item in item_of and (split := split_of(timestamp)) is not None:
            withdrawn[split].append((user_of[uid], item_of[item], timestamp, kind))
    if any(not events[s] for s in SPLITS if not (s == "val" and settings.train_on_val)):
        raise NothingLeft
    return {
        "user_ids": user_ids,
        "item_ids": item_ids,
        "events": events,
        "withdrawals": withdrawn,
        "track_seconds": seconds,
    }


def graph(data: dict, settings: GraphSettings) -> tuple[list[tuple[int, int, float]], list[tuple[int, int, float]]]:
    """Edges and negative edges (user, item, weight), by user, then song; parallel ones in order of the events."""
    train = data["events"]["train"]
    now = max(row[2] for row in train)

    def stands(user: int, item: int, timestamp: int, kind: int) -> bool:
        later = (w for w in data["withdrawals"]["train"] if w[2] >= timestamp)
        return (user, item, kind) not in ((w[0], w[1], w[3]) for w in later)

    edges, negatives = [], []
    total = defaultdict(float)
    like = {}
    for user, item, timestamp, kind, organic, pct in train:
        factor = 1.0 if organic else settings.organic_factor
        if settings.half_life_days is not None:
            factor *= 0.5 ** ((now - timestamp) / 86_400 / settings.half_life_days)
        if kind == 0:
            total[user, item] += min(pct / 100, 1.0) * factor
            edges.append((user, item, min(pct / 100, 1.0) * factor))
        elif stands(user, item, timestamp, kind) and kind == 1:
            like[user, item] = settings.like_weight * factor
            edges.append((user, item, settings.like_weight * factor))
        elif stands(user, item, timestamp, kind):
            negatives.append((user, item, abs(settings.dislike_weight)))
    if settings.edges == "sum":
        for pair, weight in like.items():
            total[pair] += weight
        edges = [(*pair, weight) for pair, weight in total.items()]
        negatives = sorted(set(negatives))
    if settings.log1p:
        edges = [(u, i, math.log1p(w)) for u, i, w in edges]
    by_pair = sorted((e for e in edges if e[2] > 0), key=lambda e: e[:2])
    return by_pair, sorted(negatives, key=lambda e: e[:2])
