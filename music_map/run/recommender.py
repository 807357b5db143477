"""The recommender of a run that any version of this project trained."""

from __future__ import annotations

from pathlib import Path

from music_map.errors import DamagedFileError
from music_map.reporter import SILENT, Reporter
from music_map.retrieval import recommender
from music_map.retrieval.export import FOLDER, is_current
from music_map.retrieval.index import missing
from music_map.retrieval.recommender import retrieval_settings


class Recommender(recommender.Recommender):
    """`music_map.retrieval.recommender.Recommender`, whose `load` exports the model first where that is missing."""

    @classmethod
    def load(
        cls,
        workdir: str | Path,
        *,
        index: str | None = None,
        now: int | None = None,
        reporter: Reporter = SILENT,
    ) -> Recommender:
        """The recommender of a trained run.

        With an export of this version, neither logs nor training code are needed. A missing, damaged or older export is
        made again from the best checkpoint and the run's data.

        Args:
          workdir: folder of a run of launch/train.py.
          index: "exact" or "scann", in place of the saved index and the configuration's choice.
          now: the present, in seconds, not before that of the logs; None: that of the logs.
          reporter: shows a new export.

        Raises:
          UserError: the run is not trained yet, its data is gone, or its index is another checkpoint's.
          DamagedFileError: a file is missing or damaged; names it.
        """
        workdir = Path(workdir).expanduser()
        folder = workdir / FOLDER
        try:
            if is_current(folder):
                return cls._open(workdir, index, now, reporter)
            why = "was written by an older version" if folder.exists() else "is not there"
        except DamagedFileError as e:
            if str(folder) not in str(e):
                raise
            why = f"is damaged ({e})"
        # Training code takes seconds to import, and a run that is exported does not need it.
        from music_map.run.export import export_again

        export_again(workdir, why, reporter=reporter)
        return cls._open(workdir, index, now, reporter)

    @classmethod
    def _open(cls, workdir: Path, index: str | None, now: int | None, reporter: Reporter) -> Recommender:
        opened = super().load(workdir, index=index, now=now)
        if line := missing(index or retrieval_settings(workdir).index, opened.index.num_items):
            reporter.warn(line)
        return opened
