"""The trials of a sweep with a stand-in for training: what is drawn, kept, gone on with, pruned, failed and dropped."""

import dataclasses
import resource
import types

import numpy as np
import pytest
from optuna.trial import TrialState

from music_map.errors import UserError
from music_map.reporter import PrintReporter
from music_map.run.config import Config, with_values
from music_map.sweep import report as sweep_report
from music_map.sweep import study
from music_map.sweep.search_space import Axis
from music_map.sweep.study import Result

AXES = (Axis("model.alpha", low=0.0, high=1.0), Axis("loss.name", ("bpr", "debiased_contrastive")))


def config():
    return with_values(Config(), {"train.num_epochs": 8})


def open_sweep(folder, *, axes=AXES, seed=0, pruner="none", keep=False, config=config):
    data = types.SimpleNamespace(fingerprint="data")
    return study.open_sweep(folder, config(), axes, data, seed=seed, pruner=pruner, keep_checkpoints=keep)


def worth(config):
    return 1.0 - (config.model.alpha - 0.3) ** 2 - 0.1 * (config.loss.name == "bpr")


def train(sweep, trial, config, should_stop):
    """Gives what `worth` says, without training."""
    (sweep.workdir(trial.number) / "checkpoints").mkdir(exist_ok=True)
    return {"state": TrialState.COMPLETE, "value": worth(config), "epochs": 8, "seconds": 0.0}


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    monkeypatch.setattr(study, "_train", train)


def drawn(sweep):
    return [(r.number, r.state, r.value, r.values) for r in sweep.results()]


def test_the_first_trial_is_the_configuration_itself(tmp_path):
    sweep = open_sweep(tmp_path)
    study.run(sweep, total=4, should_stop=lambda: False)
    results = sweep.results()
    assert [r.number for r in results] == [0, 1, 2, 3]
    assert results[0].values == {"model.alpha": 0.6, "loss.name": "debiased_contrastive"}
    assert len({r.values["model.alpha"] for r in results}) == 4
    for r in results:
        assert r.value == worth(with_values(config(), r.values))
    assert sweep.best() == max(results, key=lambda r: r.value)


def test_a_configuration_outside_the_ranges_is_no_trial(tmp_path):
    sweep = open_sweep(tmp_path, axes=(Axis("model.alpha", low=0.0, high=0.5),))
    study.run(sweep, total=1, should_stop=lambda: False)
    assert sweep.results()[0].values["model.alpha"] <= 0.5


def test_the_search_learns(tmp_path):
    sweep = open_sweep(tmp_path)
    study.run(sweep, total=25, should_stop=lambda: False)
    drawn_at_random, chosen = sweep.results()[1:10], sweep.results()[10:]
    distances = [[abs(r.values["model.alpha"] - 0.3) for r in part] for part in (drawn_at_random, chosen)]
    assert np.median(distances[1]) < np.median(distances[0]) and min(distances[1]) < 0.05
    shares = study.importances(sweep)
    assert shares.keys() == {"model.alpha", "loss.name"} and sum(shares.values()) == pytest.approx(1.0)


def test_a_sweep_in_pieces_draws_what_one_in_one_go_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "_RANDOM_TRIALS", 3)
    study.run(open_sweep(tmp_path / "whole"), total=8, should_stop=lambda: False)
    trained = []

    def killed_at_times(sweep, trial, config, should_stop):
        trained.append(trial.number)
        if len(trained) in (2, 7):
            raise KeyboardInterrupt  # as good as a kill: nothing is recorded
        return train(sweep, trial, config, should_stop)

    monkeypatch.setattr(study, "_train", killed_at_times)
    for total, killed in ((3, True), (3, False), (8, True), (8, False)):
        sweep = open_sweep(tmp_path / "pieces")
        if killed:
            with pytest.raises(KeyboardInterrupt):
                study.run(sweep, total=total, should_stop=lambda: False)
            assert [r.state for r in sweep.results()].count("running") == 1
        else:
            study.run(sweep, total=total, should_stop=lambda: False)
    assert trained == [0, 1, 1, 2, 3, 4, 5, 5, 6, 7]
    assert drawn(sweep) == drawn(open_sweep(tmp_path / "whole"))
    other = open_sweep(tmp_path / "seed", seed=1)
    study.run(other, total=3, should_stop=lambda: False)
    assert drawn(other)[1:] != drawn(sweep)[1:3]


