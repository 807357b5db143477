"""The service and its events: how many it takes in, what kills leave of them, a mixed load, and reloads under it.

    python benchmarks/events.py --output=events.json
    python benchmarks/events.py --postgres=postgresql://user@127.0.0.1/empty --output=events.json
    python benchmarks/events.py --workdir=checkpoints/demo --only=mixed,reload --output=mixed.json

Without --workdir the catalogue is generated, as in benchmarks/recommend.py; with --processed over the train events of a
data set, with a recency head. The service is a process on loopback; all events are posted over HTTP, those that it has
answered with 200 count as taken in, and are looked for in the database.
"""

import asyncio
import itertools
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import options
from absl import flags
from http_load import HOST, Service, load, request, running
from workdir import make_workdir, make_workdir_of

from music_map.events.event import Event
from music_map.events.store import EventStore
from music_map.preprocess.dataset import Dataset
from music_map.run.recommender import Recommender
from music_map.storage import write_json

TABLES = ("accepted", "kills", "mixed", "reload")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Of a trained run; left out: 254,000 generated songs, 10,000 users.")
_PROCESSED = flags.DEFINE_string("processed", None, "Folder of a processed data set, in place of --workdir.")
_POSTGRES = flags.DEFINE_string("postgres", None, "URL of an empty database; left out: SQLite alone.")
_ONLY = flags.DEFINE_list("only", list(TABLES), f"Of {', '.join(TABLES)}.")
_SECONDS = flags.DEFINE_float("seconds", 120.0, "Of the mixed load.", 1.0)
_WORKERS = flags.DEFINE_integer("workers", 1, "Processes of the service, under the mixed load.", 1)
_CLIENTS = flags.DEFINE_integer("clients", 64, "Of the mixed load.", 1)
_KILLS = flags.DEFINE_integer("kills", 20, "Of the service, for each database.", 1)

BATCHES = (1, 10, 100)
_count = itertools.count()


def events(songs: list[Any], users: list[Any], size: int) -> list[dict]:
    """A batch of new events; ids are unique in this process and the next."""
    now = int(time.time())
    return [
        {
            "id": f"{os.getpid()}-{next(_count)}",
            "user": random.choice(users),
            "song": random.choice(songs),
            "time": now - random.randrange(3600),
            "played": round(random.random(), 2),
        }
        for _ in range(size)
    ]


def accepted(workdir: Path, url: str, songs: list[Any]) -> dict[str, Any]:
    """Events a second, by the events of a request; 16 clients, 10 s each."""
    found = {}
    with running(workdir, f"--events={url}") as service:
        for size in BATCHES:
            ask = lambda size=size: ("events", request("/events", {"events": events(songs, range(10_000), size)}), 0)  # noqa: E731
            asyncio.run(load(service, [ask] * 16, 2.0))
            one = asyncio.run(load(service, [ask] * 16, 10.0))
            found[size] = one | {"events_per_second": size * one["per_second"]}
            options.say(
                f"{_kind(url)}, {size} events a request: {found[size]['events_per_second']:,.0f} events a second, p50 "
                f"{one['p50_ms']:.1f} ms, p99 {one['p99_ms']:.1f} ms, {one['num_errors']} errors; service "
                f"{one['service_core_ms']:.2f} ms of a core a request"
            )
        service.stop()
    return found


def kills(workdir: Path, url: str, songs: list[Any], count: int) -> dict[str, Any]:
    """Events that the service had answered with 200 and that are not in the database after SIGKILL."""
    told: list[str] = []
    lost = 0
    for _ in range(count):
        service = Service(workdir, f"--events={url}")
        asyncio.run(_post_until_killed(service, songs, told))
        service.process.wait()
        store = EventStore.open(url)
        there = {event.id for part in store.all() for event in part}
        store.close()
        lost += len(set(told) - there)
    options.say(f"{_kind(url)}: {count} SIGKILLs, {len(told):,} events answered with 200, {lost} of them lost")
    return {"kills": count, "acknowledged": len(told), "lost": lost}


async def _post_until_killed(service: Service, songs: list[Any], told: list[str]) -> None:
    async def client() -> None:
        async with httpx.AsyncClient() as session:
            while True:
                batch = events(songs, list(range(1_000)), 20)
                try:
                    answer = await session.post(f"http://{HOST}:{service.port}/events", json={"events": batch})
                except httpx.HTTPError:
                    return
                if answer.status_code == 200:
                    told.extend(event["id"] for event in batch)

    clients = [asyncio.create_task(client()) for _ in range(8)]
    await asyncio.sleep(random.uniform(0.5, 1.5))
    os.kill(service.process.pid, signal.SIGKILL)
    await asyncio.gather(*clients)


