"""LightGCN++: fusion of item features and propagation over the bipartite graph."""
