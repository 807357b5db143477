"""The tables of the store, the same in SQLite and PostgreSQL."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, MetaData, SmallInteger, String, Table

from music_map.events.event import MOST_EVENT_ID, MOST_ID

# Raised when a table changes; a store of another version is refused.
VERSION = 1

METADATA = MetaData()
# In the order of arrival: several events of one second keep it.
_NUMBER = BigInteger().with_variant(Integer, "sqlite")

EVENTS = Table(
    "music_map_events",
    METADATA,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("id", String(MOST_EVENT_ID), nullable=False, unique=True),
    Column("user", String(MOST_ID), nullable=False),
    Column("song", String(MOST_ID), nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("played", Float(53), nullable=False),
)
Index("music_map_events_user_time", EVENTS.c.user, EVENTS.c.time, EVENTS.c.number)

# Users who were deleted: the sha256 of the id, and when.
FORGOTTEN = Table(
    "music_map_forgotten",
    METADATA,
    Column("digest", String(64), primary_key=True),
    Column("time", BigInteger, nullable=False),
)

# Facts of the store: its version, and the second of 1970's clock at which the logs' clock shows 0.
FACTS = Table(
    "music_map_facts",
    METADATA,
    Column("name", String(32), primary_key=True),
    Column("value", BigInteger, nullable=False),
)
