"""A hostile hub for launch/download.py: the right files arrive, or one line says why not."""

import functools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import ROOT, Done, judge

sys.path.append(str(Path(__file__).resolve().parents[1]))

import fake_hub

from music_map.raw.schema import pipeline_files

PATHS = pipeline_files("50m")
SIZE = 200_000
LONGEST = 120  # seconds until a hub that trickles is given up: three times 30, and the pauses


def _files(rng):
    return {path: rng.randbytes(SIZE) for path in PATHS}


def _kinds(rng):
    """What the hub does: name to a function of its state."""
    path, other = rng.choice(PATHS), rng.randbytes(SIZE)

    def sets(**fields):
        def apply(hub):
            for name, value in fields.items():
                setattr(hub, name, value)

        return apply

    def flipped(hub):
        data = bytearray(hub.files[path])
        data[rng.randrange(SIZE)] ^= 1 << rng.randrange(8)
        hub.served = {path: bytes(data)}

    found = {
        "one bit flipped": flipped,
        "another file": sets(served={path: other}),
        "a shorter file": sets(served={path: other[: SIZE // 2]}),
        "an empty file": sets(served={path: b""}),
        "a longer file": lambda hub: sets(served={path: hub.files[path] + bytes(10_000_000)})(hub),
        "a file without an end": sets(endless=300_000_000),
        "connections that break": sets(cuts={path: [rng.randrange(SIZE) for _ in range(2)]}),
        "connections that are reset": sets(reset=True, cuts={path: [rng.randrange(SIZE) for _ in range(2)]}),
        "connections that always break": sets(cuts={path: [1_000] * 100}),
        "no ranges": sets(ignore_ranges=True, cuts={path: [100_000]}),
        "a byte a second": sets(trickle=1.0),
        "garbage in place of HTTP": sets(garbage=rng.randbytes(500)),
        "an endless head": sets(garbage=b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 100_000),
        "nothing at all": sets(garbage=b"\r\n"),
        "a redirect to nowhere": sets(headers={"Location": f"http://127.0.0.1:{fake_hub.closed_port()}/x"}),
        "a redirect that is no address": sets(headers={"Location": "http://[1"}),
        "a redirect to a file": sets(headers={"Location": "file:///etc/passwd"}),
        "a redirect in a circle": sets(headers={"Location": f"/datasets/yandex/yambda/resolve/main/{path}"}),
    }
    for status in (400, 401, 403, 404, 408, 416, 500, 503):
        found[f"status {status}"] = sets(status={path: status})
    found["busy for a day"] = sets(status={path: 429}, headers={"Retry-After": "86400"})
    for size in ("abc", "-1", "0", "9" * 30, str(SIZE - 1), str(SIZE + 1)):
        found[f"size {size}"] = sets(headers={"X-Linked-Size": size})
    for digest in ("", "../../x", "0" * 64, "\xff" * 3):
        found[f"hash {digest!r}"] = sets(headers={"X-Linked-Etag": digest})
    found["another commit"] = sets(headers={"X-Repo-Commit": "../../../etc"})
    return found


def _trial(files, apply):
    with tempfile.TemporaryDirectory() as folder, fake_hub.serve(files) as hub:
        output = Path(folder, "raw")
        apply(hub)
        env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        env |= {"PYTHONPATH": str(ROOT), "NO_PROXY": "*", "HF_ENDPOINT": hub.endpoint}
        command = [sys.executable, "launch/download.py", "--size=50m", f"--output={output}"]
        began = time.monotonic()
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=LONGEST, check=False
            )
        except subprocess.TimeoutExpired:
            return f"not ended after {time.monotonic() - began:.0f} s"
        there = {p: (output / p).read_bytes() for p in files if (output / p).exists()}
        written = sum(p.stat().st_size for p in output.rglob("*") if p.is_file() and not p.is_symlink())
    if any(content != files[path] for path, content in there.items()):
        return "a wrong file is in place"
    if written > SIZE * (len(files) + 1):
        return f"{written} bytes written"
    return judge(Done(done.returncode, done.stdout, done.stderr), len(there) == len(files))


def hostile_hub(scene, rng):
    """Everything that a hub can do wrong to a download."""
    del scene
    files, kinds = _files(rng), _kinds(rng)
    for name in rng.sample(sorted(kinds), len(kinds)):
        yield name, functools.partial(_trial, files, kinds[name])
