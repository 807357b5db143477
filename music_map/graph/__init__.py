"""Shards to the bipartite graph of users and songs, with negative edges apart."""
