"""The recency scorer at its real size: made from events, stored, loaded, asked for one user and for all of them.

    python benchmarks/scorer.py --processed=data/processed/50m/events-... --output=scorer.json
    python benchmarks/scorer.py --users=9796 --songs=251558 --events=36398269

One user is asked for the best 100 songs, and for what the scores of the first ten consist of. Embeddings and weights
are random: they cost the same. Wall and processor seconds of each stage, and the largest resident memory up to its end.
"""

import contextlib
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import options
from absl import flags

from music_map.evaluation.pairs import Pairs
from music_map.evaluation.ranking import rank
from music_map.preprocess.dataset import LISTEN, Dataset, Events, ItemFeatures
from music_map.recency.history import Histories
from music_map.recency.moment import Moment, observe
from music_map.recency.scores import FEATURES, Embeddings, RecencyScorer
from music_map.storage import ArrayFolder, ArrayWriter, write_json

_PROCESSED = flags.DEFINE_string(
    "processed", None, "Folder of a processed data set; without one, events are generated."
)
_USERS = flags.DEFINE_integer("users", 9_796, "Users generated.", 1)
_SONGS = flags.DEFINE_integer("songs", 251_558, "Songs generated.", 1)
_EVENTS = flags.DEFINE_integer("events", 36_398_269, "Events generated.", 1)
_DIMS = flags.DEFINE_integer("dims", 64, "Of an embedding.", 1)
_LATEST = flags.DEFINE_integer("latest", 100, "Songs that the attention sees.", 1)
_REQUESTS = flags.DEFINE_integer("requests", 200, "Users asked for one at a time.", 1)
_RANKED = flags.DEFINE_integer("ranked", None, "Users ranked in blocks; all where it is left out.", 1)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file.")

K, DAYS = 100, 300


def generated(rng: np.random.Generator) -> tuple[Events, ItemFeatures]:
    """Listens of log-normal many songs a user, songs by Zipf's law, repeated as often as they come."""
    activity = rng.lognormal(0, 1.2, _USERS.value)
    user = np.sort(rng.choice(_USERS.value, _EVENTS.value, p=activity / activity.sum())).astype(np.int32)
    item = np.minimum(rng.pareto(0.9, _EVENTS.value) * 300, _SONGS.value - 1).astype(np.int32)
    # Half of the events repeat one of the same user's last fifty.
    again = rng.random(_EVENTS.value) < 0.5
    earlier = np.maximum(np.arange(_EVENTS.value) - rng.integers(1, 50, _EVENTS.value), 0)
    again &= user[earlier] == user
    item[again] = item[earlier[again]]
    time_ = rng.integers(0, DAYS * 86_400, _EVENTS.value).astype(np.uint32)
    time_ = time_[np.lexsort((time_, user))]
    byte = np.full(_EVENTS.value, LISTEN, np.uint8)
    events = Events(user, item, time_, byte, byte, rng.integers(0, 120, _EVENTS.value).astype(np.uint16))
    one = np.arange(_SONGS.value + 1)
    names = [rng.integers(0, max(1, _SONGS.value // few), _SONGS.value).astype(np.int32) for few in (3, 2)]
    ids = [np.arange(n.max() + 1, dtype=np.uint32) for n in names]
    audio = np.zeros((0, 128), np.float32), np.full(_SONGS.value, -1, np.int32)
    return events, ItemFeatures(
        *audio, one, names[0], ids[0], one, names[1], ids[1], np.zeros(_SONGS.value, np.float32)
    )


class Stages(dict):
    """Seconds and memory by stage, said as they are known."""

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        wall, processor = time.perf_counter(), time.process_time()
        yield
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        self[name] = {
            "wall": time.perf_counter() - wall, "processor": time.process_time() - processor, "peak_gib": peak
        }  # fmt: skip
        options.say("| {} | {wall:.2f} | {processor:.2f} | {peak_gib:.2f} |".format(name, **self[name]))


def answer(scorer: RecencyScorer, user: int) -> None:
    """The K best songs of a user, and what each part adds to the scores of the first ten."""
    reading = scorer.reading(np.array([user]))
    songs, _ = scorer.rank(reading, K)
    scorer.contributions(reading, songs[:, :10])


def main() -> int:
    rng, stage = np.random.default_rng(0), Stages()
    options.say(f"{jax.devices()[0].device_kind}, {_DIMS.value} dimensions\n")
    options.say("| | wall s | processor s | peak GiB |\n|---|---|---|---|")
    if _PROCESSED.value is None:
        with stage("generate"):
            events, features = generated(rng)
        num_users, num_items = _USERS.value, _SONGS.value
    else:
        dataset = Dataset.open(Path(_PROCESSED.value))
        num_users, num_items = dataset.num_users, dataset.num_items
        with stage("read train events"):
            events, features = dataset.events("train"), dataset.item_features()
    now = int(events.timestamp.max())
    with stage("moment"):
        moment = observe(events, features, now=now, num_users=num_users, num_items=num_items)
    histories = Histories.of(events, num_users=num_users)
    sizes = num_users, num_items
    embeddings = Embeddings(*(jnp.asarray(rng.normal(size=(n, _DIMS.value)), jnp.float32) for n in sizes))
    weights = dict(zip(FEATURES, rng.normal(size=len(FEATURES)).tolist(), strict=True))
    heard = Pairs(moment.listeners.T.tocsr().indptr.astype(np.int64), moment.listeners.T.tocsr().indices)
    with tempfile.TemporaryDirectory() as folder:
        with stage("store"):
            writer = ArrayWriter(Path(folder))
            moment.save(writer)
            histories.save(writer)
            writer.finish(fingerprint="", meta={})
        del moment, histories
        with stage("load"):
            store = ArrayFolder.open(Path(folder))
            scorer = RecencyScorer(
                embeddings, weights, Moment.load(store), Histories.load(store), latest_length=_LATEST.value
            )
        with stage("compile, and answer once"):
            answer(scorer, 0)
        asked = rng.choice(num_users, min(_REQUESTS.value, num_users), replace=False)
        for user in asked:  # pages are read, programs compiled
            answer(scorer, user)
        seconds = []
        with stage(f"{len(asked)} users, one by one"):
            for user in asked:
                start = time.perf_counter()
                answer(scorer, user)
                seconds.append(time.perf_counter() - start)
        users = np.arange(min(_RANKED.value or num_users, num_users), dtype=np.int32)
        size = scorer.block_size
        rank(scorer, users[:size], num_items=num_items, k=K, masked=heard.select(users[:size]), block_size=size)
        with stage(f"{len(users)} users in blocks of {size}"):
            rank(scorer, users, num_items=num_items, k=K, masked=heard.select(users), progress=options.bar)
    p50, p99 = np.percentile(np.array(seconds) * 1e3, [50, 99])
    options.say(
        f"\n{num_users:,} users, {num_items:,} songs, {len(events.user):,} events, "
        f"{len(heard.items):,} pairs; one user: p50 {p50:.1f} ms, p99 {p99:.1f} ms"
    )
    if _OUTPUT.value:
        write_json(Path(_OUTPUT.value), {"stages": dict(stage), "one_user_ms": {"p50": p50, "p99": p99}})
    return 0


if __name__ == "__main__":
    options.run(main)