def test_a_trial_that_another_process_trains_is_left_alone(tmp_path, monkeypatch):
    order = []

    def beside(sweep, trial, config, should_stop):
        order.append(trial.number)
        if trial.number == 0:  # while this one trains, another process works on the same folder
            study.run(open_sweep(tmp_path), total=3, should_stop=lambda: False)
        return train(sweep, trial, config, should_stop)

    monkeypatch.setattr(study, "_train", beside)
    sweep = open_sweep(tmp_path)
    study.run(sweep, total=3, should_stop=lambda: False)
    assert order == [0, 1, 2] and [r.state for r in sweep.results()] == ["complete"] * 3


def test_a_stop_leaves_the_trial_for_the_next_command(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "_train", lambda *_: None)
    stops = iter([False, True])
    sweep = open_sweep(tmp_path)
    study.run(sweep, total=3, should_stop=lambda: next(stops))
    assert [r.state for r in sweep.results()] == ["running"] and sweep.best() is None
    monkeypatch.setattr(study, "_train", train)
    study.run(sweep, total=3, should_stop=lambda: False)
    assert [r.state for r in sweep.results()] == ["complete"] * 3


def test_failures_are_recorded_and_the_search_goes_on(tmp_path, monkeypatch, capsys):
    errors = {1: UserError("loss or gradients are not finite at step 7"), 2: ValueError("shapes\ndiffer")}

    def failing(sweep, trial, config, should_stop):
        if trial.number in errors:
            raise errors[trial.number]
        return train(sweep, trial, config, should_stop)

    monkeypatch.setattr(study, "_train", failing)
    sweep = dataclasses.replace(open_sweep(tmp_path), reporter=PrintReporter())
    study.run(sweep, total=4, should_stop=lambda: False)
    results = sweep.results()
    assert [r.state for r in results] == ["complete", "failed", "failed", "complete"]
    assert results[1].error == "loss or gradients are not finite at step 7" and results[1].value is None
    assert results[2].error == "ValueError: shapes differ"
    assert "trial 001 failed: loss or gradients are not finite" in capsys.readouterr().out


def test_a_full_disk_ends_the_sweep_and_fails_no_trial(tmp_path, monkeypatch):
    def full(*_):
        try:
            raise OSError(28, "No space left on device")
        except OSError as e:
            raise UserError("no space left on the disk") from e

    monkeypatch.setattr(study, "_train", full)
    sweep = open_sweep(tmp_path)
    with pytest.raises(UserError, match="no space left"):
        study.run(sweep, total=3, should_stop=lambda: False)
    assert [r.state for r in sweep.results()] == ["running"]


@pytest.mark.parametrize("keep", [False, True])
def test_checkpoints_of_the_best_are_kept(tmp_path, keep):
    sweep = open_sweep(tmp_path, keep=keep)
    study.run(sweep, total=6, should_stop=lambda: False)
    kept = [int(path.parent.name) for path in sorted(tmp_path.glob("trials/*/checkpoints"))]
    assert kept == (list(range(6)) if keep else [sweep.best().number])


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_a_trial_that_falls_behind_is_pruned(tmp_path, monkeypatch, pruner):
    def reports(sweep, trial, config, should_stop):
        value = 0.5 if trial.number < 6 else 0.1
        for epoch in range(1, 9):
            trial.report(value, epoch)
            if trial.should_prune():
                return {"state": TrialState.PRUNED, "epochs": epoch, "seconds": 0.0}
        return {"state": TrialState.COMPLETE, "value": value, "epochs": 8, "seconds": 0.0}

    monkeypatch.setattr(study, "_train", reports)
    sweep = open_sweep(tmp_path, pruner=pruner)
    study.run(sweep, total=12, should_stop=lambda: False)
    pruned = [r for r in sweep.results() if r.state == "pruned"]
    assert pruned and all(r.number >= 6 and r.value == 0.1 and r.epochs < 8 for r in pruned)
    assert sweep.best().value == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "is a sweep with another --seed"),
        ({"axes": AXES[:1]}, "is a sweep with another --search"),
        ({"config": Config}, "is a sweep with config.train.num_epochs=8, not 20"),
    ],
)
def test_a_folder_is_one_sweep(tmp_path, change, message):
    open_sweep(tmp_path)
    with pytest.raises(UserError, match=message):
        open_sweep(tmp_path, **change)


