"""The generated files: schema, order, the traps of real logs, and what a model can find in them."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import svds

from music_map.errors import UserError
from music_map.raw.schema import EVENT_SCHEMAS, ITEM_SCHEMAS, event_path, item_path, pipeline_files
from music_map.synthetic import names, writer
from music_map.synthetic.blocks import block_events, build_world
from music_map.synthetic.mappings import artist_rows
from music_map.synthetic.settings import DURATION, settings_for
from music_map.synthetic.users import draw_tastes
from music_map.synthetic.writer import generate, read_record, record_path, write_events


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Logs of the demo's size: settings, folder, marginals, and the columns of each file."""
    folder = tmp_path_factory.mktemp("demo")
    settings = settings_for("demo")
    marginals = generate(folder, settings)
    files = {name: pq.read_table(event_path(folder, "demo", name)) for name in EVENT_SCHEMAS}
    columns = {name: {c: table[c].to_numpy() for c in table.column_names} for name, table in files.items()}
    return settings, folder, marginals, columns


@pytest.fixture(scope="module")
def world():
    return build_world(settings_for("tiny", seed=5))


def test_columns_have_the_published_order_and_types(demo):
    _, folder, _, _ = demo
    for name, schema in EVENT_SCHEMAS.items():
        assert pq.read_schema(event_path(folder, "demo", name)).equals(schema), name
    for name, schema in ITEM_SCHEMAS.items():
        assert pq.read_schema(item_path(folder, name)).equals(schema), name


def test_events_are_sorted_by_user_then_time(demo):
    for name, columns in demo[3].items():
        uid, timestamp = columns["uid"].astype(np.int64), columns["timestamp"].astype(np.int64)
        assert np.all(np.diff(uid * (DURATION + 1) + timestamp) >= 0), name
        assert np.all(timestamp % 5 == 0) and timestamp.max() <= DURATION, name
        assert all(pq_null == 0 for pq_null in (np.sum(np.isnan(c.astype(float))) for c in columns.values()))


def test_rows_and_span(demo):
    settings, _, marginals, columns = demo
    for name in EVENT_SCHEMAS:
        rows = len(columns[name]["uid"])
        assert rows == marginals[name]
        assert abs(rows - getattr(settings, f"num_{name}")) <= 0.01 * getattr(settings, f"num_{name}") + 1, name
    listens = columns["listens"]["timestamp"]
    assert listens.min() == 0 and listens.max() == DURATION


def test_ids_are_sparse_and_tell_nothing_of_artist_or_popularity(demo):
    listens = demo[3]["listens"]
    ids, counts = np.unique(listens["item_id"], return_counts=True)
    assert ids[-1] > 5 * len(ids) and np.unique(listens["uid"])[-1] > 20_000
    assert abs(np.corrcoef(np.argsort(np.argsort(ids)), np.log(counts))[0, 1]) < 0.1


def test_shares_are_the_published_ones(demo):
    columns = demo[3]
    played = columns["listens"]["played_ratio_pct"]
    assert abs(np.mean(columns["listens"]["is_organic"] == 0) - 0.487) < 0.02
    assert abs(np.mean(columns["likes"]["is_organic"] == 0) - 0.42) < 0.02
    assert abs(np.mean(played == 0) - 0.0745) < 0.004
    assert abs(np.mean(played > 100) - 0.0047) < 0.001
    assert 140 < played.max() <= 159
    # What the recommender plays is more popular.
    _, index, counts = np.unique(columns["listens"]["item_id"], return_inverse=True, return_counts=True)
    popularity = counts[index]
    organic = columns["listens"]["is_organic"] == 1
    assert popularity[~organic].mean() > 1.05 * popularity[organic].mean()


def test_a_song_has_one_length_in_multiples_of_five(demo):
    listens = demo[3]["listens"]
    pairs = np.unique(np.stack([listens["item_id"], listens["track_length_seconds"]]), axis=1)
    assert len(np.unique(pairs[0])) == pairs.shape[1]
    assert np.all(pairs[1] % 5 == 0) and pairs[1].min() >= 30


def test_many_listens_of_a_user_share_a_timestamp(demo):
    listens = demo[3]["listens"]
    _, counts = np.unique(np.stack([listens["uid"], listens["timestamp"]]), axis=1, return_counts=True)
    assert counts.max() > 20 and np.mean(counts > 1) > 0.005
    assert counts.max() <= 170


