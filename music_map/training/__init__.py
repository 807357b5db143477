"""Sampling, optimizer, training step, checkpoints and the loop."""
