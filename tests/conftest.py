"""Strict tests: warnings are errors, rank promotion raises, eight virtual CPU devices."""

import os

# Before jax is imported anywhere in the process.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
