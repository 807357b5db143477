"""The events of a block of users: the unit of work, computed alone and of bounded size."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from music_map.synthetic.catalogue import Catalogue, build_catalogue
from music_map.synthetic.listens import Listens, listens_of_block
from music_map.synthetic.marks import Marks, Quota, marks_of_block, quotas
from music_map.synthetic.settings import Settings
from music_map.synthetic.streams import Stream, generator
from music_map.synthetic.users import Users, build_users, draw_tastes

# Part of the format: the users of a block share a random stream, so other limits give other rows.
BLOCK_USERS = 64
BLOCK_LISTENS = 1_000_000


class World(NamedTuple):
    """Data shared by all blocks; its memory grows with songs and users, not with events.

    Attributes:
      settings: what is generated.
      catalogue: the songs.
      users: the users, in the order of the files.
      offsets: int64 [blocks + 1]; block b holds users offsets[b]:offsets[b + 1].
      quotas: rows of the likes, dislikes and withdrawals of each block.
    """

    settings: Settings
    catalogue: Catalogue
    users: Users
    offsets: np.ndarray
    quotas: list[Quota]

    @property
    def num_blocks(self) -> int:
        return len(self.offsets) - 1


class BlockEvents(NamedTuple):
    """Events of the users first_user, first_user + 1, ...; `user` of the rows counts from first_user."""

    first_user: int
    listens: Listens
    marks: dict[str, Marks]


def block_offsets(num_listens: np.ndarray) -> np.ndarray:
    """Cuts users into blocks of at most BLOCK_USERS users and, unless one has more, BLOCK_LISTENS listens.

    Args:
      num_listens: int64 [U].

    Returns:
      int64 [blocks + 1].
    """
    offsets, users, rows = [0], 0, 0
    for user, n in enumerate(num_listens.tolist()):
        if users and (users == BLOCK_USERS or rows + n > BLOCK_LISTENS):
            offsets.append(user)
            users = rows = 0
        users, rows = users + 1, rows + n
    return np.array([*offsets, len(num_listens)], np.int64)


def build_world(settings: Settings) -> World:
    """Draws catalogue and users."""
    users = build_users(settings)
    offsets = block_offsets(users.num_listens)
    parts = np.add.reduceat(users.num_listens, offsets[:-1])
    return World(settings, build_catalogue(settings), users, offsets, quotas(settings, parts))


def block_events(world: World, block: int) -> BlockEvents:
    """The events of one block; depends on the settings and the block's number only."""
    rng = generator(world.settings.seed, Stream.EVENTS, block)
    chosen = slice(int(world.offsets[block]), int(world.offsets[block + 1]))
    users = world.users
    start, end = users.start[chosen], users.end[chosen]
    tastes = draw_tastes(world.catalogue, chosen.stop - chosen.start, rng)
    listens = listens_of_block(
        world.catalogue, tastes, users.num_listens[chosen], start, end, rng, settings=world.settings
    )
    marks = marks_of_block(
        world.catalogue, tastes, listens, users.num_shelf_likes[chosen], start, end, world.quotas[block], rng
    )
    return BlockEvents(chosen.start, listens, marks)
