"""The mesh of all devices, and arrays laid out on it."""

from __future__ import annotations

import contextlib
import functools
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


def own_positions(mesh: Mesh) -> list[int]:
    """The positions in a mesh of this process's devices."""
    return [d for d, device in enumerate(mesh.devices.flat) if device.process_index == jax.process_index()]


def on_one_device(x: jax.Array | np.ndarray) -> jax.Array:
    """An array for a program of one device: rows that are cut over several are moved to the first."""
    # device_put compiles nothing; jnp.asarray compiles a copy for each shape.
    x = x if isinstance(x, jax.Array) else jax.device_put(x)
    return x if len(x.devices()) == 1 else jax.device_put(np.asarray(x))


def put_own(mesh: Mesh, tree):
    """Puts rows that only this process has on its devices: [m R, ...], m own devices -> [n R, ...] on all n."""
    at = {d: k for k, d in enumerate(own_positions(mesh))}

    def part(device: int):
        def rows(x: np.ndarray) -> np.ndarray:
            size = len(x) // len(at)
            return x[at[device] * size : (at[device] + 1) * size]

        return jax.tree.map(rows, tree)

    return put_parts(mesh, part)


def own_rows(x: jax.Array) -> np.ndarray:
    """The rows of an array that are on this process's devices: the inverse of `put_own`."""
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


# Bytes of an array that every device receives at once when its rows are collected from several hosts.
_COLLECTED = 64 * 2**20


def to_host(x: jax.Array) -> np.ndarray:
    """The whole array in this process's memory. If its rows are on several hosts, all processes must call this.

    Rows of a large array come in pieces, so no device ever has the whole array.
    """
    if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    mesh = x.sharding.mesh
    if x.nbytes <= _COLLECTED:
        return np.asarray(jax.jit(lambda y: y, out_shardings=replicated(mesh))(x))
    rows = x.shape[0] // mesh.size
    size = int(np.clip(_COLLECTED // max(x.nbytes // rows, 1), 1, rows))
    found = np.empty((mesh.size, rows, *x.shape[1:]), x.dtype)
    for start in range(0, rows, size):
        at = min(start, rows - size)  # the last piece overlaps: one shape, one compilation
        piece = np.asarray(_collect(x, np.int32(at), mesh=mesh, size=size))
        found[:, at : at + size] = piece.reshape(mesh.size, size, *x.shape[1:])
    return found.reshape(x.shape)


@functools.partial(jax.jit, static_argnames=("mesh", "size"))
def _collect(x: jax.Array, start: jax.Array, *, mesh: Mesh, size: int) -> jax.Array:
    """Rows start:start + size of every device's part, on all devices: [n size, ...]."""

    def gather(part: jax.Array, start: jax.Array) -> jax.Array:
        return jax.lax.all_gather(jax.lax.dynamic_slice_in_dim(part, start, size), NAME, tiled=True)

    return jax.shard_map(gather, mesh=mesh, in_specs=(P(NAME), P()), out_specs=P(), check_vma=False)(x, start)
