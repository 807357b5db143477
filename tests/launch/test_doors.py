"""Python, recommend.py (one query, a batch, every user) and HTTP give the same songs for the same question."""

import dataclasses
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import launch
from stored_run import extract_run

import music_map as mm
from music_map.graph_filter.choose import SHARES, Choice, choose, groups_of, try_shares
from music_map.retrieval.index import installed
from music_map.run.config import with_values
from music_map.run.graph_filter import filter_for, mixed_scores

testclient = pytest.importorskip("fastapi.testclient")

from music_map.serving.service import create_app  # noqa: E402

NO_SONG, NO_USER = 4_294_967_290, 4_294_967_291
# Sets of filters, and how many random queries each answers; ALLOW and DENY stand for lists of songs.
FILTERS = [
    ({}, 60),
    ({"heard": False}, 40),
    ({"heard": False, "max_per_artist": 1, "diversity": 0.4}, 40),
    ({"min_listeners": 5, "only_with_audio": True, "max_per_album": 2}, 40),
    ({"allow": "ALLOW", "deny": "DENY"}, 40),
]
BACKENDS = ["exact", *(["scann"] if installed() else [])]
K = 8


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run with recency, its model exported as its scorer."""
    workdir = extract_run(tmp_path_factory.mktemp("doors"))
    mm.Recommender.load(workdir)
    return workdir


@pytest.fixture(scope="module", params=BACKENDS)
def door(request, exported, tmp_path_factory):
    """The run with a saved index, its Recommender, and a client of its service."""
    workdir = tmp_path_factory.mktemp(request.param) / "run"
    shutil.copytree(exported, workdir)
    launch("build_index", f"--workdir={workdir}", f"--index={request.param}")
    recommender = mm.Recommender.load(workdir)
    assert recommender.index.backend == request.param and recommender.user_scorer is not None
    with testclient.TestClient(create_app(recommender), base_url="http://localhost") as client:
        yield workdir, recommender, client


@pytest.fixture(scope="module")
def filtered(tmp_path_factory):
    """The run without recency, with a graph filter beside its encoder."""
    workdir = extract_run(tmp_path_factory.mktemp("filtered"))
    stored = json.loads((workdir / "config.json").read_text())
    stored["config"]["recency"]["enabled"] = False
    stored["config"]["graph_filter"] = {"enabled": True, "kinds": ["chebyshev"], "share": 0.3, "rank": 8}
    (workdir / "config.json").write_text(json.dumps(stored))
    return workdir


def labels(ids):
    return ids.labels(range(len(ids)))


def random_queries(recommender, count, rng):
    """Users alone, songs, both; dislikes, repeated songs, unknown ids; in order or not."""
    users, songs = labels(recommender.ids.users), labels(recommender.ids.songs)
    found = []
    for _ in range(count):
        kind = rng.choice(["user", "songs", "both"], p=[0.35, 0.4, 0.25])
        picked = [] if kind == "user" else rng.choice(songs, rng.integers(1, 13)).tolist()
        if picked and rng.random() < 0.3:
            picked = [*picked, NO_SONG, picked[0]]
        query = {"songs": picked, "ordered": bool(rng.random() < 0.7)}
        if kind != "songs":
            query["user"] = NO_USER if rng.random() < 0.1 else int(rng.choice(users))
        if rng.random() < 0.25:
            query |= random_history(songs, rng)
        if rng.random() < 0.3:
            query["dislikes"] = [*rng.choice(songs, 2).tolist(), NO_SONG][: rng.integers(1, 4)]
        found.append(query)
    return found


def random_history(songs, rng):
    """What a listener played and marked, with and without times; now and then a time that is none."""
    kinds = rng.choice(["listen", "listen", "like", "dislike", "unlike", "undislike"], 9).tolist()
    times = rng.integers(24_000_000, 26_000_000, 9).tolist()
    played = np.round(rng.random(9), 2).tolist()
    picked = rng.choice([*songs, NO_SONG], 9).tolist()
    rows = zip(picked, times, played, kinds, strict=True)
    history = [{"song": song, "time": time, "played": share, "kind": kind} for song, time, share, kind in rows]
    history.append({"song": picked[0]})
    if rng.random() < 0.2:
        history[0]["time"] = 4_294_967_295
    return {"history": history} | ({"now": 26_500_000} if rng.random() < 0.3 else {})


def told(answer):
    """What a door answered: songs, scores, warnings, each song's reasons, and the tastes; or the error."""
    if isinstance(answer, str):
        return answer
    songs = answer["recommendations"]
    reasons = [[reason["text"] for reason in r["reasons"][:3]] for r in songs]
    why = [[reason["item_id"] for reason in r["why"][:1]] for r in songs]
    tastes = [taste["songs"] for taste in answer["tastes"]]
    return [r["item_id"] for r in songs], [r["score"] for r in songs], answer["warnings"], reasons, why, tastes