def mixed_asks(songs: list[Any], users: list[Any], clients: int) -> list[Callable[[], tuple[str, bytes, int]]]:
    """Of ten requests of a client one posts ten events, four are playlists of 50 songs, and five are for users.

    Half of the users are known to the model, half are new; each has events in the store.
    """
    new = [f"new-{n}" for n in range(len(users))]

    def asks(seed: int) -> Iterator[tuple[str, bytes, int]]:
        own = random.Random(seed)
        while True:
            yield (
                "events",
                request("/events", {"events": events(songs, [own.choice([own.choice(users), own.choice(new)])], 10)}),
                0,
            )
            for _ in range(4):
                yield "playlist", request("/recommend", {"songs": own.sample(songs, min(50, len(songs))), "k": 10}), 10
            for turn in range(5):
                user = own.choice(users if turn % 2 else new)
                yield "known user" if turn % 2 else "new user", request("/recommend", {"user": user, "k": 10}), 10

    return [asks(seed).__next__ for seed in range(clients)]


def fill(url: str, songs: list[Any], users: list[Any]) -> None:
    """Fifty events of each known and new user."""
    store, now = EventStore.open(url), int(time.time())
    for names in (users, [f"new-{n}" for n in range(len(users))]):
        for at in range(0, len(names), 100):
            batch = [
                Event(f"filled-{user}-{n}", str(user), str(random.choice(songs)), "listen", now - 60 * n, 0.9)
                for user in names[at : at + 100]
                for n in range(50)
            ]
            store.append([batch])
    store.close()


def under_load(
    workdir: Path, url: str, songs: list[Any], users: list[Any], seconds: float, clients: int, every: float | None
) -> dict[str, Any]:
    """The mixed load; with `every`, a reload every so many seconds."""
    reloads: list[float] = []

    async def reload(end: float) -> None:
        async with httpx.AsyncClient(timeout=60) as session:
            while (left := end - time.perf_counter()) > every:
                await asyncio.sleep(min(every, left))
                start = time.perf_counter()
                answer = await session.post(f"http://{HOST}:{service.port}/reload")
                if answer.status_code != 200:
                    raise SystemExit(f"the reload failed: {answer.text}")
                reloads.append(time.perf_counter() - start)

    with running(workdir, f"--events={url}", f"--workers={_WORKERS.value}") as service:
        fill(url, songs, users)
        asks = mixed_asks(songs, users, clients)
        asyncio.run(load(service, asks, min(5.0, seconds)))
        found = asyncio.run(load(service, asks, seconds, beside=reload if every else None))
        found["stop_status"], found["reload_seconds"] = service.stop(), reloads
    memory = " ".join(f"{mib:.0f}" for mib in found["resident_mib"])
    kinds = ", ".join(f"{kind} {one['p50_ms']:.0f} and {one['p99_ms']:.0f}" for kind, one in found["kinds"].items())
    again = f"{len(reloads)} reloads of {np.mean(reloads):.1f} s, " if reloads else ""
    options.say(
        f"{_kind(url)}, {clients} clients, {seconds:.0f} s: {again}{found['requests']} requests, "
        f"{found['per_second']:.0f} a second, p50 and p99 in ms {found['p50_ms']:.0f} and {found['p99_ms']:.0f} "
        f"({kinds}), {found['num_errors']} errors; MiB: {memory}"
    )
    return found


def _kind(url: str) -> str:
    return "PostgreSQL" if "://" in url else "SQLite"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        if _WORKDIR.value:
            workdir = options.path_of(_WORKDIR.value, "workdir")
        elif _PROCESSED.value:
            dataset = Dataset.open(options.path_of(_PROCESSED.value, "processed"))
            workdir = make_workdir_of(Path(folder) / "run", dataset)
        else:
            workdir = make_workdir(Path(folder) / "run", num_songs=254_000, num_users=10_000)
        ids = Recommender.load(workdir, index="exact").ids
        songs, users = ids.songs.labels(range(len(ids.songs))), ids.users.labels(range(min(len(ids.users), 1_000)))
        results: dict[str, Any] = {}
        for name in _ONLY.value:
            for url in [f"{folder}/{name}.sqlite", *filter(None, [_POSTGRES.value])]:
                row = results.setdefault(name, {})
                if name == "accepted":
                    row[_kind(url)] = accepted(workdir, url, songs)
                elif name == "kills":
                    row[_kind(url)] = kills(workdir, url, songs, _KILLS.value)
                else:
                    every = 10.0 if name == "reload" else None
                    seconds = _SECONDS.value / (2 if every else 1)
                    row[_kind(url)] = under_load(workdir, url, songs, users, seconds, _CLIENTS.value, every)
    write_json(options.path_of(_OUTPUT.value, "output"), results)
    return 0


if __name__ == "__main__":
    options.run(main)
