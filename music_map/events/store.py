"""The store of events: SQLite in WAL mode, or PostgreSQL by a URL.

    store = EventStore.open("events.sqlite")
    store.append([[Event("e1", "7", "123", "listen", 1_790_000_000, 0.9)]])
    store.histories({"7": None})["7"].events

What `append` has returned is on the disk: SQLite commits with synchronous=FULL, PostgreSQL with synchronous_commit=on.
Any number of processes may use one store at once.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from music_map.errors import UserError, disk_errors
from music_map.events.event import KINDS, Event, digest
from music_map.events.schema import EVENTS, FACTS, FORGOTTEN, METADATA, VERSION
from music_map.text import printable, shortened

# Latest events of a user that a recommendation reads.
MOST_HISTORY = 10_000
# Logs whose clock shows less than this have a clock of their own, which begins at 0 (Yambda); seconds since 1970.
_EARLIEST = 600_000_000
# Seconds to wait for another process's lock, for a connection, and for a statement.
_LOCK_SECONDS, _CONNECT_SECONDS, _STATEMENT_SECONDS = 5, 3, 15
# Values of one statement: SQLite takes 32,766.
_MOST_VALUES = 4_000
# Tries of a transaction that another process's insert of the same event has stopped.
_TRIES = 5
# Of PostgreSQL's advisory lock around the making of the tables.
_LOCK = 0x6D75736963

_DIALECTS = {"postgresql": postgresql, "sqlite": sqlite}
_COLUMNS = (EVENTS.c.id, EVENTS.c.user, EVENTS.c.song, EVENTS.c.kind, EVENTS.c.time, EVENTS.c.played)


class StoreUnavailable(Exception):
    """The database does not answer now, or cannot write; nothing of the call is kept. One line."""


class Conflict(UserError):
    """A batch has an event whose id is stored already with other content; nothing of the batch is kept.

    Attributes:
      entry: its place in the batch.
    """

    def __init__(self, entry: int, event: Event, fields: Sequence[str]):
        self.entry = entry
        super().__init__(
            f"events.{entry}.id: {shortened(event.id, 60)!r} is another event already, with another "
            f"{' and '.join(fields)}; nothing of this batch is stored"
        )


class Stored(NamedTuple):
    """What became of a batch: numbers of events.

    Attributes:
      stored: that are new.
      repeated: that were there already, with the same content.
      forgotten: left out, because they lie before the deletion of their user.
    """

    stored: int
    repeated: int
    forgotten: int


class History(NamedTuple):
    """What the store knows of a user.

    Attributes:
      events: the latest, by time.
      forgotten: whether the user was deleted at some time: then only these events count.
    """

    events: list[Event]
    forgotten: bool


class Profile(NamedTuple):
    """What a user's events are: counts by kind, distinct songs, and the times of the first and the last event."""

    events: dict[str, int]
    songs: int
    first: int | None
    last: int | None
    forgotten: int | None


