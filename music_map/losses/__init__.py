"""Training losses by name, each a pure function."""
