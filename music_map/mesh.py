"""The mesh of all devices, and arrays laid out on it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from music_map.axis import NAME


def host_memory() -> contextlib.AbstractContextManager:
    """A context in which new arrays stay in the host's memory instead of the first device's."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
        return contextlib.nullcontext()


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of one axis over the devices; None: all devices of all processes."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (NAME,), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays that every device has whole."""
    return NamedSharding(mesh, P())


def by_rows(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays whose rows are cut over the devices."""
    return NamedSharding(mesh, P(NAME))


def replicate(mesh: Mesh, tree):
    """Puts every leaf whole on all devices; all processes must have it."""
    sharding = replicated(mesh)
    return jax.tree.map(lambda x: put(sharding, np.asarray(x)), tree)


def put(sharding: NamedSharding, array: np.ndarray) -> jax.Array:
    """Puts an array, which this process has whole, on its devices of a mesh; each device gets its part."""
    return jax.make_array_from_callback(array.shape, sharding, lambda at: array[at])


def put_parts(mesh: Mesh, part: Callable[[int], object]):
    """Stacks one part per device by rows; a process makes only the parts of its own devices.

    Args:
      mesh: the devices.
      part: number of a device -> pytree of NumPy arrays, shaped alike on all devices.

    Returns:
      The pytree with arrays [n R, ...], from parts with arrays [R, ...].
    """
    sharding, devices = by_rows(mesh), list(mesh.devices.flat)
    own = [(d, device) for d, device in enumerate(devices) if device.process_index == jax.process_index()]
    parts = [jax.tree.map(lambda x, to=device: jax.device_put(np.asarray(x), to), part(d)) for d, device in own]

    def stack(*pieces: jax.Array) -> jax.Array:
        rows, *rest = pieces[0].shape
        return jax.make_array_from_single_device_arrays((rows * len(devices), *rest), sharding, list(pieces))

    return jax.tree.map(stack, *parts)


def to_host(x: jax.Array) -> np.ndarray:
    """The whole array in this process's memory. If it is on several hosts, all processes must call this."""
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    return np.asarray(jax.jit(lambda y: y, out_shardings=replicated(x.sharding.mesh))(x))
