"""Configurations: one file per experiment, each with the result to expect."""
