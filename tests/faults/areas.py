"""The areas of the campaign: each yields trials (name, what to call), whose call gives a verdict."""

import functools
import json
import math
import re
import shutil
import subprocess
import threading

from forged import forged
from harness import REFUSED, SAME, Runner, judge
from hostile import hostile_clients
from hub import hostile_hub
from inputs import INPUTS

SIZES = (1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18)


def _steps(scene, rng):
    """Each step of writing of each job, in random order; the jobs take turns, so that a short campaign sees all."""
    left = {job: None for job in rng.sample(list(scene.jobs), len(scene.jobs))}
    while left:
        for job in list(left):
            if left[job] is None:
                count = scene.clean(job)[1]
                left[job] = rng.sample(range(1, count + 1), count)
            if left[job]:
                yield job, left[job].pop()
            else:
                del left[job]


def kills(scene, rng):
    """Every job killed before each of its steps of writing; given again, it gives the result of an undisturbed one."""
    for job, at in _steps(scene, rng):
        yield f"{job} killed at {at}", functools.partial(_killed, scene, job, at)


def _killed(scene, job, at):
    wanted, _ = scene.clean(job)
    state, command = scene.jobs[job]
    answers = {reader: scene.undisturbed(reader) for reader in ("songs", "user") if state == "trained"}
    scene.put(state)
    first = scene.runner.run(command, {"kill": at})
    if "Traceback" in first.err or first.status not in (0, -9):
        return judge(first, False)
    for reader, answer in answers.items():  # readers between the two
        done, said = scene.answer(reader)
        if (verdict := judge(done, said == answer)) not in (SAME, REFUSED):
            return f"{reader} afterwards: {verdict}"
    again = scene.runner.run(command)
    verdict = judge(again, scene.results() == wanted)
    if verdict == SAME and (left := scene.left()):
        return f"leaves {', '.join(left)}"
    return verdict


def interrupts(scene, rng):
    """Ctrl-C before each step of writing: it ends with status 130 or says that it stopped; again gives the result."""
    for job, at in _steps(scene, rng):
        yield f"{job} interrupted at {at}", functools.partial(_interrupted, scene, job, at)


def _interrupted(scene, job, at):
    wanted, _ = scene.clean(job)
    state, command = scene.jobs[job]
    scene.put(state)
    first = scene.runner.run(command, {"interrupt": at})
    if "Traceback" in first.err or first.status not in (0, 2, 130):
        return judge(first, False)
    if first.status == 0 and scene.results() != wanted and "stopped" not in first.out:
        return "ended with status 0, and said nothing of the interrupt"
    again = scene.runner.run(command)
    return judge(again, scene.results() == wanted)


def full_disks(scene, rng):
    """Every job with files that cannot grow above a size; afterwards, with room, it gives the same result."""
    trials = [(job, size) for job in scene.jobs for size in SIZES]
    rng.shuffle(trials)
    for job, size in trials:
        yield f"{job} with {size} bytes a file", functools.partial(_full, scene, job, size)


def _full(scene, job, size):
    wanted, _ = scene.clean(job)
    state, command = scene.jobs[job]
    scene.put(state)
    done = scene.runner.run(command, {"full": size})
    verdict = judge(done, scene.results() == wanted)
    if verdict != REFUSED:
        return verdict
    again = scene.runner.run(command)
    return verdict if judge(again, scene.results() == wanted) == SAME else f"again, with room: {again.err[-300:]}"


def small_disks(scene, rng):
    """Every job on a file system of a few sizes; needs the right to mount one."""
    if not _mounted(scene, 1 << 20):
        return
    for job in scene.jobs:
        for size in (1 << 16, 1 << 18, 1 << 20):
            yield f"{job} on a disk with {size} bytes left", functools.partial(_on_small_disk, scene, job, size)


def _mounted(scene, size):
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", scene.folder], capture_output=True, check=False
    )
    if done.returncode == 0:
        subprocess.run(["umount", scene.folder], check=True)
    return done.returncode == 0