def test_songs_are_heard_again(demo):
    listens = demo[3]["listens"]
    pairs = np.unique(listens["uid"].astype(np.int64) << 32 | listens["item_id"])
    assert 1.5 < len(listens["uid"]) / len(pairs) < 6


def test_users_with_likes_only_and_under_the_threshold(demo):
    columns = demo[3]
    listeners = np.unique(columns["listens"]["uid"])
    everyone, rows = np.unique(
        np.concatenate([columns[n]["uid"] for n in ("listens", "likes", "dislikes")]), return_counts=True
    )
    assert len(listeners) == 1_109 and len(everyone) == 1_200
    assert np.all(np.isin(np.setdiff1d(everyone, listeners), columns["likes"]["uid"]))
    assert rows.min() < 10
    _, per_song = np.unique(columns["listens"]["item_id"], return_counts=True)
    assert np.sum(per_song < 10) > 50


@pytest.mark.parametrize(("withdrawal", "mark"), [("unlikes", "likes"), ("undislikes", "dislikes")])
def test_a_withdrawal_follows_a_mark_of_the_same_pair(demo, withdrawal, mark):
    columns = demo[3]

    def pairs(name):
        return list(zip(columns[name]["uid"].tolist(), columns[name]["item_id"].tolist(), strict=True))

    marked: dict = {}
    for pair, time in zip(pairs(mark), columns[mark]["timestamp"].tolist(), strict=True):
        marked.setdefault(pair, []).append(time)
    for pair, time in zip(pairs(withdrawal), columns[withdrawal]["timestamp"].tolist(), strict=True):
        assert any(earlier < time for earlier in marked[pair])
    # Some songs are liked, unliked and liked again, and no other pair is liked twice.
    twice = {pair for pair, times in marked.items() if len(times) > 1}
    assert twice <= set(pairs(withdrawal)) and bool(twice) == (mark == "likes")


def test_likes_follow_listens_and_a_disliked_song_was_played_once(demo):
    columns = demo[3]
    listens = columns["listens"]
    pair = listens["uid"].astype(np.int64) << 32 | listens["item_id"]
    heard, first, counts = np.unique(pair, return_index=True, return_counts=True)

    def at(name):
        key = columns[name]["uid"].astype(np.int64) << 32 | columns[name]["item_id"]
        where = np.minimum(np.searchsorted(heard, key), len(heard) - 1)
        return where, heard[where] == key

    where, known = at("likes")
    assert 0.8 < known.mean() < 0.98
    assert np.all(columns["likes"]["timestamp"][known] >= listens["timestamp"][first[where[known]]])
    where, known = at("dislikes")
    assert known.all() and np.all(counts[where] == 1)


def test_no_song_is_heard_before_its_release(world):
    first_day = world.catalogue.release_day.astype(np.int64) * 86_400
    assert 0.1 < np.mean(first_day > 0) < 0.4
    for block in range(world.num_blocks):
        events = block_events(world, block)
        assert np.all(events.listens.timestamp >= first_day[events.listens.song])
        assert np.all(events.marks["likes"].timestamp >= first_day[events.marks["likes"].song])


def test_repeats_name_an_earlier_listen_of_the_same_user_and_song(world):
    listens = block_events(world, 0).listens
    root = listens.root
    assert np.all(root <= np.arange(len(root))) and np.array_equal(root[root], root)
    assert np.array_equal(listens.user[root], listens.user) and np.array_equal(listens.song[root], listens.song)
    assert np.array_equal(listens.kind == 0, root != np.arange(len(root)))


