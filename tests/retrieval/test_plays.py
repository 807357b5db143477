"""Histories as people write them; listeners whom the model has never seen; plays since the logs end."""

import jax
import numpy as np
import pytest
from stored_run import extract_run

import music_map as mm
from music_map.errors import DamagedFileError, UserError
from music_map.graph.settings import GraphSettings
from music_map.ids import Ids
from music_map.model.fold_in import FoldIn, Learning
from music_map.preprocess.dataset import LISTEN, Events
from music_map.recency.history import Histories
from music_map.recency.moment import observe
from music_map.retrieval.answers import Query
from music_map.retrieval.export import Placing, load_export, load_head, load_placing, load_user_songs
from music_map.retrieval.filters import Filters
from music_map.retrieval.plays import Play, plays_of, resolve
from music_map.retrieval.present import PresentScorer
from music_map.retrieval.queries import parse_query_line, read_history
from music_map.retrieval.recommender import Recommender
from music_map.storage import ArrayFolder, ArrayWriter

SONGS = Ids(np.array([3, 5, 46], np.uint32))


def test_forms_of_an_entry():
    wanted = Play(3, 100, 0.5, "listen")
    assert plays_of([(3, 100, 0.5), {"song": 3, "time": 100, "played": 0.5}, wanted, [3, 100, 0.5]]) == (wanted,) * 4


@pytest.mark.parametrize(
    ("history", "says"),
    [
        ("abc", "history: must be a list"),
        ([(3,), 7], r"history\[1\]: must be \(song, time"),
        ([{"time": 3}], r"history\[0\]: no song"),
        ([{"song": 3, "at": 3}], r"history\[0\]: unknown field 'at'"),
        ([(3, -1)], r"history\[0\]: time=-1: must be whole seconds"),
        ([(3, 2**32)], r"history\[0\]: time=4294967296"),
        ([(3, 1.5)], r"history\[0\]: time=1.5"),
        ([(3, 1, -0.1)], r"history\[0\]: played=-0.1: must be the share"),
        ([(3, 1, 95)], r"history\[0\]: played=95"),
        ([(3, 1, float("nan"))], r"history\[0\]: played=nan"),
        ([(3, 1, None, "skip")], r"history\[0\]: kind='skip': must be one of listen, like"),
        ([(3, 1, None, [])], r"history\[0\]: kind="),
    ],
)
def test_a_wrong_entry_is_named(history, says):
    with pytest.raises(UserError, match=says):
        plays_of(history)


def test_times_in_the_future_are_refused():
    with pytest.raises(UserError, match=r"history\[1\]: time=101: is in the future, later than now=100"):
        resolve(plays_of([(3, 99), (5, 101)]), SONGS, now=100)
    with pytest.raises(UserError, match=r"history\[0\]: time=4294967295: is in the future"):
        resolve(plays_of([(3, 2**32 - 1)]), SONGS, now=None)
    for now in (99, "noon", 1.5, True, 2**32):
        with pytest.raises(UserError, match=r"now=.*: must be whole seconds, from 100"):
            resolve(plays_of([(3, 5)]), SONGS, now=now, at_least=100)
    # What the logs' own present covers is no future.
    assert resolve(plays_of([(3, 4_200_000_000)]), SONGS, now=None, at_least=4_200_000_000).now == 4_200_000_000


def test_entries_in_indices_by_time_each_once():
    rows = [
        (46, 20),
        (5, 10, 0.374),
        (5, 10, 0.374),
        (5, 10, 0.5),
        (7, 1),
        (3, None, None, "like"),
        (3, 20, None, "unlike"),
    ]
    found = resolve(plays_of(rows), SONGS, now=None)
    assert found.events.item.tolist() == [1, 1, 2, 0] and found.events.timestamp.tolist() == [10, 10, 20, 20]
    assert found.events.played_pct.tolist() == [37, 50, 100, 0] and found.events.kind.tolist() == [0, 0, 0, 1]
    assert found.withdrawals.item.tolist() == [0] and found.unknown == [7] and found.now == 20
    odd = resolve(plays_of([(10**5000, 3), ([], 3)]), SONGS, now=5)
    assert len(odd.unknown) == 2 and len(odd.events.item) == 0


