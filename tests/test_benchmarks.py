"""The benchmarks: what they import, what they compute from trained variants, and one of them as a command."""

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from plays import Plays, statistics, window, zipf  # noqa: E402
from real_logs import events_of_counts  # noqa: E402
from variants import Column, bounds, over_seeds, pooled, report, table  # noqa: E402

from music_map.preprocess.splits import global_temporal_cutoffs  # noqa: E402

users = st.integers(2, 30)


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_import_names_of_the_library_and_nothing_of_the_commands(path):
    for node in ast.walk(ast.parse(path.read_text())):
        modules = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module] if isinstance(node, ast.ImportFrom) else []
        assert not any(name.partition(".")[0] in ("launch", "configs") for name in modules)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("music_map"):
            module = importlib.import_module(node.module)
            assert not [each.name for each in node.names if not hasattr(module, each.name)]


def column(rng, count):
    return Column(rng.integers(0, 5, count).astype(float), rng.integers(1, 6, count).astype(float))


def test_statistics_of_a_log_worked_by_hand():
    """Songs 0, 1 are of artist 0, songs 2, 3 of artist 1; user 0 has two sessions on day 0 and one on day 1."""
    hour, day = 3_600, 86_400
    rows = [
        *((0, 0, 0), (0, 1, 100), (0, 0, 200), (0, 2, 5 * hour), (0, 0, day + 10), (0, 1, day + 20)),
        *((1, 0, 50), (1, 1, 2 * day - 10), (1, 3, 2 * day - 5)),
    ]
    user, song, time = (np.array(column) for column in zip(*rows, strict=True))
    found = statistics(Plays(user, song, time, song // 2))
    assert [found[name] for name in ("plays", "users", "songs")] == [9, 2, 4]
    assert found["plays a session, mean"] == 9 / 5 and found["plays a session, median"] == 2
    # Steps within sessions: 0-1, 1-0 and 0-1 of user 0, 1-3 of user 1; none was made by the other user before.
    assert found["in a session: same artist as the play before"] == 3 / 4 and found["steps known"] == 0
    assert found["in a session: song played earlier in it"] == 1 / 4
    # Repeats: 0 after 200 s, 0 and 1 after about a day (one a little less, one less than a day and 10 seconds).
    assert found["plays of a song played before"] == 3 / 9 and found["repeats after an hour at most"] == 1 / 3
    assert found["repeats after a day at most"] == 2 / 3
    # Day 1: four plays, one of them, of song 3, is the first by anybody. Targets 0, 1 of user 0, known; 1, 3 of user 1.
    assert found["new songs a day (share of its plays)"] == 1 / 4
    assert found["targets of the last day played before by the user"] == 2 / 4
    assert found["targets of the last day played before by anybody"] == 3 / 4
    assert found["songs an artist, mean"] == 2 and found["artists a session"] == (1 + 1 + 1 + 1 + 2) / 5
    last = window(Plays(user, song, time, song // 2), days=1.0, users=0, seed=0)
    assert last.song.tolist() == [0, 1, 1, 2] and last.user.tolist() == [0, 0, 1, 1]
    assert len(np.unique(window(Plays(user, song, time, song), days=0, users=1, seed=0).user)) == 1


def test_the_zipf_exponent_of_a_power_law():
    assert zipf(np.round(1e6 / np.arange(1, 500) ** 0.7).astype(int)) == pytest.approx(0.7, abs=0.01)


def test_shares_are_ratios_of_sums():
    # 1 of 4 and 2 of 2: three of six, not the mean of the two shares.
    assert Column(np.array([1.0, 2.0]), np.array([4.0, 2.0])).value == 0.5


@given(users, st.integers(0, 99))
def test_bounds_hold_the_value_and_vanish_between_equals(count, seed):
    rng = np.random.default_rng(seed)
    one, other = column(rng, count), column(rng, count)
    low, high = bounds(one)
    assert (low <= one.value + 1e-9 and one.value - 1e-9 <= high) or count < 20
    assert bounds(one, one) == [0.0, 0.0]
    other = Column(other.numerator, one.denominator)
    there, back = bounds(one, other), bounds(other, one)
    np.testing.assert_allclose(there, [-back[1], -back[0]], atol=1e-12)
    # All users alike: nothing is uncertain.
    same = Column(np.full(count, 2.0), np.full(count, 4.0))
    np.testing.assert_allclose(bounds(same, Column(np.full(count, 3.0), same.denominator)), [0.25, 0.25])


def test_seeds_are_averaged_within_users():
    ones = np.ones(3)
    seeds = [{"a": Column(np.array([0.0, 1.0, 2.0]), ones)}, {"a": Column(np.array([2.0, 1.0, 6.0]), ones)}]
    pooled = over_seeds(seeds)
    assert pooled["a"].numerator.tolist() == [1, 1, 4]
    worse = {"a": Column(np.zeros(3), ones)}
    results = report({"whole": pooled, "part": worse}, {"whole": seeds}, "whole")
    assert results["whole"]["a"]["by_seed"] == [1, 3] and results["part"]["a"]["by_seed"] == []
    assert results["whole"]["a"]["first_minus"] == [0, 0]
    # The paired difference is the whole itself where the part has nothing.
    assert results["part"]["a"]["first_minus"] == results["whole"]["a"]["interval"]
    lines = table(results, ["a"], "whole").splitlines()
    assert lines[2] == "| whole | 2.0000 [1.0000, 4.0000] |" and lines[3] == "| part | 0.0000 [+1.0000, +4.0000] |"


@given(st.lists(st.integers(1, 40), min_size=3, max_size=30), st.integers(0, 9))
def test_counts_become_events_that_the_split_cuts_into_their_windows(plays, seed):
    windows = [(np.arange(n), 7 * np.arange(n), np.array(plays[:n])) for n in (len(plays), 2, 3)]
    events = events_of_counts(windows, (8, 1, 1), seed=seed)
    cut = global_temporal_cutoffs(int(events["time"].max()), train_on_val=False)
    split = cut.assign(events["time"])
    for at, (of_users, items, counts) in enumerate(windows):
        mine = split == at
        np.testing.assert_array_equal(np.bincount(events["user"][mine]), counts)
        assert set(zip(events["user"][mine], events["item"][mine], strict=True)) == set(
            zip(of_users, items, strict=True)
        )
    assert (split >= 0).all() and events["time"].min() >= 0


def test_pooled_rows_are_means_over_the_users_of_all_logs():
    logs = [{"model": {"a": Column(np.full(n, value), np.ones(n))}} for n, value in ((1, 1.0), (3, 0.0))]
    both = pooled(logs)["model"]["a"]
    assert both.value == 0.25 and both.numerator.tolist() == [1, 0, 0, 0]


@pytest.fixture
def run(tmp_path):
    def command(script, *arguments):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, *script.split(), *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        return done

    return command


def test_ablations_as_a_command(run, tmp_path):
    assert run("launch/generate.py --size=tiny", f"--output={tmp_path}/raw").returncode == 0
    config = ["--config=configs/test.py", f"--config.data.raw_dir={tmp_path}/raw", "--config.train.num_epochs=1"]
    config += [f"--config.data.processed_dir={tmp_path}/processed", f"--output={tmp_path}/out.json"]
    wrong = run("benchmarks/ablations.py", *config, "--rows=half")
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: --rows: no row 'half'; choose from whole, ")
    done = run("benchmarks/ablations.py", *config, "--seeds=1", "--rows=whole,no temporal weight,no explicit negatives")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert list(results) == ["whole", "no temporal weight", "no explicit negatives"]
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("| ")]
    assert rows == ["", *results, "", "whole", "no explicit negatives"]
    values = {name: row["ndcg@20"]["value"] for name, row in results.items()}
    assert min(values.values()) > 0 and len(set(values.values())) == 3