class EventStore:
    """Events in a database. Methods may be called from several threads.

    Args:
      engine: of the database, with its tables.
      name: of the database, for messages.
      epoch: seconds since 1970 at which the logs' clock shows 0.
    """

    def __init__(self, engine: sa.Engine, name: str, epoch: int):
        self._engine, self.name, self.epoch = engine, name, epoch

    @classmethod
    def open(cls, url: str | Path, *, present: int | None = None) -> EventStore:
        """Opens a store, and makes its tables where they are missing.

        Args:
          url: a file for SQLite, or a URL such as postgresql://user@host/name.
          present: the last second of the model's logs; None: their clock is that of 1970. Where it is no date after
            1989, the logs have a clock of their own: a new store notes that it shows `present` now.

        Raises:
          UserError: the database cannot be opened, or is of another version.
        """
        engine, name = _engine(url)
        epoch = 0 if present is None or present >= _EARLIEST else int(time.time()) - present
        store = cls(engine, name, epoch)
        try:
            with store._writing() as connection:
                if engine.dialect.name == "postgresql":
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
                METADATA.create_all(connection)
                facts = dict(connection.execute(sa.select(FACTS.c.name, FACTS.c.value)).all())
                if not facts:
                    facts = {"version": VERSION, "epoch": epoch}
                    connection.execute(FACTS.insert(), [{"name": n, "value": v} for n, v in facts.items()])
        except StoreUnavailable as e:
            store.close()
            raise UserError(f"{e}; give another --events=FILE or URL") from e
        if facts.get("version") != VERSION:
            store.close()
            raise UserError(f"{name}: a store of another version of this project; give another --events=FILE or URL")
        store.epoch = facts["epoch"]
        return store

    def close(self) -> None:
        """Ends the connections."""
        self._engine.dispose()

    def append(self, batches: Sequence[Sequence[Event]]) -> list[Stored | Conflict]:
        """Stores batches, each whole or not at all, in one transaction; they are on the disk when this returns.

        Returns:
          What became of each batch, or why nothing of it is stored.

        Raises:
          StoreUnavailable: nothing is stored, or nobody knows: the same call again is safe.
        """
        tries = 0
        while True:
            try:
                with self._writing() as connection:
                    if self._engine.dialect.name == "postgresql":
                        # With the lock of `forget`: no event of a deleted user slips in.
                        connection.exec_driver_sql(f"lock table {EVENTS.name} in row exclusive mode")
                    found, new = self._judge(connection, batches)
                    if new:
                        rows = [{**event._asdict(), "kind": KINDS.index(event.kind)} for event in new]
                        connection.execute(EVENTS.insert(), rows)
                return found
            except StoreUnavailable as e:
                # Another process was quicker with the same event: look again.
                tries += 1
                if tries == _TRIES or not (isinstance(e.__cause__, IntegrityError) or _is_deadlock(e.__cause__)):
                    raise

    def histories(self, users: Mapping[str, int | None]) -> dict[str, History]:
        """The latest events of users, at most MOST_HISTORY of each.

        Args:
          users: for each the second after which events are wanted; None: all.

        Raises:
          StoreUnavailable: the database does not answer.
        """
        place = sa.func.row_number().over(
            partition_by=EVENTS.c.user, order_by=(EVENTS.c.time.desc(), EVENTS.c.number.desc())
        )
        since: dict[int, list[str]] = {}
        for user, after in users.items():
            since.setdefault(-1 if after is None else after, []).append(user)
        found: dict[str, list[Event]] = {user: [] for user in users}
        with self._reading() as connection:
            digests = {digest(user): user for user in users}
            wanted = sa.select(FORGOTTEN.c.digest).where(FORGOTTEN.c.digest.in_(list(digests)))
            forgotten = {digests[one] for one in connection.execute(wanted).scalars()}
            for after, names in since.items():
                # Of a deleted user all that has come since.
                parts = [[n for n in names if n not in forgotten], [n for n in names if n in forgotten]]
                for part, second in zip(parts, (after, -1), strict=True):
                    if not part:
                        continue
                    rows = sa.select(*_COLUMNS, EVENTS.c.number, place.label("place")).where(
                        EVENTS.c.user.in_(part), EVENTS.c.time > second
                    )
                    latest = rows.subquery()
                    query = (
                        sa.select(*(latest.c[column.name] for column in _COLUMNS))
                        .where(latest.c.place <= MOST_HISTORY)
                        .order_by(latest.c.user, latest.c.time, latest.c.number)
                    )
                    for row in connection.execute(query):
                        found[row.user].append(_event(row))
        return {user: History(events, user in forgotten) for user, events in found.items()}

    def profile(self, user: str) -> Profile:
        """What is stored of a user. Raises StoreUnavailable."""
        with self._reading() as connection:
            mine = EVENTS.c.user == user
            counts = connection.execute(
                sa.select(EVENTS.c.kind, sa.func.count()).where(mine).group_by(EVENTS.c.kind).order_by(EVENTS.c.kind)
            ).all()
            songs, first, last = connection.execute(
                sa.select(
                    sa.func.count(sa.distinct(EVENTS.c.song)), sa.func.min(EVENTS.c.time), sa.func.max(EVENTS.c.time)
                ).where(mine)
            ).one()
            at = connection.execute(sa.select(FORGOTTEN.c.time).where(FORGOTTEN.c.digest == digest(user))).scalar()
        return Profile({KINDS[kind]: count for kind, count in counts}, songs, first, last, at)

    def forget(self, user: str) -> int:
        """Deletes a user's events, and notes that older ones shall not come again.

        Returns:
          The number of events deleted.

        Raises:
          StoreUnavailable: nothing is deleted, or nobody knows: the same call again is safe.
        """
        with self._writing() as connection:
            if self._engine.dialect.name == "postgresql":
                connection.exec_driver_sql(f"lock table {EVENTS.name} in share row exclusive mode")
            row = {"digest": digest(user), "time": int(time.time())}
            noted = _DIALECTS[self._engine.dialect.name].insert(FORGOTTEN).values(row)
            connection.execute(noted.on_conflict_do_update(index_elements=["digest"], set_={"time": row["time"]}))
            count = connection.execute(EVENTS.delete().where(EVENTS.c.user == user)).rowcount
        if self._engine.dialect.name == "sqlite":
            # The log of writes still has the rows; readers may keep a part of it for a while.
            with contextlib.suppress(StoreUnavailable), self._reading() as connection:
                connection.exec_driver_sql("pragma wal_checkpoint(truncate)")
        return count

    def forgotten(self) -> frozenset[str]:
        """The digests of all users who were deleted. Raises StoreUnavailable."""
        with self._reading() as connection:
            return frozenset(connection.execute(sa.select(FORGOTTEN.c.digest)).scalars())

    def count(self) -> int:
        """The number of events. Raises StoreUnavailable."""
        with self._reading() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(EVENTS)).scalar_one()

    def all(self, size: int = 50_000) -> Iterator[list[Event]]:
        """All events as of one moment, in the order of arrival. Raises StoreUnavailable."""
        query = sa.select(*_COLUMNS).order_by(EVENTS.c.number)
        with self._reading() as connection:
            for rows in connection.execution_options(stream_results=True).execute(query).partitions(size):
                yield [_event(row) for row in rows]

    def _judge(
        self, connection: sa.Connection, batches: Sequence[Sequence[Event]]
    ) -> tuple[list[Stored | Conflict], list[Event]]:
        """What becomes of each batch, and the events to insert."""
        ids = list({event.id for batch in batches for event in batch})
        digests = {user: digest(user) for user in {event.user for batch in batches for event in batch}}
        known: dict[str, Event] = {}
        for at in range(0, len(ids), _MOST_VALUES):
            rows = connection.execute(sa.select(*_COLUMNS).where(EVENTS.c.id.in_(ids[at : at + _MOST_VALUES])))
            known.update((row.id, _event(row)) for row in rows)
        ends: dict[str, int] = {}
        wanted = list(digests.values())
        for at in range(0, len(wanted), _MOST_VALUES):
            rows = sa.select(FORGOTTEN).where(FORGOTTEN.c.digest.in_(wanted[at : at + _MOST_VALUES]))
            ends.update(connection.execute(rows).all())
        found: list[Stored | Conflict] = []
        new: list[Event] = []
        for batch in batches:
            # A batch that is refused leaves nothing behind that a later one would repeat.
            own: dict[str, Event] = {}
            repeated = forgotten = 0
            for entry, event in enumerate(batch):
                before = known.get(event.id) or own.get(event.id)
                if before is not None and before != event:
                    differ = [name for name in Event._fields if getattr(before, name) != getattr(event, name)]
                    found.append(Conflict(entry, event, differ))
                    break
                if before is not None:
                    repeated += 1
                elif event.time <= ends.get(digests[event.user], -1):
                    forgotten += 1
                else:
                    own[event.id] = event
            else:
                found.append(Stored(len(own), repeated, forgotten))
                new += own.values()
                known |= own
        return found, new

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """A transaction that is committed at the end of the block."""
        with self._errors(), self._engine.connect().execution_options(music_map_writes=True) as connection:
            yield connection
            connection.commit()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._errors(), self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, OSError) as e:
            raise StoreUnavailable(f"{self.name}: {_cause(e)}") from e


