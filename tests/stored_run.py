"""The run that is stored with the tests: trained by commit 257b738 on tiny generated logs, with recency."""

import tarfile
from pathlib import Path

DATA = Path(__file__).resolve().parent / "data"


def extract_run(folder: Path) -> Path:
    """Puts the run and its processed data into a folder; returns the run's."""
    with tarfile.open(DATA / "run_of_257b738.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    # Its config.json names the processed data by the place where they are now.
    config = folder / "run/config.json"
    config.write_text(config.read_text().replace('"OLD/', f'"{folder}/'))
    return folder / "run"
