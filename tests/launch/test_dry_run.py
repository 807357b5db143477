"""--dry_run: says what is done and what would be, and writes nothing."""

import pytest
from commands import fails, flags, launch

from music_map.text import size_text


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (13.8e9, "13.8 GB")])
def test_size_text(size, text):
    assert size_text(int(size)) == text


def test_generate_to_train(tmp_path):
    def files():
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    def dry(name, *args):
        before = files()
        done = launch(name, *args, "--dry_run")
        assert files() == before and done.stderr == ""
        return done.stdout

    raw = tmp_path / "raw"
    generate = ["--size=tiny", f"--output={raw}"]
    said = dry("generate", *generate)
    assert "120 users, 300 songs" in said and f"12,000  {raw}/flat/tiny/listens.parquet" in said
    launch("generate", *generate)
    assert "up to date" in dry("generate", *generate)
    with_seed = ["--seed=2", "--dry_run"]
    fails("generate", *generate, *with_seed, says=["listens.parquet: exists", "--overwrite"])

    train = flags(raw, tmp_path)
    config = train[:-1]
    listens = (raw / "flat/tiny/listens.parquet").stat().st_size
    said = dry("train", *train)
    assert f"preprocess: to do: 11 files of {raw}" in said and "not hashed yet" in said
    assert f"{size_text(listens):>10}  {raw}/flat/tiny/listens.parquet" in said
    assert "build_graph: to do, after preprocess" in said and f"train: to do in {tmp_path}/work: 3 epochs" in said

    launch("preprocess", *config)
    assert "preprocess: done, to do again (--force)" in dry("preprocess", *config, "--force")
    [folder] = (tmp_path / "processed").glob("events-*")
    said = dry("build_graph", *config)
    assert f"preprocess: done: {folder}" in said and "build_graph: to do" in said
    built = launch("build_graph", *config).stdout
    edges = int(next(line for line in built.splitlines() if line.startswith("num_edges")).split()[1].replace(",", ""))
    said = dry("train", *train)
    assert f": {edges // 2:,} edges" in said
    steps = -(-(edges // 2) // 256)
    assert f"train: to do in {tmp_path}/work: 3 epochs of {steps:,} steps of 256 pairs, {3 * steps:,} steps" in said

    (tmp_path / "work/checkpoints/7").mkdir(parents=True)
    assert f"begun in {tmp_path}/work, continues at step 7 of {3 * steps:,}" in dry("train", *train)
    fails("train", *train, "--config.loss.name=bprr", "--dry_run", says=["config.loss.name"])

    search = "--search=model.alpha=0:1"
    said = dry("sweep", *config, f"--output={tmp_path}/sweep", search, "--trials=5")
    assert "search: model.alpha: 0.0 to 1.0" in said and "sweep: 0 of 5 trials begun" in said


def test_jobs_on_a_run(trained, tmp_path):
    work = trained[0] / "work"
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*")}

    def dry(name, *args):
        done = launch(name, f"--workdir={work}", *args, "--dry_run")
        assert {path: path.stat().st_mtime_ns for path in work.rglob("*")} == before
        assert list(tmp_path.iterdir()) == [] and done.stderr == ""
        return done.stdout

    out = f"--output={tmp_path}/out.json"
    said = dry("evaluate", out, "--tune_baselines", "--baselines=item_knn")
    assert "protocol temporal, test split" in said and f"to write: {tmp_path}/out.json" in said
    assert (
        f"baselines: item_knn; tuned on validation, kept in {work}/baselines-temporal.json; done already: none" in said
    )
    assert "baselines: most_pop, decay_pop, item_knn;" in dry("report", f"--output={tmp_path}/page.html", "--split=val")
    said = dry("export_map", f"--output={tmp_path}/map.html", "--max_songs=50", "--method=pca")
    assert "50 of " in said and "method pca" in said
    fails("evaluate", f"--workdir={tmp_path}", out, "--dry_run", says=[str(tmp_path), "train first"])
