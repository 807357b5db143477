"""Serves recommendations over HTTP; needs the extra "serve" (pip install 'music-map[serve]').

    python launch/serve.py --workdir=checkpoints/demo --port=8000
    python launch/serve.py --workdir=checkpoints/demo --events=postgresql://music@localhost/music --workers=4

POST /recommend {"songs": [123, 456], "k": 10}, POST /similar {"song": 123}, POST /events, GET and DELETE /users/ID,
POST /reload, GET /health, GET /metrics; / is the map of all songs, /docs the OpenAPI schema. --workers=N answers by
several processes on one port; services elsewhere may share one --events. SIGHUP, like /reload, takes in what was
trained since, in the same --workdir or where that link leads now.

Listens on loopback unless --host says otherwise, which needs a token of 16 characters or more in the environment
variable MUSIC_MAP_TOKEN: requests bear it ("Authorization: Bearer TOKEN"). SIGTERM answers for ten seconds what is
under way, refuses the rest with status 503, and ends with status 0. See docs/service.md.
"""

import gc
import os
import signal
import time

from absl import flags

from launch import app
from music_map.errors import UserError, require_packages

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run of launch/train.py.", required=True)
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on.")
_PORT = flags.DEFINE_integer("port", 8000, "Port to listen on.", 1, 65535)
_HOSTS = flags.DEFINE_list(
    "allowed_hosts", [], "Names that requests may ask for in their Host header, besides localhost and --host."
)
_WORKERS = flags.DEFINE_integer("workers", 1, "Processes that answer, each with the model in its own memory.", 1, 256)
_EVENTS = flags.DEFINE_string(
    "events",
    None,
    "Where events are kept: a file, or postgresql://user@host/name; off: nowhere. By default WORKDIR.events.sqlite.",
)
_MAP = flags.DEFINE_string(
    "map", None, "The page at /, of launch/export_map.py; left out: drawn without UMAP when it is first asked for."
)
_LOG = flags.DEFINE_bool("access_log", False, "Whether to log each request on stderr.")

_TOKEN, _SHORTEST = "MUSIC_MAP_TOKEN", 16


def _token(needed: bool) -> str | None:
    token = os.environ.get(_TOKEN) or None
    if needed and token is None:
        raise UserError(
            f"--host={_HOST.value}: others can connect there; put a secret of {_SHORTEST} characters or more into the "
            f"environment variable {_TOKEN}, or listen on 127.0.0.1"
        )
    if token is not None and not (len(token) >= _SHORTEST and token.isascii() and token.isprintable()):
        raise UserError(
            f"{_TOKEN}: must be {_SHORTEST} printable ASCII characters or more, such as of openssl rand -hex 32"
        )
    return token


def main() -> int:
    require_packages(
        "the service",
        "serve",
        "fastapi",
        "uvicorn",
        "httptools",
        "prometheus_client",
        "orjson",
        "sqlalchemy",
        "threadpoolctl",
    )
    from music_map.serving import server
    from music_map.serving.workers import Worker, supervise

    # From now on it means to reload; before the service can, it means nothing.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    # Before the seconds that loading takes.
    host, port = _HOST.value, _PORT.value
    with app.naming("host"):
        others = not server.is_loopback(host)
    token = _token(needed=others)
    worker = Worker.of_environment()
    sockets = server.bind(host, port) if worker is None else worker.sockets
    if worker is None and _WORKERS.value > 1:
        return supervise(_WORKERS.value, sockets, app.reporter().warn)

    from threadpoolctl import threadpool_limits

    from music_map import Recommender
    from music_map.events.store import EventStore
    from music_map.serving.guard import LOOPBACK_NAMES
    from music_map.serving.service import create_app

    workdir = app.path_of(_WORKDIR.value, "workdir")

    def load() -> Recommender:
        return Recommender.load(workdir, reporter=app.reporter())

    recommender = load()
    store = None
    if _EVENTS.value != "off":
        with app.naming("events"):
            store = EventStore.open(app.events_of(_EVENTS.value, workdir), present=recommender.present)
    start = time.perf_counter()
    programs = recommender.warm()
    app.say(f"{programs} programs are ready, {time.perf_counter() - start:.0f} s")
    name = f"[{host}]" if ":" in host else host
    application = create_app(
        recommender,
        store=store,
        load=load,
        allowed_hosts=(*LOOPBACK_NAMES, name, *_HOSTS.value),
        any_address=server.is_wildcard(host),
        token=token,
        title=workdir.absolute().name,
        map_page=None if _MAP.value is None else app.path_of(_MAP.value, "map"),
        reporter=app.reporter(),
        worker=worker,
    )
    # Threads of NumPy's products wait for each other where others keep the cores busy: 20 ms in place of .1.
    threadpool_limits(1, "blas")
    # What is loaded stays: collections need not look at it again.
    gc.collect()
    gc.freeze()
    server.listen(sockets)
    if worker is not None:
        worker.is_ready()
    count = len(recommender.export.item_ids)
    app.say(f"{count} songs, {recommender.index.backend} index; http://{name}:{port}/docs")
    if store is not None:
        app.say(f"events: {store.name}")
    del recommender  # a reload frees it
    server.serve(application, sockets, close=application.state.close, access_log=_LOG.value)
    if store is not None:
        store.close()
    return 0


if __name__ == "__main__":
    app.run(main)
