"""Own logs, end to end: a CSV of names in, recommendations by name out."""

import csv
import datetime
import json
import random
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from commands import fails, launch

ROOT = Path(__file__).resolve().parents[2]
NAMED = ["--user=listener", "--item=song", "--time=at"]


@pytest.fixture(scope="module")
def own(raw, tmp_path_factory):
    """The tiny generated logs as somebody else would keep them: names, ISO times, seconds played, in no order."""
    folder = tmp_path_factory.mktemp("own")
    rows = pq.read_table(raw / "flat/tiny/listens.parquet").to_pylist()
    random.Random(0).shuffle(rows)
    with open(folder / "plays.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["at", "listener", "song", "seconds", "length", "chosen"])
        for row in rows:
            at = datetime.datetime.fromtimestamp(1_770_000_000 + row["timestamp"], datetime.UTC).isoformat()
            length = row["track_length_seconds"]
            seconds = row["played_ratio_pct"] * length / 100
            writer.writerow([at, f"u{row['uid']:09}", f"s{row['item_id']:09}", seconds, length, row["is_organic"]])
    with open(folder / "likes.jsonl", "w") as file:
        for row in pq.read_table(raw / "flat/tiny/likes.parquet").to_pylist():
            at = 1_770_000_000 + row["timestamp"]
            file.write(json.dumps({"at": at, "listener": f"u{row['uid']:09}", "song": f"s{row['item_id']:09}"}) + "\n")
    return folder


def test_a_csv_of_names_trains_and_recommends_by_name(raw, own, tmp_path):
    files = [
        f"--input={own}/plays.csv",
        f"--output={tmp_path}/raw",
        *NAMED,
        "--played=seconds",
        "--played_unit=seconds",
    ]
    files += ["--duration=length", "--organic=chosen", f"--likes={own}/likes.jsonl"]
    said = launch("convert", *files, "--dry_run").stdout
    assert f"{own}/plays.csv" in said and "Their first rows:" in said and f"to write: {tmp_path}/raw/flat/own" in said
    assert "train.py" not in said and list(tmp_path.iterdir()) == []
    done = launch("convert", *files)
    [command] = [line for line in done.stdout.splitlines() if line.startswith("python launch/train.py")]
    assert f"--config.data.raw_dir={tmp_path}/raw --config.data.size=own" in command
    # The same events, but for names and the moment that times count from. A song of no length has no share played.
    before, after = (pq.read_table(path).to_pydict() for path in (
        raw / "flat/tiny/listens.parquet", tmp_path / "raw/flat/own/listens.parquet",
    ))  # fmt: skip
    for column in ("played_ratio_pct", "track_length_seconds", "is_organic"):
        assert sorted(before[column]) == sorted(after[column])
    assert [t + 1_770_000_000 for t in before["timestamp"]] == after["timestamp"]
    tables = tmp_path / "raw/flat/own"
    name = {row["number"]: row["id"] for row in pq.read_table(tables / "user_ids.parquet").to_pylist()}
    assert [name[uid] for uid in after["uid"]] == [f"u{uid:09}" for uid in before["uid"]]

    launch(
        "train", "--config=configs/test.py", f"--config.data.raw_dir={tmp_path}/raw", "--config.data.size=own",
        f"--config.data.processed_dir={tmp_path}/processed", f"--workdir={tmp_path}/work",
        "--config.train.num_epochs=1", "--config.retrieval.learned_attention=False",
    )  # fmt: skip
    song = max(set(before["item_id"]), key=before["item_id"].count)
    query = [f"--workdir={tmp_path}/work", f"--songs=s{song:09}", "--k=3"]
    found = json.loads(launch("recommend", *query, "--format=json").stdout)["recommendations"]
    assert len(found) == 3 and {r["item_id"] for r in found} <= {f"s{s:09}" for s in before["item_id"]}
    assert found[0]["why"][0]["item_id"] == f"s{song:09}"
    user = f"u{before['uid'][0]:09}"
    table = launch("recommend", *query[:1], f"--user={user}", "--k=3", f"--id_tables={tables}").stdout.splitlines()
    assert len(table) == 4 and table[1].split()[1].startswith("s0")
    fails("recommend", *query[:1], "--songs=nobody", says=["unknown song 'nobody'", "the ids look like 's0"])
    (tmp_path / "q").write_text(f"s{song:09},nobody\nnobody\n")
    launch("recommend", *query[:1], f"--batch={tmp_path}/q", f"--output={tmp_path}/a", "--k=3")
    one, other = map(json.loads, (tmp_path / "a").read_text().splitlines())
    assert one["recommendations"] == found and "unknown song 'nobody'" in one["warnings"][0]
    assert "unknown song 'nobody'" in other["error"]
    launch("recommend", *query[:1], "--all_users", f"--output={tmp_path}/all.parquet", "--k=3")
    every = pq.read_table(tmp_path / "all.parquet").to_pydict()
    assert user in every["uid"] and set(every["item_id"]) <= {f"s{s:09}" for s in before["item_id"]}
    # Tables of another conversion of the logs are refused.
    other = pq.read_table(tables / "song_ids.parquet")
    (tmp_path / "stale").mkdir()
    numbers = (other["number"].to_numpy() + 1) % len(other)
    pq.write_table(other.set_column(0, "number", [numbers.astype("uint32")]), tmp_path / "stale/song_ids.parquet")
    fails("recommend", *query, f"--id_tables={tmp_path}/stale", says=["song_ids.parquet", "another conversion"])
    fails("recommend", *query[:1], "--songs=x", f"--id_tables={tmp_path}", says=["--id_tables", "song_ids.parquet"])


def test_what_the_command_refuses(own, tmp_path):
    files = [f"--input={own}/plays.csv", f"--output={tmp_path}/raw"]
    fails("convert", *files, "--user=nobody", *NAMED[1:], says=[f"{own}/plays.csv", "no column 'nobody'", "--user"])
    fails("convert", *files, *NAMED, "--types=x:like", says=["--types", "--type=COLUMN"])
    fails("convert", *files, *NAMED, "--type=song", "--types=like", says=["--types=like", "VALUE:KIND"])
    fails("convert", *files, *NAMED, "--size=a/b", says=["--size=a/b", "slashes"])
    bad = [*files, *NAMED, "--time_format=%d/%m/%Y"]
    fails("convert", *bad, says=[f"{own}/plays.csv: column at, row 0: '2026-", "written as %d/%m/%Y"])


def test_an_export_by_name_says_what_it_left_out(tmp_path):
    plays = [
        {
            "ts": f"2023-03-01T10:{n:02}:05Z",
            "ms_played": 40_000 * (n % 2),
            "spotify_track_uri": f"spotify:track:{n % 3}",
        }
        | {"master_metadata_track_name": f"Song {n % 3}", "master_metadata_album_artist_name": "Band"}
        for n in range(30)
    ]
    plays.append(
        {"ts": "2023-03-02T10:00:00Z", "ms_played": 1, "spotify_track_uri": None, "episode_name": "\x1b[31mPod"}
    )
    plays.append({"ts": "2100-01-01T00:00:00Z", "ms_played": 1, "spotify_track_uri": "spotify:track:9"})
    (tmp_path / "Streaming_History_Audio_2023_1.json").write_text(json.dumps(plays))
    done = launch("convert", "--preset=spotify", f"--input={tmp_path}", f"--output={tmp_path}/own")
    said = " ".join(done.stdout.split())
    assert "31 listens 1 user, 4 songs of them 1 song with fewer than 10 events" in said
    assert "1 row skipped" in said and "1: podcasts and others without the id of a song (the first: " in said
    assert "ids that are no whole numbers were numbered (user, item, artist); tables of them: " in said
    assert "1 of 31 times lie far after all others" in done.stderr and "2100-01-01T00:00:00Z" in done.stderr


def test_standard_input_and_what_a_terminal_would_obey(tmp_path):
    command = [sys.executable, "launch/convert.py", "--input=/dev/stdin", f"--output={tmp_path}", *NAMED]
    done = subprocess.run(
        [*command, "--format=csv"], input="listener,song,at\n1,2,1600000000\n", cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and "1 listen\n" in done.stdout, done.stderr
    done = subprocess.run(
        [*command, "--format=csv", "--overwrite"], input="\x1b]0;title\x07,song,at\n1,2,3\n", cwd=ROOT,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "\\x1b]0;title\\x07" in done.stderr and "\x1b" not in done.stderr
    done = subprocess.run([*command, "--overwrite"], input="x", cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "its name tells no format" in done.stderr


def test_users_are_a_column_or_one_name(own, tmp_path):
    files = [f"--input={own}/plays.csv", f"--output={tmp_path}/raw", *NAMED[1:]]
    fails("convert", *files, says=["--user missing", "--user_value=NAME"])
    fails("convert", *files[:2], "--user=listener", "--time=at", says=["--item missing", "--preset"])
    fails("convert", *files[:2], *NAMED[:2], says=["--time missing", "--untimed"])
    fails("convert", *files[:2], *NAMED, "--untimed", says=["--time=at", "--untimed says that there are no times"])
    done = launch("convert", *files[:2], *NAMED[:2], "--untimed", "--dry_run")
    assert "no times: each user's songs are taken in a random order" in done.stderr
    assert "1 user, " in launch("convert", *files, "--user_value=ann").stdout
