"""Services over a generated recommender, one for each database: python process.py URL ... Prints their ports."""

import sys
import threading

from generated_recommender import generated

from music_map.events.store import EventStore
from music_map.serving import server as serving
from music_map.serving.service import create_app


def serve(recommender, url):
    """Starts a service in a thread; its port."""
    app = create_app(recommender, store=EventStore.open(url))
    sockets = serving.bind("127.0.0.1", 0)
    serving.listen(sockets)
    config = serving.Config(app, most_connections=50, log_config=None, ws="none")
    server = serving.Server(config, app.state.close)
    threading.Thread(target=server.run, args=(sockets,), daemon=True).start()
    return sockets[0].getsockname()[1]


if __name__ == "__main__":
    found = generated()
    print(*(serve(found, url) for url in sys.argv[1:]), flush=True)
    sys.stdin.read()
