"""The playlist query against simpler ones: whole sessions, sessions of several people in one playlist, random songs.

    python benchmarks/playlists.py --workdirs=checkpoints/demo --output=playlists.json

Several workdirs are runs on logs of one kind; their queries are counted together. Of whole and mixed sessions it
measures ndcg@20 and recall@20 of the rest, with paired intervals over users. Of all it counts in the first ten songs:
how many of the playlist's songs lead one (are its nearest, by the cosine in the space of queries), how many one of them
leads at most, how many artists there are, and how many songs are by one of them at most.
"""

import dataclasses

import numpy as np
import options
from absl import flags

from music_map.evaluation.baselines.history import History
from music_map.evaluation.baselines.item_knn import neighbours
from music_map.evaluation.baselines.settings import ItemKnnSettings
from music_map.evaluation.evaluate import evaluate_scores
from music_map.evaluation.metrics import per_user_metric
from music_map.evaluation.pairs import Pairs
from music_map.evaluation.playlist import PlaylistTask, last_query, mean_query, neighbour_scores, query_scores
from music_map.evaluation.protocols import find_protocol
from music_map.evaluation.uncertainty import interval, resample
from music_map.graph.bipartite import listeners_of
from music_map.playlist.heads import PLAIN_MIXTURE
from music_map.playlist.space import embed, moments_of
from music_map.retrieval.export import popularity_of
from music_map.run.evaluation import baseline_inputs
from music_map.run.playlist import heads_for
from music_map.run.recency import Past
from music_map.run.run import open_run
from music_map.run.sessions import scores_of, tasks_for
from music_map.storage import write_json

_WORKDIRS = flags.DEFINE_list("workdirs", None, "Folders of trained runs.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file of all results.", required=True)
_SPLIT = flags.DEFINE_enum("split", "test", ["val", "test"], "Split to evaluate on.")
_SESSIONS = flags.DEFINE_integer("max_sessions", 2_000, "Playlists of each kind.", 1)
_RANDOM = flags.DEFINE_integer("num_random", 100, "Playlists of five random songs.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Of draws and intervals.")

METRICS, TEN = ("ndcg@20", "recall@20"), 10
# Whole sessions, and playlists of two and three sessions.
PARTS = {"whole": 1, "two sessions": 2, "three sessions": 3}


def random_task(task: PlaylistTask, rng: np.random.Generator) -> PlaylistTask:
    """Playlists of five songs of train, without targets."""
    known = np.flatnonzero(task.ranking.candidates)
    seeds = np.stack([rng.choice(known, 5, replace=False) for _ in range(_RANDOM.value)])
    queries = np.arange(len(seeds), dtype=np.int32)
    size = {"num_rows": len(seeds), "num_items": len(task.ranking.candidates)}
    masked = Pairs.of(queries.repeat(5), seeds.ravel(), **size)
    nothing = Pairs.of(queries[:0], queries[:0], **size)
    ranking = dataclasses.replace(task.ranking, users=queries, targets=nothing, masked=masked)
    return PlaylistTask(ranking, seeds, queries, len(seeds))


def of_ten(lists: np.ndarray, seeds: np.ndarray, placed: np.ndarray, features) -> dict[str, np.ndarray]:
    """What the first ten songs of each list are made of, see the module."""
    found = []
    for songs, own in zip(lists[:, :TEN], seeds, strict=True):
        songs = songs[songs >= 0]
        leads = np.bincount((placed[songs] @ placed[own].T).argmax(axis=1), minlength=len(own))
        offsets = features.artist_offsets
        artists = np.concatenate([features.artists[offsets[i] : offsets[i + 1]] for i in songs] or [np.zeros(0, int)])
        counts = np.bincount(artists) if len(artists) else np.zeros(1, int)
        found.append(((leads > 0).sum(), leads.max(initial=0), (counts > 0).sum(), counts.max()))
    names = ("seeds that lead", "songs led by one seed", "artists", "songs of one artist")
    return dict(zip(names, np.array(found, np.float64).T, strict=True))


