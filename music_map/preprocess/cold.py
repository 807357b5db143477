"""Songs held out altogether, to measure how well a song without interactions is placed.

A held-out song stays in the data set with its audio, artists and albums, and none of its interactions is in train, val
or test: nothing that learns can see one, whichever split it reads. They are kept apart, those of all times, as the
targets of the protocol `cold_start`: validation measures half of the users, drawn by a hash of their ids, test the
other half, so that what is chosen on the one is measured on the other.

Targets of the test period alone would be the truer picture of a new release, and there are too few: where people come
and go, as in a log of ratings, hardly anyone has both a history in train and events after it. What counting all times
gives away is that a target may lie before some of the history that it is predicted from.
"""

from __future__ import annotations

import numpy as np

from music_map.errors import UserError

# Not a seed that a configuration could give: the halves are the same in every run.
_USERS = 2**63


def validation_users(user_ids: np.ndarray) -> np.ndarray:
    """Whose interactions with held-out songs validation measures, bool [U]; the others are left to test."""
    return _hash(user_ids, _USERS) < 0.5


def held_out_songs(item_ids: np.ndarray, *, fraction: float, seed: int) -> np.ndarray:
    """Which songs are held out: those whose hashed id is below `fraction` of the range of the hash.

    A song's lot depends on its id and the seed alone: not on the order of the files, the filter or the other songs. A
    larger fraction holds out the same songs and more.

    Args:
      item_ids: uint32 [I], original ids.
      fraction: expected share of the songs, in [0, 1).
      seed: at least 0.

    Returns:
      bool [I].

    Raises:
      UserError: the fraction is above 0 and holds out no song, or all.
    """
    held_out = _hash(item_ids, seed) < fraction
    if fraction and (held_out.all() or not held_out.any()):
        raise UserError(
            f"config.data.cold_item_fraction={fraction} holds out {int(held_out.sum())} of {len(item_ids)} songs; "
            "choose another fraction or another --config.data.cold_item_seed"
        )
    return held_out


def _hash(values: np.ndarray, seed: int) -> np.ndarray:
    """Uniform in [0, 1), float64: two rounds of SplitMix64's finaliser, the seed mixed in between."""
    return (_mix(_mix(values.astype(np.uint64)) ^ np.uint64(seed)) >> np.uint64(11)) * 2.0**-53


def _mix(x: np.ndarray) -> np.ndarray:
    # Arrays of unsigned integers wrap around without a warning.
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)
