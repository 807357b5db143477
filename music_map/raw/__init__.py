"""Raw logs: the schema of the Parquet files, their download and their streaming reader."""
