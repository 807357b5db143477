"""Training on many devices and many hosts: meshes, the partition of the graph, runners, processes."""
