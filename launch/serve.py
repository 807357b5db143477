"""Serves recommendations over HTTP; needs the extra "serve" (pip install 'music-map[serve]').

    python launch/serve.py --workdir=checkpoints/demo --port=8000

POST /recommend {"songs": [123, 456], "k": 10}, POST /similar {"song": 123}, GET /health, GET /metrics; /docs shows the
OpenAPI schema. Listens on loopback unless --host says otherwise, which needs a token of 16 characters or more in the
environment variable MUSIC_MAP_TOKEN: requests bear it ("Authorization: Bearer TOKEN"). SIGTERM answers for ten seconds
what is under way, refuses the rest with status 503, and ends with status 0.
"""

import gc
import os

from absl import flags

from launch import app
from music_map.errors import UserError, require_packages

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run of launch/train.py.", required=True)
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on.")
_PORT = flags.DEFINE_integer("port", 8000, "Port to listen on.", 1, 65535)
_HOSTS = flags.DEFINE_list(
    "allowed_hosts", [], "Names that requests may ask for in their Host header, besides localhost and --host."
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
    require_packages("the service", "serve", "fastapi", "uvicorn", "httptools", "prometheus_client", "orjson")
    from music_map import Recommender
    from music_map.serving import server
    from music_map.serving.guard import LOOPBACK_NAMES
    from music_map.serving.service import create_app

    # Before the seconds that loading takes.
    host, port = _HOST.value, _PORT.value
    with app.naming("host"):
        others = not server.is_loopback(host)
    token = _token(needed=others)
    sockets = server.bind(host, port)
    recommender = Recommender.load(app.path_of(_WORKDIR.value, "workdir"), reporter=app.reporter())
    recommender.warm()
    name = f"[{host}]" if ":" in host else host
    application = create_app(
        recommender,
        allowed_hosts=(*LOOPBACK_NAMES, name, *_HOSTS.value),
        any_address=server.is_wildcard(host),
        token=token,
    )
    # What is loaded stays: collections need not look at it again.
    gc.collect()
    gc.freeze()
    server.listen(sockets)
    count = len(recommender.export.item_ids)
    app.say(f"{count} songs, {recommender.index.backend} index; http://{name}:{port}/docs")
    server.serve(application, sockets, close=application.state.close, access_log=_LOG.value)
    return 0


if __name__ == "__main__":
    app.run(main)