def measure(workdir: str, number: int) -> dict[tuple[str, int], dict[str, dict[str, np.ndarray]]]:
    """For each kind of playlist and number of seeds, by scorer, the values of its queries; "users" is there too."""
    run = open_run(options.path_of(workdir, "workdirs"), reporter=options.REPORTER)
    heads = heads_for(Past(run))
    items, listeners = np.asarray(run.embeddings.item), listeners_of(run.graph)
    popularity = popularity_of(listeners)
    placed = np.asarray(embed(items, moments_of(items, listeners > 0), heads.space))
    inputs = {key: value for key, value in baseline_inputs(run).items() if key != "seed"}
    history = History.of(run.events("train"), find_protocol("playlist").history, **inputs)
    similar, scores = neighbours(history, ItemKnnSettings()), scores_of(run, heads)
    tasks = {}
    for name, parts in PARTS.items():
        found = tasks_for(run, _SPLIT.value, max_sessions=_SESSIONS.value, parts=parts)
        tasks |= {(name, seeds): task for seeds, task in found.items()}
    tasks["random", 5] = random_task(tasks["whole", 1], np.random.default_rng(_SEED.value))
    options.say(f"{workdir}: {heads.mixture}")
    results = {}
    for key, task in tasks.items():
        scorers = {
            "model": scores(task, heads.mixture),
            "one taste": scores(task, heads.mixture._replace(cohesion=PLAIN_MIXTURE.cohesion)),
            "not onward": scores(task, heads.mixture._replace(one=PLAIN_MIXTURE.one, several=PLAIN_MIXTURE.several)),
            "embeddings alone": scores(task, PLAIN_MIXTURE),
            "plain mean": query_scores(items, task, mean_query, popularity=popularity),
            "last song": query_scores(items, task, last_query, popularity=popularity),
            "item-kNN": neighbour_scores(similar, task),
        }
        results[key] = {"users": {"": task.users.astype(np.int64) + (number << 32)}}
        for name, score in scorers.items():
            evaluated = evaluate_scores(score, task.ranking, ks=(20,)) if key[0] != "random" else None
            lists = evaluated.topk if evaluated else rank_of(score, task)
            values = of_ten(lists, task.seeds, placed, run.features)
            if evaluated:
                values |= {metric: per_user_metric(metric, lists, task.ranking.targets) for metric in METRICS}
            results[key][name] = values
    return results


def rank_of(score, task: PlaylistTask) -> np.ndarray:
    """Lists of playlists without targets."""
    from music_map.evaluation.ranking import rank

    ranking = task.ranking
    return rank(
        score,
        ranking.users,
        num_items=len(ranking.candidates),
        k=20,
        candidates=ranking.candidates,
        masked=ranking.masked,
    )


def main() -> int:
    parts = [measure(workdir, number) for number, workdir in enumerate(_WORKDIRS.value)]
    report = {}
    for key in dict.fromkeys(key for part in parts for key in part):
        there = [part[key] for part in parts if key in part]
        joined = {
            name: {field: np.concatenate([part[name][field] for part in there]) for field in there[0][name]}
            for name in there[0]
        }
        groups = np.unique(joined.pop("users")[""], return_inverse=True)[1]
        table = {name: {field: float(np.nanmean(v)) for field, v in values.items()} for name, values in joined.items()}
        for metric in METRICS if key[0] != "random" else ():
            own = joined["model"][metric]
            good = ~np.isnan(own)
            less = {name: (own - values[metric])[good, None] for name, values in joined.items() if name != "model"}
            samples = resample(less, np.ones((good.sum(), 1)), seed=_SEED.value, groups=groups[good])
            for name, sample in samples.items():
                table[name][f"model less this, {metric}"] = [float(x) for x in interval(sample)[0]]
        report[f"{key[0]}, {key[1]}"] = {"queries": len(groups), "users": len(set(groups.tolist())), "scorers": table}
        options.say(f"\n{key[0]}, {key[1]} seeds: {len(groups)} playlists")
        for name, values in table.items():
            options.say(f"  {name:17}" + "  ".join(f"{field} {shown(value)}" for field, value in values.items()))
    write_json(options.path_of(_OUTPUT.value, "output"), report)
    return 0


def shown(value: float | list[float]) -> str:
    return f"[{value[0]:+.4f}, {value[1]:+.4f}]" if isinstance(value, list) else f"{value:.4f}"


if __name__ == "__main__":
    options.run(main)
