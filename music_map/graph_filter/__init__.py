"""The graph filter: a closed-form view of the graph, song to song, mixed with the encoder's score."""
