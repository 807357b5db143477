"""Commands and Python of the READMEs and docs, run as they stand, on a small run in place of the demo's."""

import json
import re
import subprocess
import sys

import pytest
from commands import ENV, ROOT, flags, heard, launch

PAGES = ("README.md", "checkpoints/README.md", "docs/recipes.md")


def snippets():
    for page in PAGES:
        for number, code in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)):
            if "plays.csv" in code:  # tests/run/test_api.py runs it
                continue
            yield pytest.param(code, id=f"{page}-{number}")


def test_python_of_the_pages(trained):
    """In one process, one after the other."""
    base, _ = trained
    code = "\n".join(param.values[0] for param in snippets())
    assert code.count("checkpoints/") >= 4
    code = re.sub(r"checkpoints/(demo|NAME)", str(base / "work"), code)
    subprocess.run([sys.executable, "-W", "error::FutureWarning", "-c", code], cwd=ROOT, env=ENV, check=True)


def test_recommending_for_a_user(trained, raw, tmp_path):
    base, _ = trained
    songs, table = heard(raw)
    user = max(set(table["uid"]), key=table["uid"].count)
    found = set()
    for page in ("README.md", "docs/recipes.md"):
        for args in re.findall(r"python launch/recommend\.py (.*--user.*)", (ROOT / page).read_text()):
            found.add(re.sub(r"--workdir=\S+", f"--workdir={base}/work", args))
    assert found
    plays = tmp_path / "plays.jsonl"
    plays.write_text(json.dumps({"song": songs[2]}) + "\n")
    for args in sorted(found):
        args = args.replace("plays.jsonl", str(plays))
        args = args.replace("--user=ID", f"--user={user}")
        for song in songs[:2]:
            args = args.replace("ID", str(song), 1)
        assert len(launch("recommend", *args.split()).stdout.strip().splitlines()) == 11


@pytest.mark.parametrize(
    ("fields", "environment"),
    [
        (["--config.train.mode=subgraph", "--config.train.partitions=2"], {}),
        (["--config.parallel=sharded"], {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}),
    ],
    ids=["subgraph", "sharded"],
)
def test_training_in_parts_and_on_many_devices(raw, tmp_path, fields, environment):
    small = ["--config.train.num_epochs=1", "--config.eval.baselines=('most_pop',)", "--config.model.num_layers=1"]
    plain = ["--config.retrieval.learned_attention=False", *small, *fields]
    command = [sys.executable, "launch/train.py", *flags(raw, tmp_path, *plain)]
    done = subprocess.run(command, cwd=ROOT, env=ENV | environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "trained to the end" in done.stdout and (tmp_path / "work/results.json").exists()
