"""Inputs that are wrong: logs, flags and settings, drawn by Hypothesis or from lists of what is known to be hard."""

import csv
import functools
import io
import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
from harness import REFUSED, SAME, judge
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from music_map.errors import UserError
from music_map.evaluation.baselines.settings import SETTINGS
from music_map.run.config import SECTIONS, from_dict
from music_map.settings import field_types

# Cells of a table that have caught out a reader somewhere.
CELLS = (
    "", " ", "NULL", "NaN", "nan", "None", "\\N", "1.0", "01", "+1", "-1", "1e3", "0x10", "inf", "9" * 5000, "true",
    '"', '""', 'a"b', '"a', "a,b", "a\nb", "a\r\nb", "a\tb", "\ufeffa", "a\u2028b", "\x1b]0;x\x07", "\x00", "\ud800",
    "\u202e", "é" * 300, "=1+1", "2020", "20200201", "2020-02-30T00:00:00Z", "2020-01-01 00:00:00 PST", "1600000000.5",
    "1600000000000", "-5", "43831", "1e400", "٣",
)  # fmt: skip
# Values of flags and settings, as text.
NUMBERS = (
    "nan", "inf", "-inf", "-1", "0", "1", "-0.0", "1e-9", "1e-320", "1e39", "1e308", "2147483647", "2147483648",
    "4294967296", "9223372036854775808", "1" * 5000, "true", "x", "", "None", "1.5", "(1,)", "\x1b[31m", "é", "\udcff",
)  # fmt: skip


def drawn(strategy, count, rng):
    """Examples of a strategy, the same for the same generator."""
    found = []

    @seed(rng.randrange(2**32))
    @settings(
        max_examples=count, phases=[Phase.generate], database=None, deadline=None, suppress_health_check=HealthCheck
    )
    @given(strategy)
    def draw(value):
        found.append(value)

    draw()
    rng.shuffle(found)  # Hypothesis draws neighbours one after the other
    return found


ROWS = [[f"u{n % 7}", f"s{n % 11}", str(1_600_000_000 + 60 * n)] for n in range(200)]


def tables(scene, rng):
    """Text logs with some cells or bytes replaced: the other rows are read as they are, or one line says no."""
    text = st.one_of(st.sampled_from(CELLS), st.text(max_size=8))
    cells = st.lists(st.tuples(st.integers(0, 199), st.integers(0, 2), text), min_size=1, max_size=3)
    bytes_ = st.lists(st.tuples(st.integers(0, 199), st.integers(0, 12), text), min_size=1, max_size=2)
    cases = st.tuples(
        st.one_of(st.tuples(st.just("cells"), cells), st.tuples(st.just("bytes"), bytes_)),
        st.sampled_from((",", "\t", ";")),
        st.sampled_from(("stop", "skip")),
    )
    for (how, edits), delimiter, bad_rows in drawn(cases, 150, rng):
        name = f"{how} {edits!r:.200}, {delimiter!r}, {bad_rows}"
        yield name, functools.partial(_converted, scene, how, edits, delimiter, bad_rows)


def _converted(scene, how, edits, delimiter, bad_rows):
    rows = [list(row) for row in ROWS]
    if how == "cells":
        for row, column, text in edits:
            rows[row][column] = text
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerows([["u", "i", "t"], *rows])
    table = out.getvalue()
    if how == "bytes":
        lines = table.splitlines(keepends=True)
        for row, at, text in edits:
            lines[row + 1] = lines[row + 1][:at] + text + lines[row + 1][at:]
        table = "".join(lines)
    scene.put("empty")
    (scene.folder / "own.csv").write_bytes(table.encode("utf-8", "surrogatepass"))
    done = scene.runner.run([*scene.jobs["convert"][1], f"--delimiter={delimiter}", f"--bad_rows={bad_rows}"])
    if (verdict := judge(done, True)) != SAME:
        return verdict
    folder = scene.folder / "own" / "flat" / "own"
    listens = pq.read_table(folder / "listens.parquet").to_pydict()
    users, songs = (_names(folder / f"{kind}_ids.parquet") for kind in ("user", "song"))
    found = {
        (users[u], songs[i], t) for u, i, t in zip(*(listens[x] for x in ("uid", "item_id", "timestamp")), strict=True)
    }
    touched = {row for row, *_ in edits}
    lost = [row for n, row in enumerate(ROWS) if n not in touched and (row[0], row[1], int(row[2])) not in found]
    return f"{len(lost)} rows lost or changed without a word, such as {lost[0]}" if lost else SAME


def _names(path):
    table = pq.read_table(path).to_pydict()
    return dict(zip(table["number"], table["id"], strict=True))