def test_files_of_plays(tmp_path):
    csv, lines = tmp_path / "a.csv", tmp_path / "a.jsonl"
    csv.write_text('song,kind,time,played\n3,,100,0.5\n"Hello, ""you""",like,,\n')
    assert read_history(csv) == (Play("3", 100, 0.5), Play('Hello, "you"', kind="like"))
    lines.write_text('{"song": 3, "time": 100}\n\n[5, 7, 0.25]\n')
    assert read_history(lines) == (Play(3, 100), Play(5, 7, 0.25))
    for path, text, says in (
        (csv, "song,time\n3,soon\n", "a.csv, line 2: time='soon'"),
        (csv, "song,time\n3\n", "a.csv, line 2: must be"),
        (csv, "track,time\n3,4\n", "unknown column 'track'"),
        (csv, "time\n4\n", "no column song"),
        (csv, 'song\n"3\n', "not valid CSV"),
        (lines, '{"song": 3}\n{"song"}\n', "a.jsonl, line 2: not valid JSON"),
        (lines, '{"song": 3}\n\n{"song": 4, "played": 7}\n', "a.jsonl, line 3: played=7"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=says):
            read_history(path)


def test_a_line_of_a_batch():
    found = parse_query_line('{"history": [[3, 9]], "now": 12}', SONGS)
    assert found.history == ([3, 9],) and found.now == 12
    for line, says in (('{"history": 3}', "history must be a list"), ('{"now": true}', "now must be whole seconds")):
        with pytest.raises(UserError, match=says):
            parse_query_line(line, SONGS)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = extract_run(tmp_path_factory.mktemp("plays"))
    mm.Recommender.load(workdir)
    return workdir


def recommender_of(workdir, head, user_songs=None):
    export, _ = load_export(workdir / "embeddings")
    scorer = PresentScorer(head, export.user_embeddings, export.item_embeddings)
    songs = load_user_songs(workdir / "embeddings") if user_songs is None else user_songs
    options = {"user_songs": songs, "user_scorer": scorer, "placing": load_placing(workdir / "embeddings")}
    return Recommender(export, index="exact", **options)


def without(head, user, count, workdir):
    """The head as it was before a user's last events, and these as plays."""
    histories = head.histories
    events = histories.events()
    mine = np.flatnonzero((events.user == user) & (events.played_pct <= 100))[-count:]
    kept = np.delete(np.arange(len(events.user)), mine)
    rest = Histories.of(Events(*(column[kept] for column in events)), num_users=histories.num_users)
    features = mm.open_run(workdir).features
    now, sizes = head.moment.now, {"num_users": head.moment.num_users, "num_items": head.moment.num_items}
    before = observe(rest, features, now=now, **sizes)
    kinds = np.array(["listen", "like", "dislike"])
    rows = zip(mine, events.played_pct[mine] / 100, kinds[events.kind[mine]], strict=True)
    songs = load_export(workdir / "embeddings")[0].item_ids
    plays = [
        Play(
            int(songs[events.item[at]]),
            int(events.timestamp[at]),
            float(share) if kind == "listen" else None,
            str(kind),
        )
        for at, share, kind in rows
    ]
    return head.__class__(head.heard, head.unheard, before, rest, head.latest_length), plays


@pytest.mark.parametrize("filters", [{}, {"heard": False}], ids=["all", "new"])
def test_fresh_plays_answer_as_if_they_were_at_the_end_of_the_logs(workdir, filters):
    head = load_head(workdir / "embeddings")
    user = int(np.argmax(np.diff(head.histories.offsets)))
    before, plays = without(head, user, 12, workdir)
    assert len(plays) == 12
    whole, fresh = recommender_of(workdir, head), recommender_of(workdir, before)
    label = whole.ids.users.label(user)
    wanted = whole.recommend(user=label, k=20, filters=Filters(**filters))
    found = fresh.recommend(user=label, history=plays[::-1], k=20, filters=Filters(**filters))
    assert [r.item_id for r in found.recommendations] == [r.item_id for r in wanted.recommendations]
    np.testing.assert_allclose(
        [r.score for r in found.recommendations], [r.score for r in wanted.recommendations], atol=1e-4
    )
    stale = fresh.recommend(user=label, k=20, filters=Filters(**filters))
    assert [r.score for r in stale.recommendations] != [r.score for r in found.recommendations]
    # Events that the logs have count once.
    again = whole.recommend(user=label, history=plays, k=20, filters=Filters(**filters))
    np.testing.assert_allclose(
        [r.score for r in again.recommendations], [r.score for r in wanted.recommendations], atol=1e-4
    )


def test_a_listener_whom_the_model_has_never_seen(workdir):
    recommender = mm.Recommender.load(workdir)
    head = load_head(workdir / "embeddings")
    user = int(np.argsort(np.diff(head.histories.offsets))[-2])
    old, songs = head.histories.select(np.array([user])), recommender.ids.songs
    plays = [
        Play(songs.label(int(i)), int(t), min(int(p), 100) / 100)
        for i, t, p, k in zip(old.item, old.timestamp, old.played_pct, old.kind, strict=True)
        if k == LISTEN
    ]
    known = recommender.recommend(user=recommender.ids.users.label(user), k=20)
    found = recommender.recommend(history=plays, k=20)
    both = {r.item_id for r in known.recommendations} & {r.item_id for r in found.recommendations}
    assert len(both) >= 10 and found.warnings == []
    # One at a time, in a batch beside others, and in another order: the same.
    batch = recommender.recommend_batch(
        [mm.Query(history=tuple(plays)), mm.Query(user=216), mm.Query(history=tuple(plays[::-1]))], k=20
    )
    for answer in (batch[0], batch[2]):
        assert [r.item_id for r in answer.recommendations] == [r.item_id for r in found.recommendations]
    # Heard songs and dislikes are out, as a known user's are; unlikes and undislikes take back.
    heard = {play.song for play in plays}
    new = recommender.recommend(history=plays, k=20, filters=Filters(heard=False)).recommendations
    assert not heard & {r.item_id for r in new}
    first = found.recommendations[0].item_id
    disliked = [*plays, Play(first, None, None, "dislike")]
    assert first not in [r.item_id for r in recommender.recommend(history=disliked, k=20).recommendations]
    taken_back = [*disliked, Play(first, None, None, "undislike")]
    # The head still knows of the dislike, as it does of one in the logs: the song is allowed, but not first.
    assert first in [r.item_id for r in recommender.recommend(history=taken_back, k=2000).recommendations]
    # Beside a playlist, the history is the listener's share of the query.
    song = plays[0].song
    alone = recommender.recommend([song], k=20, user_share=0.0)
    mixed = recommender.recommend([song], history=plays, k=20, user_share=0.0)
    assert [r.item_id for r in alone.recommendations] == [r.item_id for r in mixed.recommendations]
    assert recommender.recommend([song], history=plays, k=20) != alone


def test_unknown_songs_are_named_and_the_rest_counts(workdir):
    recommender = mm.Recommender.load(workdir)
    song = recommender.ids.songs.label(3)
    answer = recommender.recommend(history=[(song, 25_000_000), ("nobody", 25_000_000), ("nobody", 1)], k=5)
    assert len(answer.recommendations) == 5
    assert len(answer.warnings) == 1 and answer.warnings[0].startswith("unknown played song 'nobody':")
    with pytest.raises(UserError, match="unknown played song 'nobody'"):
        recommender.recommend(history=[("nobody", 1)])
    with pytest.raises(UserError, match=r"history\[0\]: played=2"):
        recommender.recommend(history=[(song, 1, 2)])
    unknown = recommender.recommend(user="nobody", history=[(song, 25_000_000)], k=5)
    assert unknown.recommendations == recommender.recommend(history=[(song, 25_000_000)], k=5).recommendations
    assert unknown.warnings[0].startswith("unknown user 'nobody'")
    # A dislike alone tells no taste, but what is out; trends rank the rest.
    only = recommender.recommend(history=[(song, None, None, "dislike")], k=5)
    assert len(only.recommendations) == 5 and song not in [r.item_id for r in only.recommendations]


def test_a_user_at_a_later_time(workdir):
    recommender, later = mm.Recommender.load(workdir), 27_000_000
    wanted = mm.Recommender.load(workdir, now=later).recommend(user=216, k=10)
    found = recommender.recommend(user=216, k=10, now=later)
    assert [r.item_id for r in found.recommendations] == [r.item_id for r in wanted.recommendations]


def test_after_the_warming_no_question_waits_for_a_program(workdir, caplog):
    found = mm.Recommender.load(workdir)
    assert found.warm() > 10
    rng, songs, now = np.random.default_rng(0), found.ids.songs.labels(range(len(found.ids.songs))), found.present
    users = found.ids.users.labels(range(len(found.ids.users)))

    def query(kind):
        picked = rng.choice(songs, rng.integers(1, 128)).tolist()
        history = tuple((song, now + int(rng.integers(0, 90_000))) for song in picked)
        user = {"user": int(rng.choice(users))}
        return {
            "songs": Query(tuple(picked), dislikes=tuple(songs[:3])),
            "user": Query(**user),
            "new": Query(history=history, now=now + 90_000),
            "known": Query(**user, history=history, now=now + 90_000),
        }[kind]

    for size, filters in ((1, {}), (2, {}), (5, {"max_per_artist": 1}), (13, {"heard": False}), (64, {})):
        kinds = rng.choice(["songs", "user", "new", "known"], size)
        queries, options = [query(kind) for kind in kinds], {"k": 10, "filters": Filters(**filters), "reasons": 3}
        with jax.log_compiles():
            answers = found.recommend_batch(queries, **options)
        assert all(len(answer.recommendations) for answer in answers)
    assert not [line for line in caplog.messages if line.startswith("Compiling")]


def test_what_a_new_listener_learns_by_is_kept(tmp_path):
    rng = np.random.default_rng(0)
    items = rng.normal(size=(20, 3)).astype(np.float32)
    placing = Placing(
        FoldIn(items[::-1].copy(), -0.5, "count", False, Learning(items, 0.2, 1.0, 0.02)), GraphSettings()
    )

    def stored(folder, change=lambda meta: meta):
        folder.mkdir()
        writer = ArrayWriter(folder)
        writer.write("item_embeddings", items)
        writer.finish(fingerprint="f", meta=change(placing.save(writer)))
        return Placing.load(ArrayFolder.open(folder))

    edges = np.array([0, 4]), np.array([1, 5, 6, 12]), np.ones(4, np.float32)
    found = stored(tmp_path / "whole").fold_in
    np.testing.assert_array_equal(found.embed(*edges), placing.fold_in.embed(*edges))

    def with_learning(meta, learning):
        numbers = {name: value for name, value in meta["fold_in"].items() if name != "learning"}
        return {"fold_in": numbers | learning}

    # Exports from before there was one have none.
    assert stored(tmp_path / "before", lambda meta: with_learning(meta, {})).fold_in.learning is None
    bad = {"learning": {"base": 1.0, "temperature": 1.0, "pull": 0.0}}
    with pytest.raises(DamagedFileError, match=r"fold_in.learning needs numbers above 0"):
        stored(tmp_path / "bad", lambda meta: with_learning(meta, bad))