def _event(row: Any) -> Event:
    return Event(row.id, row.user, row.song, KINDS[row.kind], row.time, row.played)


def _is_deadlock(error: BaseException | None) -> bool:
    return getattr(getattr(error, "orig", None), "sqlstate", None) in ("40P01", "40001")


def _cause(error: Exception) -> str:
    """An error of a database in one line: the first, without SQL and values."""
    origin = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    text = printable((str(origin).strip() or type(origin).__name__).splitlines()[0])
    if "disk is full" in text or getattr(origin, "sqlstate", None) == "53100":
        return f"no space left on the disk ({text}); free some"
    return text


def _engine(url: str | Path) -> tuple[sa.Engine, str]:
    """The engine of a file or a URL, and the name for messages: without a password."""
    text = os.fspath(url)
    if "://" not in text:
        path = Path(text).expanduser()
        if path.is_dir():
            raise UserError(f"{path}: is a folder; give a file")
        return _sqlite(sa.URL.create("sqlite", database=str(path))), str(path)
    try:
        parsed = sa.make_url(text)
        kind = parsed.get_backend_name()
    except (ArgumentError, ValueError) as e:
        raise UserError("the URL of the events cannot be read; it is like postgresql://user@host:5432/name") from e
    if kind == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise UserError(f"{text}: names no file; give sqlite:///FILE, or the file alone")
        return _sqlite(parsed.set(drivername="sqlite")), parsed.database
    if kind not in ("postgresql", "postgres"):
        raise UserError(f"{kind}://: no kind of database for events; give a file for SQLite, or postgresql://...")
    name = parsed.render_as_string(hide_password=True)
    try:
        engine = sa.create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            pool_timeout=_CONNECT_SECONDS,
            connect_args={
                "connect_timeout": _CONNECT_SECONDS,
                "options": f"-c lock_timeout={_LOCK_SECONDS}s -c statement_timeout={_STATEMENT_SECONDS}s "
                "-c synchronous_commit=on",
            },
        )
    except (ModuleNotFoundError, NoSuchModuleError) as e:
        raise UserError(
            f"{name} needs the package psycopg, which is not installed: pip install 'music-map[postgres]'"
        ) from e
    return engine, name


def _sqlite(url: sa.URL) -> sa.Engine:
    path = Path(url.database)
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}; make it, or give another --events=FILE or URL")
    with disk_errors(path):
        # Not readable for others: it says who listens to what.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    # Transactions begin as `begin` says, not at the driver's first write.
    engine = sa.create_engine(url, connect_args={"timeout": _LOCK_SECONDS, "isolation_level": None})

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        # FULL: the log of writes is on the disk before a commit returns. secure_delete: what is deleted is overwritten.
        for line in ("journal_mode=wal", "synchronous=full", "secure_delete=on"):
            connection.execute(f"pragma {line}").close()

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # The lock at the beginning: a transaction that reads first could not wait for it later.
        writes = connection.get_execution_options().get("music_map_writes")
        connection.exec_driver_sql("begin immediate" if writes else "begin")

    return engine
