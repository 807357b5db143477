"""notebooks/colab.ipynb: stored without outputs, and it runs from install to map, on tiny logs."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs the extra dev: nbformat comes with nbclient")
nbclient = pytest.importorskip("nbclient", reason="needs the extra dev")

ROOT = Path(__file__).resolve().parents[1]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TINY = {
    "MUSIC_MAP_SIZE": "tiny",
    "MUSIC_MAP_EPOCHS": "2",
    "MUSIC_MAP_DIMENSIONS": "16",
    "MUSIC_MAP_PROJECTION": "pca",
}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_no_outputs_are_stored(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells and not any(cell.outputs or cell.execution_count for cell in cells)


# The kernel's client warns of its own: event loops, sockets.
@pytest.mark.filterwarnings("default")
def test_the_notebook_runs(tmp_path, monkeypatch):
    for name, value in (TINY | {"MUSIC_MAP_FOLDER": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XLA_FLAGS", "")  # one device, as a notebook has
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = nbformat.read(ROOT / "notebooks/colab.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT / "notebooks")}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "playlist: [" in text and "users" in text, text[-3000:]
    tables = [
        output["data"]["text/html"] for output in outputs if "<table>" in output.get("data", {}).get("text/html", "")
    ]
    assert any("most_pop" in table and "ndcg@20" in table for table in tables)
    assert any("why (song: weight x similarity)" in table for table in tables)
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 2
    assert (tmp_path / "run/results.json").is_file() and (tmp_path / "map.html").is_file()
    assert "Traceback" not in text
