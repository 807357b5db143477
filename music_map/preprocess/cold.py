"""Songs held out altogether, to measure how well a model recommends songs without interactions.

A held-out song stays in the data set with its audio, artists and albums, but none of its interactions is in train, val
or test, so no model can learn from one. Its interactions of all times are stored apart, as the targets of the protocol
`cold_start`. Validation measures half of the users, drawn by a hash of their ids, and test the other half, so choices
made on one half are measured on the other.

Targets of the test period alone would describe a new release better, but there are too few: in logs where users come
and go, such as ratings, hardly anyone has both a history in train and later events. The price of counting all times:
a target may be earlier than a part of the history that predicts it.
"""

from __future__ import annotations

import numpy as np

from music_map.errors import UserError

# No configuration can give these seeds: the halves, and the new users, are the same in every run.
_USERS, _NEW_USERS = 2**63, 2**63 + 1


def validation_users(user_ids: np.ndarray) -> np.ndarray:
    """The users whose interactions with held-out songs validation measures, bool [U]; test measures the others."""
    return _hash(user_ids, _USERS) < 0.5


def new_users(user_ids: np.ndarray, *, fraction: float) -> np.ndarray:
    """The users whom the protocol `fold_in` takes out of training, bool [U]: those with the least hashed ids."""
    return _hash(user_ids, _NEW_USERS) < fraction


def held_out_songs(item_ids: np.ndarray, *, fraction: float, seed: int) -> np.ndarray:
    """Chooses the held-out songs: those whose hashed id is below `fraction` of the hash's range.

    The choice depends on the song's id and the seed alone, not on the order of files, the filter or other songs. A
    larger fraction holds out the same songs and more.

    Args:
      item_ids: uint32 [I], original ids.
      fraction: expected share of the songs, in [0, 1).
      seed: at least 0.

    Returns:
      bool [I].

    Raises:
      UserError: the fraction is above 0 and holds out no song or all songs.
    """
    held_out = _hash(item_ids, seed) < fraction
    if fraction and (held_out.all() or not held_out.any()):
        raise UserError(
            f"config.data.cold_item_fraction={fraction} holds out {int(held_out.sum())} of {len(item_ids)} songs; "
            "choose another fraction or another --config.data.cold_item_seed"
        )
    return held_out


def _hash(values: np.ndarray, seed: int) -> np.ndarray:
    """Hashes, uniform in [0, 1), float64: two rounds of SplitMix64's finaliser with the seed mixed in between."""
    return (_mix(_mix(values.astype(np.uint64)) ^ np.uint64(seed)) >> np.uint64(11)) * 2.0**-53


def _mix(x: np.ndarray) -> np.ndarray:
    # Overflow is intended: NumPy's unsigned arrays wrap around without a warning.
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)
