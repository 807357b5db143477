"""From an export to its map in one call: import, train with sizes that fit, evaluate, draw the map."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from music_map.convert.importing import import_logs
from music_map.convert.presets import AUTO
from music_map.convert.summary import lines_of, notes_of
from music_map.map.export import installed, make_map
from music_map.reporter import PrintReporter, Reporter
from music_map.run import api
from music_map.run.evaluation import report_table, verdict
from music_map.run.logs import Logs
from music_map.run.recommender import Recommender
from music_map.run.run import Run
from music_map.storage import write_text

# Minutes without a play that end a sitting.
PAUSE = 30.0
_ALONE = (
    "one listener: nothing can be learnt of who likes what, nor of songs that were never played, and the export has no "
    "sound. What can be learnt is which songs are played in one sitting: the map shows that, and recommendations are "
    "songs of your own. To find others, import the exports of several people, or playlists (mpd), as one log"
)


@dataclasses.dataclass(frozen=True)
class Started:
    """What `start` made.

    Attributes:
      run: the trained run; its training was stopped where `page` is None.
      results: the model beside the baselines, see `music_map.run.evaluation.report`; None where it was stopped.
      page: the map.
    """

    run: Run
    results: dict[str, Any] | None
    page: Path | None


def start(
    paths: Sequence[str | Path],
    workdir: str | Path,
    *,
    preset: str = AUTO,
    settings: Mapping[str, Any] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    reporter: Reporter | None = None,
    **options: Any,
) -> Started:
    """Imports an export, trains on it, and writes WORKDIR/map.html. The same call goes on after a stop.

    The log of one listener is cut into sittings, each of which counts as a user: see
    `music_map.convert.settings.ColumnMapping`.

    Args:
      paths: files, folders or archives (ZIP, TAR) of the export.
      workdir: folder of the run; it gets the logs too.
      preset: its name, see `music_map.convert.presets`; "auto": told by the files.
      settings, options: as for `music_map.train`; what is left out follows from the logs.
      should_stop: see `music_map.train`.
      reporter: gets messages and progress; by default they are printed.

    Raises:
      UserError: the export cannot be read, or has too little to learn from.
    """
    reporter, workdir = reporter or PrintReporter(), Path(workdir).expanduser()
    given = [Path(path).expanduser() for path in paths]
    folder, told = workdir / "logs", {"overwrite": True, "reporter": reporter}
    found, summary = import_logs(preset, given, folder, **told)
    alone = summary.num_users == 1
    if alone:
        found, summary = import_logs(found.preset, given, folder, **told, changes={"sittings": PAUSE})
    for line in lines_of(summary):
        reporter.say(line)
    for note in [*([_ALONE] if alone else []), *notes_of(summary, found.notes)]:
        reporter.warn(note)
    run = api.prepare(Logs(folder, "own", summary), workdir, settings=settings, reporter=reporter, **options)
    trained = api.train_prepared(run, should_stop=should_stop)
    if trained.report is None:
        return Started(run, None, None)
    metric = run.config.eval.metric
    reporter.say(f"\n{verdict(trained.report, metric=metric)}\n{report_table(trained.report, metric=metric)}\n")
    page = workdir / "map.html"
    made = make_map(
        Recommender.load(workdir, index="exact", reporter=reporter),
        title=given[0].stem,
        source=str(workdir),
        method="umap" if installed() else "pca",
        reporter=reporter,
    )
    write_text(page, made.html)
    return Started(run, trained.report, page)