def _on_small_disk(scene, job, room):
    wanted, _ = scene.clean(job)
    state, command = scene.jobs[job]
    scene.put(state)
    size = sum(-(-p.stat().st_size // 4096) * 4096 + 4096 for p in scene.folder.rglob("*"))
    aside = scene.folder.with_name("aside")
    shutil.copytree(scene.folder, aside)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size + room}", "tmpfs", scene.folder], check=True)
    try:
        shutil.copytree(aside, scene.folder, dirs_exist_ok=True)
        done = scene.runner.run(command)
        return judge(done, scene.results() == wanted)
    finally:
        subprocess.run(["umount", scene.folder], check=True)
        shutil.rmtree(aside)


def kinds(scene):
    """The stored files of a trained run, one of each kind (names that differ in numbers are one kind)."""
    scene.put("trained")
    found = {}
    for path in sorted(p for p in scene.folder.rglob("*") if p.is_file() and "raw" not in p.parts):
        name = str(path.relative_to(scene.folder))
        if name != "own.csv":
            found.setdefault(re.sub(r"[0-9a-f]{12,}|\d+", "N", name), []).append(name)
    return found


def flips(scene, rng, readers=("songs", "user", "evaluate"), each=2):
    """One bit of each kind of stored file; every reader gives the same answer, says so, or refuses."""
    trials = [(name, reader) for names in kinds(scene).values() for name in names[:each] for reader in readers]
    rng.shuffle(trials)
    for name, reader in trials:
        where = rng.random()
        bit = rng.randrange(8)
        yield (
            f"bit {bit} at {where:.3f} of {name}, {reader}",
            functools.partial(_flipped, scene, name, where, bit, reader),
        )


def _flipped(scene, name, where, bit, reader):
    wanted = scene.undisturbed(reader)
    scene.put("trained")
    path = scene.folder / name
    data = bytearray(path.read_bytes())
    if not data:
        return SAME
    data[int(where * len(data))] ^= 1 << bit
    path.write_bytes(data)
    done, said = scene.answer(reader)
    return judge(done, said == wanted)


def cuts(scene, rng, readers=("songs", "user", "evaluate")):
    """One of each kind of stored file emptied, cut, deleted, or turned into a folder."""
    trials = [
        (names[0], how, r)
        for names in kinds(scene).values()
        for how in ("empty", "cut", "gone", "folder")
        for r in readers
    ]
    rng.shuffle(trials)
    for name, how, reader in trials:
        yield f"{name} {how}, {reader}", functools.partial(_cut, scene, name, how, reader)


def _cut(scene, name, how, reader):
    wanted = scene.undisturbed(reader)
    scene.put("trained")
    path = scene.folder / name
    data = path.read_bytes()
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how != "gone":
        path.write_bytes(data[: len(data) // 2] if how == "cut" else b"")
    done, said = scene.answer(reader)
    return judge(done, said == wanted)


EDITS = (
    ("work/config.json", ("config", "model", "alpha"), (0.1, "x", None, -1)),
    ("work/config.json", ("config", "model", "num_layers"), (1, 2.5, 10**12)),
    ("work/config.json", ("config", "model", "score"), ("dot", 3)),
    ("work/config.json", ("config", "eval", "min_played_pct"), (-1, 100_000, "x")),
    ("work/config.json", ("config", "data", "processed_dir"), ("/nowhere/at/all", 3)),
    ("work/config.json", ("dataset",), ("0" * 64, 3, None)),
    ("work/config.json", ("config",), ({}, [], None)),
    ("work/embeddings/manifest.json", ("meta",), ({}, [])),
    ("work/embeddings/manifest.json", ("fingerprint",), ("0" * 64, 3)),
    ("work/embeddings/manifest.json", ("arrays", "heard", "shape"), ([1], "x")),
)


def edits(scene, rng, readers=("songs", "user", "evaluate")):
    """A value of a JSON file changed by hand, its key removed, or a NaN in its place."""
    trials = [
        (file, keys, value, r) for file, keys, values in EDITS for value in (*values, ..., math.nan) for r in readers
    ]
    rng.shuffle(trials)
    for file, keys, value, reader in trials:
        yield f"{file} {'.'.join(keys)}={value}, {reader}", functools.partial(_edited, scene, file, keys, value, reader)


def _edited(scene, file, keys, value, reader):
    wanted = scene.undisturbed(reader)
    scene.put("trained")
    path = scene.folder / file
    stored = json.loads(path.read_text())
    inner = functools.reduce(lambda found, key: found[key], keys[:-1], stored)
    if value is ...:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    path.write_text(json.dumps(stored))
    done, said = scene.answer(reader)
    return judge(done, said == wanted)


def pairs(scene, rng):
    """Two jobs at once in one folder: one waits, or is refused by name; the result is that of one alone."""
    del rng
    for job in scene.jobs:
        yield f"two of {job}", functools.partial(_two, scene, job)


def _two(scene, job):
    wanted, _ = scene.clean(job)
    state, command = scene.jobs[job]
    scene.put(state)
    other, ended = Runner(), []
    try:
        threads = [threading.Thread(target=lambda r=r: ended.append(r.run(command))) for r in (scene.runner, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        other.close()
    same = scene.results() == wanted
    verdicts = [judge(done, same) for done in ended]
    for verdict in verdicts:
        if verdict not in (SAME, REFUSED):
            return verdict
    if verdicts == [REFUSED, REFUSED]:
        return "both refused"
    lines = scene.folder / "work" / "metrics.jsonl"
    if job == "train" and [json.loads(x)["step"] for x in lines.read_text().splitlines()] != sorted(
        json.loads(x)["step"] for x in lines.read_text().splitlines()
    ):
        return "metrics.jsonl is interleaved"
    return REFUSED if REFUSED in verdicts else SAME


def full_output(scene, rng):
    """Standard output on a full device."""
    del rng
    for name, command in scene.readers.items():
        yield f"{name} to a full device", functools.partial(_to_full_device, scene, "trained", command)
    for name, (state, command) in scene.jobs.items():
        yield f"{name} to a full device", functools.partial(_to_full_device, scene, state, command)


def _to_full_device(scene, state, command):
    scene.put(state)
    done = scene.runner.run(command, out="/dev/full")
    verdict = judge(done, False)
    return verdict if verdict == REFUSED else f"{verdict} ({done.err[-200:]})"


AREAS = {
    "kills": kills,
    "interrupts": interrupts,
    "full disks": full_disks,
    "small disks": small_disks,
    "flips": flips,
    "cuts": cuts,
    "edits": edits,
    "forged": forged,
    "two jobs at once": pairs,
    "full output": full_output,
    "hostile clients": hostile_clients,
    "hostile hub": hostile_hub,
    **INPUTS,
}
