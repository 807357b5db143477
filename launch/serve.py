"""Serves recommendations over HTTP; needs the extra "serve" (pip install -e '.[serve]').

    python launch/serve.py --workdir=checkpoints/demo --port=8000

POST /recommend {"songs": [123, 456], "k": 10}, POST /similar {"song": 123}, GET /health, GET /metrics; the OpenAPI page
is at /docs. Bound to loopback unless --host says otherwise: there is no authentication. SIGTERM answers what is under
way and ends.
"""

import gc
import importlib.util

from absl import flags

from launch import app
from music_map.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run of launch/train.py.", required=True)
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on.")
_PORT = flags.DEFINE_integer("port", 8000, "Port to listen on.", 1, 65535)
_LOG = flags.DEFINE_bool("access_log", False, "Whether to log each request on stderr.")


def main() -> int:
    for package in ("fastapi", "uvicorn", "prometheus_client", "orjson"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{package} is not installed; install the extra: pip install -e '.[serve]'")
    import uvicorn

    from music_map import Recommender
    from music_map.serving.service import create_app

    recommender = Recommender.load(app.path_of(_WORKDIR.value, "workdir"), reporter=app.reporter())
    recommender.warm()
    # What is loaded stays: collections need not look at it again.
    gc.collect()
    gc.freeze()
    count = len(recommender.export.item_ids)
    app.say(f"{count} songs, {recommender.index.backend} index; http://{_HOST.value}:{_PORT.value}/docs")
    uvicorn.run(
        create_app(recommender),
        host=_HOST.value,
        port=_PORT.value,
        access_log=_LOG.value,
        log_level="info" if _LOG.value else "warning",
        timeout_graceful_shutdown=10,
    )
    return 0


if __name__ == "__main__":
    app.run(main)
