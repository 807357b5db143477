"""docs/data.md describes every file and column of the schema."""

from pathlib import Path

import pyarrow as pa

from music_map.raw.schema import EVENT_SCHEMAS, ITEM_SCHEMAS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/data.md").read_text()


def test_every_file_and_column_of_the_schema_is_described():
    for name, schema in {**EVENT_SCHEMAS, **ITEM_SCHEMAS}.items():
        assert f"{name}.parquet" in TEXT
        assert isinstance(schema, pa.Schema)
        assert [column for column in schema.names if f"`{column}`" not in TEXT] == []