def test_item_files(demo):
    _, folder, _, columns = demo
    audio = pq.read_table(item_path(folder, "embeddings"))
    ids = audio["item_id"].to_numpy()
    embed = np.stack(audio["embed"].to_numpy())
    unit = np.stack(audio["normalized_embed"].to_numpy())
    assert embed.shape == unit.shape == (len(ids), 128) and embed.dtype == np.float32
    assert np.all(np.diff(ids.astype(np.int64)) > 0)
    np.testing.assert_allclose(unit, embed / np.linalg.norm(embed, axis=1, keepdims=True), atol=1e-6)
    heard = np.unique(columns["listens"]["item_id"])
    assert abs(1 - np.isin(heard, ids).mean() - 0.18) < 0.02

    artists = pq.read_table(item_path(folder, "artist_item_mapping"))
    albums = pq.read_table(item_path(folder, "album_item_mapping"))
    songs, first, counts = np.unique(artists["item_id"].to_numpy(), return_index=True, return_counts=True)
    assert counts.max() == 2 and artists.group_by(["artist_id", "item_id"]).aggregate([]).num_rows == len(artists)
    assert 0.9 < np.isin(heard, songs).mean() < 0.97
    assert np.isin(heard, albums["item_id"]).all()
    assert len(albums["album_id"].unique()) > len(artists["artist_id"].unique())

    # Audio tells of taste: the nearest song is of the same artist far more often than a random one (0.3 % of pairs).
    known = np.isin(ids, songs)
    near = unit[known] @ unit[known].T
    np.fill_diagonal(near, -1)
    owner = artists["artist_id"].to_numpy()[first][np.searchsorted(songs, ids[known])]
    assert np.mean(owner[near.argmax(axis=1)] == owner) > 0.1


def _pairs(columns, chosen, users, items):
    rows = np.searchsorted(users, columns["uid"][chosen]), np.searchsorted(items, columns["item_id"][chosen])
    return (sp.csr_matrix((np.ones(chosen.sum()), rows), (len(users), len(items))) > 0).astype(np.float64)


def test_tastes_can_be_learned(demo):
    """On songs new to the user in the last tenth, factors of the first 80 % find twice what popularity finds."""
    listens = demo[3]["listens"]
    users, items = np.unique(listens["uid"]), np.unique(listens["item_id"])
    train_end, test_start = np.quantile(listens["timestamp"], [0.8, 0.9])
    train = _pairs(listens, listens["timestamp"] < train_end, users, items)
    test = _pairs(listens, listens["timestamp"] >= test_start, users, items)
    new = (test - test.multiply(_pairs(listens, listens["timestamp"] < test_start, users, items))).toarray()
    chosen = np.flatnonzero(new.sum(axis=1) * train.getnnz(axis=1))

    degree = [np.sqrt(np.maximum(train.getnnz(axis=axis), 1)) for axis in (1, 0)]
    u, s, vt = svds(sp.diags(1 / degree[0]) @ train @ sp.diags(1 / degree[1]), k=64, random_state=0)
    popular = np.tile(train.getnnz(axis=0).astype(float), (len(chosen), 1))

    def recall(score):
        score = np.where(train[chosen].toarray() > 0, -np.inf, score)
        top = np.argpartition(-score, 20, axis=1)[:, :20]
        return np.mean(np.take_along_axis(new[chosen], top, axis=1).sum(axis=1) / new[chosen].sum(axis=1))

    assert recall((u[chosen] * s) @ vt * degree[1]) > 2 * recall(popular)


def test_tastes_drift(world):
    """A user's niches at the end are not those at the start."""
    tastes = draw_tastes(world.catalogue, 500, np.random.default_rng(0))
    moved = 0.5 * np.abs(tastes.weight_end - tastes.weight_start).sum(axis=1)
    assert 0.15 < moved.mean() < 0.7
    np.testing.assert_allclose(tastes.weight_end.sum(axis=1), 1)


def test_moods_make_long_sessions_that_move_on():
    one, many = (
        block_events(build_world(settings_for("tiny", seed=5, moods_per_session=moods)), 0).listens
        for moods in (1.0, 8.0)
    )
    assert len(one.user) == len(many.user)

    def sessions(listens):
        pause = np.diff(listens.timestamp.astype(np.int64))
        return 1 + int(np.sum((pause > 1_800) | (np.diff(listens.user) != 0)))

    assert 3 * sessions(many) < sessions(one)


