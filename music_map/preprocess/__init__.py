"""Logs to NumPy shards: weights, filter, integer ids, temporal split, item features."""
