"""The page on a light screen, and as a service serves it; apart, as Playwright opens one browser at a time."""

import contextlib
import http.server
import json
import threading
from types import SimpleNamespace

import maps
from browser import needs_browser, opened

from music_map.map.page import live, render
from music_map.map.payload import pack

pytestmark = needs_browser


def test_a_light_screen_gets_a_light_page(tmp_path):
    with opened(maps.write_page(tmp_path / "map.html"), scheme="light") as page:
        assert page.evaluate("document.documentElement.dataset.theme") == "light"
        assert page.complaints == []


@contextlib.contextmanager
def service(html, answer):
    """A server of the page at / that answers what is posted; yields its address and what it was asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply("text/html", html)

        def do_POST(self):
            asked.append((self.path, json.loads(self.rfile.read(int(self.headers["content-length"])))))
            self.reply("application/json", json.dumps(answer(*asked[-1])))

        def reply(self, kind, text):
            self.send_response(200)
            self.send_header("content-type", kind)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_page_of_a_service_shows_the_answers_of_the_service():
    export = maps.songs()
    labels = [f"song {i}" for i in export.item_ids]

    def answer(path, body):
        why = [{"item_id": labels[7], "weight": 0.75, "similarity": 0.5}] if path == "/recommend" else []
        found = [{"rank": 1, "item_id": labels[30], "score": 0.875, "why": why}]
        return {"recommendations": found, "warnings": [], "tastes": [{"songs": [labels[7]], "weight": 1.0}]}

    html = live(render(pack(*maps.payload(export, ids=labels)), title="Music Map: test"), source="map.html")
    with service(html, answer) as (url, asked), opened(SimpleNamespace(as_uri=lambda: url)) as page:
        page.evaluate("musicMap.setPlaylist([7, 8], { ordered: false })")
        page.evaluate("musicMap.select(9, { fly: false })")
        shown = "nodes => nodes.map((n) => [n.dataset.song, n.querySelector('.value').textContent])"
        assert page.eval_on_selector_all("#recommended li", shown) == [[labels[30], "0.875"]]
        assert page.eval_on_selector_all("#playlist li", shown) == [[labels[7], "75.0 %"], [labels[8], ""]]
        assert page.eval_on_selector_all("#nearest li", shown) == [[labels[30], "0.875"]]
        assert [path for path, _ in asked] == ["/recommend", "/similar"]
        assert asked[0][1]["songs"] == [labels[7], labels[8]] and asked[0][1]["ordered"] is False
        assert asked[1][1] == {"song": labels[9], "k": 10}
        assert all(request.startswith((url, "data:", "blob:")) for request in page.requests)
        assert page.complaints == []
