"""Milliseconds of an answer for a listener with a history, at the real size of the catalogue.

    python benchmarks/histories.py --processed=data/processed/50m/events-... --output=histories.json

Listeners from outside the logs bring 10, 500 and 10,000 plays, a known user 10 newer ones, and each is recommended ten
songs with reasons; beside a known user without. The moment and the histories are those of the train events. Embeddings
and weights are random: they cost the same. Answers by the recency head, with the reasons and without.
"""

import time
from pathlib import Path

import jax
import numpy as np
import options
from absl import flags
from workdir import parts_of

from music_map.preprocess.dataset import Dataset
from music_map.recency.history import Histories
from music_map.retrieval.answers import Query
from music_map.retrieval.plays import Play
from music_map.retrieval.present import PresentScorer
from music_map.retrieval.recommender import Recommender
from music_map.storage import write_json

_PROCESSED = flags.DEFINE_string("processed", None, "Folder of a processed data set.", required=True)
_DIMS = flags.DEFINE_integer("dims", 64, "Of an embedding.", 1)
_REQUESTS = flags.DEFINE_integer("requests", 100, "Requests of each kind.", 2)
_PLAYS = flags.DEFINE_list("plays", ["10", "500", "10000"], "Lengths of histories.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file.")

K, SECONDS_OF_HISTORY = 10, 90 * 86_400


def recommender_of(dataset: Dataset, rng: np.random.Generator) -> Recommender:
    """A recommender whose arrays are as large as those of a run, over the train events."""
    sizes = dataset.num_users, dataset.num_items
    parts = parts_of(dataset, rng, *(rng.normal(size=(n, _DIMS.value)).astype(np.float32) for n in sizes))
    scorer = PresentScorer(parts.head, parts.export.user_embeddings, parts.export.item_embeddings)
    options = {"user_songs": parts.user_songs, "user_scorer": scorer, "placing": parts.placing}
    return Recommender(parts.export, index="exact", **options)


def history_of(recommender: Recommender, events: Histories, count: int, rng: np.random.Generator) -> tuple[Play, ...]:
    """Plays like those of a user of the logs, as many as wanted: songs from some users, at random times before now."""
    picked = events.item[rng.integers(0, len(events.item), max(1, count // 20))]
    songs = recommender.export.item_ids[rng.choice(picked, count)].tolist()
    times = (recommender.user_scorer.now - rng.integers(0, SECONDS_OF_HISTORY, count)).tolist()
    shares = rng.integers(0, 101, count) / 100
    return tuple(Play(song, time, share) for song, time, share in zip(songs, times, shares.tolist(), strict=True))


def main() -> int:
    rng = np.random.default_rng(0)
    dataset = Dataset.open(Path(_PROCESSED.value))
    options.say(f"{jax.devices()[0].device_kind}, {_DIMS.value} dimensions")
    recommender = recommender_of(dataset, rng)
    now, users = recommender.user_scorer.now, recommender.ids.users
    events = recommender.user_scorer.group(np.array([0]), heard=True).head.histories

    def known() -> int:
        return int(users.label(int(rng.integers(0, len(users)))))

    kinds = {"a user of the logs": lambda: Query(user=known())}
    for count in map(int, _PLAYS.value):
        kinds[f"a new listener, {count:,} plays"] = lambda count=count: Query(
            history=history_of(recommender, events, count, rng)
        )
    recent = [int(song) for song in recommender.export.item_ids[:10]]
    kinds["a user of the logs, 10 newer plays"] = lambda: Query(
        user=known(), history=tuple(Play(song, now + 60 * n) for n, song in enumerate(recent, 1))
    )
    options.say(f"{dataset.num_users:,} users, {dataset.num_items:,} songs, {len(events.item):,} events\n")
    options.say("| | p50 ms | p99 ms | without reasons: p50 ms | p99 ms |\n|---|---|---|---|---|")
    found = {}
    for name, query in kinds.items():
        row = []
        for explain in (True, False):
            seconds = []
            for n in range(_REQUESTS.value + 10):  # the first ones compile, and read pages
                asked = [query()]
                start = time.perf_counter()
                (answer,) = recommender.recommend_batch(asked, k=K, explain=explain, reasons=3)
                seconds += [time.perf_counter() - start] if n >= 10 else []
                assert len(answer.recommendations) == K
            row += (1e3 * np.percentile(seconds, [50, 99])).tolist()
        found[name] = dict(zip(("p50", "p99", "p50_without_reasons", "p99_without_reasons"), row, strict=True))
        options.say(f"| {name} | " + " | ".join(f"{value:.1f}" for value in row) + " |")
    if _OUTPUT.value:
        write_json(Path(_OUTPUT.value), found)
    return 0


if __name__ == "__main__":
    options.run(main)
