"""The snippet of data/README.md that turns a CSV into listens, run as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from music_map.raw.reader import open_events
from music_map.raw.schema import EVENT_SCHEMAS, ITEM_SCHEMAS, LISTENS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "data/README.md").read_text()


def test_the_csv_snippet_writes_listens_that_the_reader_takes(tmp_path):
    (tmp_path / "listens.csv").write_text(
        "timestamp,uid,item_id,country,track_length_seconds,is_organic,played_ratio_pct\n"
        "1700000300,7,11,PT,180,1,100\n"
        "1700000100,7,12,PT,200,0,35\n"
        "1700000200,3,11,NO,180,1,120\n"
    )
    [snippet] = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, check=True)

    raw = tmp_path / "data/raw"
    table = parquet.read_table(raw / "flat/mine/listens.parquet")
    assert table.schema.equals(LISTENS)
    assert table.to_pylist()[0] == {
        "uid": 3,
        "timestamp": 1_700_000_200,
        "item_id": 11,
        "is_organic": 1,
        "played_ratio_pct": 120,
        "track_length_seconds": 180,
    }
    [batch] = open_events(raw, "mine")["listens"].batches(LISTENS.names)
    assert batch["uid"].tolist() == [3, 7, 7]
    assert batch["item_id"].tolist() == [11, 12, 11]


def test_every_file_and_column_of_the_schema_is_described():
    for name, schema in {**EVENT_SCHEMAS, **ITEM_SCHEMAS}.items():
        assert f"{name}.parquet" in TEXT
        assert isinstance(schema, pa.Schema)
        assert [column for column in schema.names if f"`{column}`" not in TEXT] == []
