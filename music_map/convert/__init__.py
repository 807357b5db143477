"""Own logs to the schema and layout of Yambda: any CSV, JSON lines or Parquet with a column for user, song and time."""
