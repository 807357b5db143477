"""Runs commands that faults happen to, on a tiny run, and judges how they end."""

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from music_map.lock import writing

ROOT = Path(__file__).resolve().parents[2]
FORKS = ROOT / "tests" / "launch" / "forks.py"
SAME, REFUSED = "same", "refused"

# What a run computes; times, and Orbax's own files, differ from run to run.
RESULTS = re.compile(
    r"(work/(embeddings|index|recency/\w+\.json)|processed/|raw/|own/|out\.).*|work/(config|baselines-\w+)\.json"
)
VOLATILE = re.compile(r"generated|inputs|checksums|manifest\.json|out\.html")
LEFT = re.compile(r"\..+\.(tmp|old)-.*|\..+\.lock|\.lock")


@dataclasses.dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str


class Runner:
    """Runs commands in forks of one process; several of these run at once."""

    def __init__(self):
        env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
        env |= {"PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen([sys.executable, FORKS], cwd=ROOT, env=env, text=True, **pipes)

    def run(self, command, fault=None, out=None):
        """The command to its end.

        Args:
          command: name and flags.
          fault: see inject.py.
          out: where its standard output goes in place of what is returned.
        """
        name, *flags = command
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            texts = {}
            asked = {"command": [f"launch/{name}.py", *map(str, flags)], "fault": fault}
            for stream in ("out", "err"):
                # A pipe: what a command says is not held back by a limit of the sizes of files.
                path = Path(folder, stream)
                os.mkfifo(path)
                asked[stream] = str(path)
                reader = threading.Thread(target=lambda s=stream, p=path: texts.update({s: p.read_bytes()}))
                reader.start()
                stack.callback(reader.join)
            if out is not None:
                # The fork opens `out`; the pipe's reader gets its end at once.
                os.close(os.open(asked["out"], os.O_WRONLY))
                asked["out"] = out
            print(json.dumps(asked), file=self._process.stdin, flush=True)
            status = int(self._process.stdout.readline())
            stack.close()
            return Done(status, texts["out"].decode(), texts["err"].decode())

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def judge(done, same):
    """ "same", "refused", or what is wrong with how a command ended.

    Args:
      done: a Done.
      same: whether its result is that of an undisturbed command.
    """
    if "Traceback" in done.err or "Exception" in done.err:
        return f"a traceback: {done.err.strip().splitlines()[-1][:300]}"
    if done.status == 0:
        if same:
            return SAME
        told = [line for line in done.err.splitlines() if line.startswith("warning:")]
        return REFUSED if told else "another result without a word"
    errors = [line for line in done.err.splitlines() if line.startswith("error:")]
    if done.status != 2:
        return f"status {done.status}: {done.err[-300:]}"
    return REFUSED if len(errors) == 1 else f"status 2 with {len(errors)} error lines"


class Counts:
    """Tries by area: how many ended the same, refused, or wrong; prints what was wrong at once."""

    def __init__(self, say=print):
        self.areas = collections.defaultdict(collections.Counter)
        self.wrong = []
        self._say = say

    def add(self, area, trial, verdict):
        """Counts one trial."""
        kind = verdict if verdict in (SAME, REFUSED) else "wrong"
        self.areas[area][kind] += 1
        if kind == "wrong":
            self.wrong.append(f"{area}: {trial}: {verdict}")
            self._say(f"WRONG {self.wrong[-1]}")

    def table(self):
        """The counts as text."""
        head = f"{'area':<28}{'tries':>8}{'same':>8}{'refused':>9}{'wrong':>8}"
        rows = [
            f"{area:<28}{sum(found.values()):>8}{found[SAME]:>8}{found[REFUSED]:>9}{found['wrong']:>8}"
            for area, found in sorted(self.areas.items())
        ]
        return "\n".join([head, *rows])


class Scene:
    """A folder in which commands run on a tiny run; its states are kept and put back.

    States: "empty", "raw" (generated logs), "parted" (preprocessed in two parts, not merged), "data" (preprocessed,
    with its graph), "trained".
    """

    def __init__(self, folder):
        self.folder = Path(folder) / "scene"
        self._kept = Path(folder) / "states"
        self.runner = Runner()
        self._clean = {}
        raw, work = self.folder / "raw", self.folder / "work"
        own = self.folder / "own.csv"
        data = [
            "--config=configs/test.py", f"--config.data.raw_dir={raw}",
            f"--config.data.processed_dir={self.folder}/processed",
        ]  # fmt: skip
        short = ["--config.train.num_epochs=1", "--config.eval.baselines=('most_pop',)"]
        self.jobs = {
            "generate": ("empty", ["generate", "--size=tiny", f"--output={raw}", "--seed=1"]),
            "preprocess": ("raw", ["preprocess", *data]),
            "build_graph": ("raw", ["build_graph", *data]),
            "train": ("data", ["train", *data, f"--workdir={work}", *short]),
            "build_index": ("trained", ["build_index", f"--workdir={work}", "--index=exact"]),
            "convert": (
                "empty",
                [
                    "convert",
                    f"--input={own}",
                    f"--output={self.folder}/own",
                    "--user=u",
                    "--item=i",
                    "--time=t",
                    "--overwrite",
                ],
            ),
            "every_user": (
                "trained",
                ["recommend", f"--workdir={work}", "--all_users", f"--output={self.folder}/out.jsonl", "--k=5"],
            ),
        }
        part = ["preprocess", *data, "--part=1/2"]
        trained = [f"--workdir={work}"]
        self.jobs |= {
            "part": ("raw", part),
            "merge": ("parted", ["preprocess", *data, "--merge=2"]),
            "tune": (
                "trained",
                ["evaluate", *trained, f"--output={self.folder}/out.json", "--tune_baselines", "--baselines=decay_pop"],
            ),
            "map": ("trained", ["export_map", *trained, f"--output={self.folder}/out.map.html", "--method=pca"]),
            "report": ("trained", ["report", *trained, f"--output={self.folder}/out.html", "--baselines=most_pop"]),
            "sweep": (
                "data",
                [
                    "sweep", *data, *short, f"--output={self.folder}/sweep", "--trials=2",
                    "--search=train.learning_rate=1e-3:1e-2:log",
                ],
            ),
        }  # fmt: skip
        # Each state: the one before it, and the jobs that make it of that.
        self._made = {
            "raw": ("empty", ["generate"]),
            "parted": ("raw", [[*part[:-1], f"--part={n}/2"] for n in (1, 2, 1, 2)]),
            "data": ("raw", ["build_graph"]),
            "trained": ("data", ["train"]),
        }
        self.folder.mkdir(parents=True)
        rows = [f"u{n % 7},s{n % 11},{1_600_000_000 + 60 * n}" for n in range(200)]
        own.write_text("\n".join(["u,i,t", *rows]) + "\n")
        shutil.copytree(self.folder, self._kept / "empty")
        self.put("trained")
        songs = re.findall(r"--songs=(\d+)", self.must(self.jobs["train"][1]).out)
        self.readers = {
            "songs": ["recommend", f"--workdir={work}", f"--songs={songs[0]}", "--k=5", "--format=json"],
            "user": ["recommend", f"--workdir={work}", f"--user={self._a_user()}", "--k=5", "--format=json"],
            "evaluate": ["evaluate", f"--workdir={work}", f"--output={self.folder}/out.json", "--baselines=most_pop"],
        }

    def _a_user(self):
        import pyarrow.parquet as pq

        return pq.read_table(self.folder / "raw" / "flat" / "tiny" / "listens.parquet")["uid"][0].as_py()

    def must(self, command):
        """A command that has to succeed."""
        done = self.runner.run(command)
        assert done.status == 0, f"{command}: {done.out[-1000:]}\n{done.err[-2000:]}"
        return done

    def put(self, state):
        """Puts a state back, which is made the first time."""
        if not (self._kept / state).exists():
            before, jobs = self._made[state]
            self.put(before)
            for job in jobs:
                self.must(self.jobs[job][1] if isinstance(job, str) else job)
            shutil.copytree(self.folder, self._kept / state)
        shutil.rmtree(self.folder)
        shutil.copytree(self._kept / state, self.folder)

    def results(self):
        """What was computed: sha256 by file."""
        found = {}
        for path in sorted(p for p in self.folder.rglob("*") if p.is_file()):
            name = str(path.relative_to(self.folder))
            if RESULTS.fullmatch(name) and not VOLATILE.search(name):
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def left(self):
        """Temporary files and locks that remain after the next writer of each folder."""
        for folder in {self.folder / p.relative_to(self.folder).parts[0] for p in self.folder.rglob(".*")}:
            if folder.is_dir():
                with writing(folder):
                    pass
        return [str(p.relative_to(self.folder)) for p in self.folder.rglob(".*") if LEFT.fullmatch(p.name)]

    def clean(self, job):
        """Results of an undisturbed job, and its number of steps of writing."""
        if job not in self._clean:
            state, command = self.jobs[job]
            self.put(state)
            with tempfile.NamedTemporaryFile("r") as counted:
                done = self.runner.run(command, {"count": counted.name})
                assert done.status == 0, done.err
                self._clean[job] = self.results(), int(counted.read())
        return self._clean[job]

    def answer(self, reader):
        """What a reader says, less where the time went."""
        done = self.runner.run(self.readers[reader])
        return done, self._said(done)

    def _said(self, done):
        path = self.folder / "out.json"
        if done.status == 0 and path.exists():
            stored = json.loads(path.read_text())
            path.unlink()
            return {key: stored[key] for key in ("model", "baselines")}
        return done.out

    def undisturbed(self, reader):
        """The answer of a reader on the trained state."""
        if reader not in self._clean:
            self.put("trained")
            done, said = self.answer(reader)
            assert done.status == 0, done.err
            self._clean[reader] = said
        return self._clean[reader]

    def close(self):
        self.runner.close()