RESULTS = [
    Result(0, "complete", 0.20, {"model.alpha": 0.5, "loss.name": "bpr"}, 8, 1.0, ""),
    Result(1, "failed", None, {"model.alpha": 0.1, "loss.name": "bpr"}, None, None, "not finite"),
    Result(2, "pruned", 0.25, {"model.alpha": 0.9, "loss.name": "bpr"}, 2, 0.5, ""),
    Result(3, "complete", 0.30, {"model.alpha": 0.25, "loss.name": "debiased_contrastive"}, 8, 1.5, ""),
]


def test_table_and_csv_are_sorted_by_value(tmp_path):
    table = sweep_report.table(RESULTS, AXES, "ndcg@20").splitlines()
    assert table[0].split() == ["trial", "ndcg@20", "model.alpha", "loss.name", "epochs", "seconds", "state"]
    assert [line.split()[0] for line in table[1:5]] == ["003", "000", "002", "001"]
    assert table[1].split() == ["003", "0.3000", "0.25", "debiased_contrastive", "8", "1.5", "complete"]
    assert table[5] == "trial 001 failed: not finite"
    sweep_report.write_csv(RESULTS, AXES, "ndcg@20", tmp_path / "trials.csv")
    lines = (tmp_path / "trials.csv").read_text().splitlines()
    assert lines[0] == "trial,state,ndcg@20,model.alpha,loss.name,epochs,seconds,error"
    assert lines[1] == "3,complete,0.3,0.25,debiased_contrastive,8,1.5,"
    assert lines[4] == "1,failed,,0.1,bpr,,,not finite"


def test_the_picture_shows_every_trial_and_the_best_in_bold(tmp_path):
    axes = (Axis("train.learning_rate", low=1e-4, high=1.0, log=True), Axis("model.num_layers", low=1, high=5))
    values = [(1e-4, 1, 0.1), (1e-2, 3, 0.4), (1.0, 5, 0.2)]
    results = [
        Result(i, "complete", value, {"train.learning_rate": rate, "model.num_layers": layers}, 8, 1.0, "")
        for i, (rate, layers, value) in enumerate(values)
    ]
    drawing = sweep_report.figure(results, axes, "ndcg@20")
    frame = drawing.axes[0]
    # The trials' lines go from the first axis to the last: x = 0, 1, 2.
    lines = [line for line in frame.lines if list(line.get_xdata()) == [0, 1, 2] and line.get_linestyle() == "-"]
    heights = sorted(tuple(round(float(y), 6) for y in line.get_ydata()[:2]) for line in lines)
    assert heights == [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)]
    bold = max(lines, key=lambda line: line.get_linewidth())
    assert bold.get_ydata()[2] == max(line.get_ydata()[2] for line in lines)
    assert len({line.get_color() for line in lines}) == 3
    texts = [text.get_text() for text in frame.texts]
    assert {"train.learning_rate (log)", "model.num_layers", "ndcg@20", "0.4000", "0.0001", "0.01", "5"} <= set(texts)
    sweep_report.draw(results, axes, "ndcg@20", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("results", [RESULTS, RESULTS[:1], [RESULTS[0], dataclasses.replace(RESULTS[0], number=4)]])
def test_pictures_of_few_trials(results, tmp_path):
    sweep_report.draw(results, AXES, "ndcg@20", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000


def test_a_database_that_is_damaged_or_cannot_grow_is_named(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(UserError, match=r"study\.db: cannot be read or written \(.*disk.*\); free some space"):
            open_sweep(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (tmp_path / "study.db").write_bytes(b"x" * 5000)
    with pytest.raises(UserError, match=r"study\.db: cannot be read or written \(file is not a database\); free"):
        open_sweep(tmp_path)
