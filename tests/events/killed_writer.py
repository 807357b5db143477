"""A process that stores events until it is killed."""

import contextlib
import multiprocessing

from music_map.events.event import Event
from music_map.events.store import EventStore, StoreUnavailable


def _append_for_ever(url, told):
    store, number = EventStore.open(url), 0
    with contextlib.suppress(StoreUnavailable):
        while True:
            store.append([[Event(f"e{number + n}", "7", "1", "listen", 1_790_000_000) for n in range(5)]])
            told.send(number + 5)
            number += 5


def kill(url, stop=None, start=None, *, least=50):
    """Kills a writer, and the server that it writes to: the ids that it had acknowledged, and those that are there."""
    spawn = multiprocessing.get_context("spawn")
    received, told = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_append_for_ever, args=(url, told))
    process.start()
    told.close()
    count = 0
    while count < least:
        count = received.recv()
    if stop:
        stop("immediate")
    process.kill()
    process.join()
    with contextlib.suppress(EOFError):
        while True:
            count = received.recv()
    received.close()
    if start:
        start()
    store = EventStore.open(url)
    there = {event.id for part in store.all() for event in part}
    store.close()
    return {f"e{n}" for n in range(count)}, there