def by_python(recommender, query, filters):
    try:
        answer = recommender.recommend(**query, k=K, filters=filters)
    except mm.UserError as e:
        return str(e)
    return told(dataclasses.asdict(answer))


def by_http(client, query, filters):
    found = client.post("/recommend", json={**query, "k": K, "filters": filters})
    assert found.status_code in (200, 422)
    return told(found.json() if found.status_code == 200 else found.json()["detail"])


def flags_of(filters, folder):
    """Filters as flags of recommend.py; lists of songs go into files."""
    found = []
    for name, value in filters.items():
        if isinstance(value, list):
            (folder / name).write_text("\n".join(map(str, value)))
            value = folder / name
        found.append(f"--{name}={value}")
    return found


def assert_same(one, other, query):
    """The same songs in the same order, the same warnings, scores but for rounding; or the same error."""
    if isinstance(one, str):
        assert one == other, query
        return
    assert one[0] == other[0] and one[2:] == other[2:], query
    np.testing.assert_allclose(one[1], other[1], atol=1e-5)


@pytest.mark.parametrize(("given", "count"), FILTERS, ids=["-".join(given) or "none" for given, _ in FILTERS])
def test_every_door_gives_the_same_songs(door, given, count, tmp_path):
    workdir, recommender, client = door
    rng = np.random.default_rng([len(given), len(recommender.index.backend)])
    songs = labels(recommender.ids.songs)
    lists = {"ALLOW": rng.choice(songs, 60, replace=False).tolist(), "DENY": rng.choice(songs, 20).tolist()}
    given = {name: lists.get(value, value) if isinstance(value, str) else value for name, value in given.items()}
    filters = mm.Filters(**given)
    queries = random_queries(recommender, count, rng)
    answers = [by_python(recommender, query, filters) for query in queries]
    assert sum(not isinstance(answer, str) for answer in answers) > count / 2
    for query, answer in zip(queries, answers, strict=True):
        assert_same(answer, by_http(client, query, given), query)
    # A file of all queries.
    (tmp_path / "queries").write_text("\n".join(map(json.dumps, queries)))
    command = ["recommend", f"--workdir={workdir}", f"--k={K}", *flags_of(given, tmp_path)]
    launch(*command, f"--batch={tmp_path}/queries", f"--output={tmp_path}/answers")
    lines = [json.loads(line) for line in (tmp_path / "answers").read_text().splitlines()]
    for query, answer, line in zip(queries, answers, lines, strict=True):
        assert_same(answer, told(line.get("error", line)), query)


@pytest.mark.parametrize("given", [{}, {"heard": False, "max_per_artist": 1}], ids=["none", "filters"])
def test_every_user_and_single_queries(door, given, tmp_path):
    workdir, recommender, _ = door
    filters = mm.Filters(**given)
    command = ["recommend", f"--workdir={workdir}", f"--k={K}", *flags_of(given, tmp_path)]
    launch(*command, "--all_users", f"--output={tmp_path}/all.parquet")
    table = pq.read_table(tmp_path / "all.parquet").to_pydict()
    rows = {}
    for user, song, score in zip(table["uid"], table["item_id"], table["score"], strict=True):
        rows.setdefault(user, []).append((song, score))
    assert sorted(rows) == labels(recommender.ids.users)
    for user, found in rows.items():
        songs, scores, *_ = by_python(recommender, {"user": user}, filters)
        assert songs == [song for song, _ in found]
        np.testing.assert_allclose(scores, [score for _, score in found], atol=1e-5)
    user, (first, second) = next(iter(rows)), labels(recommender.ids.songs)[:2]
    query = {"songs": [first, NO_SONG, second], "user": user, "dislikes": [table["item_id"][0]]}
    flags = [f"--songs={first},{NO_SONG},{second}", f"--user={user}", f"--dislikes={table['item_id'][0]}"]
    done = launch(*command, *flags, "--format=json")
    assert_same(by_python(recommender, query, filters), told(json.loads(done.stdout)), query)
    (tmp_path / "plays.csv").write_text(f"song,time,kind\n{first},25000000,\n{second},,like\n")
    query = {"history": [(first, 25_000_000), (second, None, None, "like")]}
    done = launch(*command, f"--history={tmp_path}/plays.csv", "--format=json")
    assert_same(by_python(recommender, query, filters), told(json.loads(done.stdout)), query)