def test_runs_stay_with_an_artist_and_keep_the_rest(world):
    plain, runs = (
        block_events(build_world(settings_for("tiny", seed=5, artist_runs=share)), 0).listens for share in (0.0, 0.6)
    )
    offsets = world.catalogue.artist_songs

    def share_of_runs(listens):
        artist = np.searchsorted(offsets, listens.song, "right") - 1
        return np.mean((np.diff(artist) == 0)[np.diff(listens.user) == 0])

    assert share_of_runs(runs) > share_of_runs(plain) + 0.2
    assert runs.user.tolist() == plain.user.tolist()
    # As many repeats, of listens that were before them; nothing is played before its release.
    assert abs(np.mean(runs.kind == 0) - np.mean(plain.kind == 0)) < 0.03
    assert np.all(runs.root <= np.arange(len(runs.root))) and np.array_equal(runs.song, runs.song[runs.root])
    assert np.all(world.catalogue.release_day[runs.song] <= runs.timestamp // 86_400)


def test_records_of_earlier_versions_are_known_by_the_settings_they_have(tmp_path):
    settings = settings_for("tiny")
    generate(tmp_path, settings)
    path = record_path(tmp_path, "tiny")
    record = json.loads(path.read_text())
    del record["settings"]["artist_runs"]
    path.write_text(json.dumps(record))
    assert read_record(tmp_path, settings) is not None
    assert read_record(tmp_path, settings_for("tiny", artist_runs=0.5)) is None


def test_same_seed_same_bytes_other_seed_other_rows(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        generate(tmp_path / name, settings_for("tiny", seed=seed))
    for name in pipeline_files("tiny"):
        contents = [(tmp_path / folder / name).read_bytes() for folder in "abc"]
        assert contents[0] == contents[1] != contents[2], name


def test_blocks_and_row_groups_do_not_change_the_rows(world, tmp_path):
    alone = [block_events(world, block) for block in reversed(range(world.num_blocks))][::-1]
    write_events(tmp_path / "one", world)
    write_events(tmp_path / "many", world, row_group=100)
    one, many = (pq.ParquetFile(event_path(tmp_path / name, "tiny", "listens")) for name in ("one", "many"))
    assert one.num_row_groups == 1 and many.num_row_groups == world.num_blocks > 1
    assert one.read().equals(many.read())
    songs = np.concatenate([world.catalogue.item_id[events.listens.song] for events in alone])
    np.testing.assert_array_equal(one.read()["item_id"].to_numpy(), songs)


def test_nothing_is_replaced_without_overwrite(tmp_path):
    settings = settings_for("tiny")
    path = item_path(tmp_path, "embeddings")
    path.write_bytes(b"downloaded")
    with pytest.raises(UserError, match=r"embeddings.parquet: exists .*--overwrite"):
        generate(tmp_path, settings)
    assert path.read_bytes() == b"downloaded" and sorted(tmp_path.iterdir()) == [path]
    generate(tmp_path, settings, overwrite=True)
    assert path.read_bytes() != b"downloaded"


def test_an_interrupted_generation_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "write_items", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, settings_for("tiny"))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_beforehand(tmp_path, monkeypatch):
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10_000})())
    with pytest.raises(UserError, match="GiB are needed"):
        generate(tmp_path, settings_for("tiny"))


def test_the_record_tells_settings_and_damage(tmp_path):
    settings = settings_for("tiny")
    assert read_record(tmp_path, settings) is None
    marginals = generate(tmp_path, settings)
    assert read_record(tmp_path, settings)["marginals"] == marginals
    assert json.loads(record_path(tmp_path, "tiny").read_text())["settings"]["seed"] == 0
    assert read_record(tmp_path, settings_for("tiny", seed=1)) is None
    path = event_path(tmp_path, "tiny", "likes")
    path.write_bytes(path.read_bytes()[:-1])
    assert read_record(tmp_path, settings) is None


def test_songs_have_invented_names_of_a_stream_of_their_own(tmp_path, world):
    listed = np.ones(world.catalogue.num_songs, bool)
    for seed in (0, 0, 1):
        names.write_names(tmp_path / str(seed), "tiny", world.catalogue, listed, seed)
    tables = [pq.read_table(tmp_path / str(seed) / "flat/tiny/song_ids.parquet") for seed in (0, 1)]
    songs = tables[0].to_pylist()
    assert {row["number"] for row in songs} == set(world.catalogue.item_id.tolist())
    assert all(row["id"] == str(row["number"]) and row["title"] and row["artist"] and row["album"] for row in songs)
    assert len({(row["artist"], row["title"]) for row in songs}) > 0.95 * len(songs)
    assert tables[0]["title"] != tables[1]["title"]
    assert 5 < len({row["genre"] for row in songs}) <= len(world.catalogue.niche_vector)
    known = pq.read_table(tmp_path / "0/flat/tiny/artist_ids.parquet")["number"].to_pylist()
    assert set(artist_rows(world.catalogue, listed, 0)[0].tolist()) <= set(known)