def _column(name, make):
    """A change of one column of a table."""

    def change(table):
        return table.set_column(table.schema.get_field_index(name), name, make(table[name].combine_chunks()))

    return change


def _value(name, kind, value):
    """One value of a column replaced, whose type may have to hold it."""

    def make(column):
        values = column.cast(kind).to_pylist()
        values[len(values) // 2] = value
        return pa.array(values, kind)

    return _column(name, make)


# Changes of an event file by which the data set stays the same, and those that must be refused.
KEPT = {
    **{
        f"{name} as {kind}": _column(name, lambda column, kind=kind: column.cast(kind))
        for name in ("uid", "item_id", "timestamp")
        for kind in (pa.int64(), pa.uint64())
    },
    "a column more": lambda table: table.append_column("more", pa.array(["x"] * len(table))),
    "another order of columns": lambda table: table.select(table.column_names[::-1]),
    "dictionaries": _column("item_id", lambda column: column.dictionary_encode()),
}
REFUSALS = {
    "a null user": _value("uid", pa.int64(), None),
    "a null song": _value("item_id", pa.int64(), None),
    "a null time": _value("timestamp", pa.int64(), None),
    "a negative user": _value("uid", pa.int64(), -1),
    "a user of 2**40": _value("uid", pa.int64(), 2**40),
    "a negative song": _value("item_id", pa.int64(), -1),
    "a negative time": _value("timestamp", pa.int64(), -5),
    "a time of 2**40": _value("timestamp", pa.int64(), 2**40),
    "NaN as user": _value("uid", pa.float64(), math.nan),
    "text as user": _value("uid", pa.string(), "x"),
    "no column of songs": lambda table: table.drop_columns(["item_id"]),
    "two columns of songs": lambda table: table.append_column("item_id", table["item_id"]),
    "lists as users": _column("uid", lambda column: pa.array([[x] for x in column.to_pylist()])),
    "durations as times": _column("timestamp", lambda column: column.cast(pa.int64()).cast(pa.duration("s"))),
    "no rows": lambda table: table.slice(0, 0),
}


def parquet_logs(scene, rng):
    """Listens of the right logs in other types, or with a value that cannot be; the file cut, empty or a folder."""
    trials = [(name, change, SAME) for name, change in KEPT.items()]
    trials += [(name, change, REFUSED) for name, change in REFUSALS.items()]
    trials += [(name, name, REFUSED) for name in ("cut", "empty", "gone", "folder", "text", "one bit of the foot")]
    rng.shuffle(trials)
    for name, change, wanted in trials:
        yield f"listens: {name}", functools.partial(_preprocessed, scene, change, wanted)


def _preprocessed(scene, change, wanted):
    clean, _ = scene.clean("preprocess")
    state, command = scene.jobs["preprocess"]
    scene.put(state)
    path = scene.folder / "raw" / "flat" / "tiny" / "listens.parquet"
    data = path.read_bytes()
    if callable(change):
        pq.write_table(change(pq.read_table(path)), path)
    else:
        path.unlink()
        foot = bytearray(data)
        foot[-200] ^= 1
        if change == "folder":
            path.mkdir()
        elif change != "gone":
            path.write_bytes(
                {"cut": data[: len(data) // 2], "empty": b"", "text": b"u,i\n1,2\n"}.get(change, bytes(foot))
            )
    done = scene.runner.run(command)
    arrays = {
        name: sha for name, sha in scene.results().items() if name.startswith("processed") and name.endswith(".npy")
    }
    same = _contents(arrays) == _contents({name: sha for name, sha in clean.items() if name.endswith(".npy")})
    verdict = judge(done, same or wanted == REFUSED)
    return verdict if verdict == wanted or (verdict == REFUSED and wanted == SAME) else f"{verdict}, not {wanted}"


def _contents(arrays):
    """The arrays' checksums by their names; the folder's name says what they were made of."""
    return {name.split("/", 2)[-1]: sha for name, sha in arrays.items() if not name.startswith("raw")}


# Flags of commands, but for those that name a place to write to.
FLAGS = {
    "generate": ("seed", "num_users", "num_items", "num_listens", "moods_per_session", "artist_runs", "size"),
    "convert": (
        "user", "item", "time", "size", "time_unit", "time_format", "time_zone", "played", "played_threshold", "format",
        "delimiter", "encoding", "header", "missing", "types", "bad_rows", "preset", "user_value", "likes", "title",
    ),
    "preprocess": ("part", "merge", "config.data.size", "config.data.raw_dir", "config"),
    "train": ("stall_timeout", "profile_steps", "config.train.seed", "config.parallel", "num_processes"),
    "evaluate": ("protocol", "split", "baselines", "max_sessions", "baseline_settings", "workdir"),
    "songs": ("k", "songs", "user", "dislikes", "allow", "deny", "diversity", "artist_max", "format", "id_tables"),
    "user": ("k", "user", "dislikes", "songs", "workdir"),
    "build_index": ("index", "recall_target"),
    "every_user": ("k", "diversity", "allow"),
    "map": ("num_clusters", "bits", "max_songs", "seed", "title", "method", "metadata", "previous"),
    "report": ("protocol", "split", "baselines", "baseline_settings"),
    "sweep": ("trials", "seed", "search", "pruner"),
}  # fmt: skip


def flags(scene, rng):
    """A flag of a command with another value: it ends as it should, or one line says no."""
    pairs = [(name, flag) for name, found in FLAGS.items() for flag in found]
    text = st.one_of(
        st.sampled_from(NUMBERS), st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
    )
    for (name, flag), value in drawn(st.tuples(st.sampled_from(pairs), text), 250, rng):
        state, command = (scene.jobs | {reader: ("trained", c) for reader, c in scene.readers.items()})[name]
        changed = [one for one in command if one.partition("=")[0] != f"--{flag}"]
        yield f"{name} --{flag}={value!r:.60}", functools.partial(_given, scene, state, [*changed, f"--{flag}={value}"])


def _given(scene, state, command):
    scene.put(state)
    done = scene.runner.run(command)
    return judge(done, True)


def _values(kinds):
    if bool in kinds:
        return (0, "x", None)
    if int in kinds:
        return (-1, 0, True, 1.5, 2**24, 2**31 - 1, 2**31, 2**32, 2**63, 10**400, "x")
    if float in kinds:
        return (math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-320, 1e-9, 1e6, 1e39, 1e308, "x")
    if tuple in kinds:
        return ((), (-3,), (True,), (math.nan,), (2**31,), ("x",), "x")
    return ("", "x", 3, None, "\x1b[31m")


# They would only take long.
SLOW = {"num_epochs", "min_steps", "num_layers", "log_every_steps", "num_blocks"}


def fields(scene, rng):
    """Every field of the configuration with values at and beyond its bounds: it trains, or one line names the field."""
    trials = [
        (section, name, value)
        for section, kind in SECTIONS.items()
        for name, kinds in field_types(kind).items()
        for value in _values(kinds)
    ]
    rng.shuffle(trials)
    for section, name, value in trials:
        yield f"config.{section}.{name}={value!r:.40}", functools.partial(_trained, scene, section, name, value)


def _refusal(make):
    """The one line of a UserError; None where there is none, and the error's name for another error."""
    try:
        make()
    except UserError as e:
        return REFUSED if "\n" not in str(e) else f"an error of several lines: {e}"
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    return None


def _trained(scene, section, name, value):
    """Refused in this process, which takes no time, or else trained by the command."""
    told = _refusal(lambda: from_dict({section: {name: value}}))
    if told is not None or (name in SLOW and not isinstance(value, bool) and value > 100):
        return told or SAME
    if section == "data" and name.endswith(("dir", "path")):
        return SAME
    state, command = scene.jobs["train"]
    scene.put(state)
    given = [flag for flag in command if not flag.startswith(f"--config.{section}.{name}=")]
    done = scene.runner.run([*given, f"--config.{section}.{name}={value}"])
    verdict = judge(done, True)
    made = scene.folder / "work"
    if verdict == REFUSED and "memory" in done.err and made.exists() and any(made.iterdir()):
        return "too large, and a workdir is left behind"
    return verdict


def baseline_fields(scene, rng):
    """Every field of the baselines' settings likewise."""
    trials = [
        (baseline, name, value)
        for baseline, kind in SETTINGS.items()
        if baseline != "audio_knn"
        for name, kinds in field_types(kind).items()
        for value in _values(kinds)
    ]
    rng.shuffle(trials)
    for baseline, name, value in trials:
        yield f"{baseline}.{name}={value!r:.40}", functools.partial(_evaluated, scene, baseline, name, value)


def _evaluated(scene, baseline, name, value):
    scene.put("trained")
    path = scene.folder / "settings.json"
    short = {"num_epochs": 1} if "num_epochs" in field_types(SETTINGS[baseline]) else {}
    path.write_text(json.dumps({"settings": {baseline: {**short, name: value}}}))
    if name in SLOW and isinstance(value, int | float) and value > 100:
        return SAME
    work = scene.readers["evaluate"][1:3]
    done = scene.runner.run(["evaluate", *work, f"--baselines={baseline}", f"--baseline_settings={path}"])
    return judge(done, True)


INPUTS = {
    "tables": tables,
    "parquet logs": parquet_logs,
    "flags": flags,
    "settings": fields,
    "settings of baselines": baseline_fields,
}