def test_every_door_asks_the_graph_filter(filtered, tmp_path):
    recommender = mm.Recommender.load(filtered)
    run = mm.open_run(filtered)
    choice = filter_for(run, "temporal")
    assert choice == ("chebyshev", 0.4, 0.3)
    users = labels(recommender.ids.users)[:12]
    answers = [by_python(recommender, {"user": user}, mm.Filters()) for user in users]
    # What is measured is what is served.
    scores = np.array(mixed_scores(run, choice)(np.arange(12)))
    scores[:, ~recommender.export.recommendable] = -np.inf
    for user, answer in enumerate(answers):
        scores[user, recommender._user_songs.disliked_by(user)] = -np.inf
        best = np.argsort(-scores[user], kind="stable")[:K]
        assert answer[0] == recommender.ids.songs.labels(best.tolist())
        assert recommender.explain(answer[0][0], user=users[user]).score == pytest.approx(answer[1][0], abs=1e-4)
        np.testing.assert_allclose(answer[1], scores[user, best], atol=1e-4)
    queries = [{"user": user} for user in users] + random_queries(recommender, 20, np.random.default_rng(0))
    answers += [by_python(recommender, query, mm.Filters()) for query in queries[12:]]
    with testclient.TestClient(create_app(recommender), base_url="http://localhost") as client:
        for query, answer in zip(queries, answers, strict=True):
            assert_same(answer, by_http(client, query, {}), query)
    command = ["recommend", f"--workdir={filtered}", f"--k={K}"]
    launch(*command, "--all_users", f"--output={tmp_path}/all.parquet")
    table = pq.read_table(tmp_path / "all.parquet").to_pydict()
    (tmp_path / "queries").write_text("\n".join(map(json.dumps, queries)))
    launch(*command, f"--batch={tmp_path}/queries", f"--output={tmp_path}/answers")
    lines = [json.loads(line) for line in (tmp_path / "answers").read_text().splitlines()]
    for query, answer, line in zip(queries, answers, lines, strict=True):
        assert_same(answer, told(line.get("error", line)), query)
    for user, answer in zip(users, answers, strict=False):
        assert [song for uid, song in zip(table["uid"], table["item_id"], strict=True) if uid == user] == answer[0]


def test_the_filter_is_chosen_on_validation_and_kept(filtered, tmp_path):
    run = mm.open_run(filtered)
    changed = {"graph_filter.share": None, "graph_filter.kinds": ("linear",)}
    run = dataclasses.replace(run, config=with_values(run.config, changed))
    choice = filter_for(run, "temporal")
    stored = json.loads((filtered / "graph_filter/temporal.json").read_text())
    values = {trial["share"]: trial["value"] for trial in stored["trials"] if trial["exponent"] == 0.2}
    assert choice is None or values[choice.share] > values[0.0]
    task = run.task("temporal", "val")
    groups = groups_of(mixed_scores(run, Choice("linear", 0.0, 0.0)), task)
    tried = try_shares(mixed_scores(run, Choice("linear", 0.2, 0.0)), "linear", 0.2, task, groups, metric="ndcg@20")
    assert len(values) == len(SHARES) and values == {c.share: pytest.approx(v) for c, v in choose([tried])[1]}
    before = (filtered / "graph_filter/temporal.json").stat().st_mtime_ns
    assert filter_for(run, "temporal") == choice
    assert (filtered / "graph_filter/temporal.json").stat().st_mtime_ns == before
    # A run older than the filter has none; nor has a protocol over held-out songs.
    assert filter_for(run, "cold_start") is None and not mm.open_run(extract_run(tmp_path)).config.graph_filter.enabled
