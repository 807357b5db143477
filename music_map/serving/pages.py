"""The pages of the service: the map of all songs, and the OpenAPI schema. They ask this service and no other host."""

from __future__ import annotations

import asyncio
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastapi import FastAPI, Response

from music_map.errors import UserError
from music_map.map.export import make_map
from music_map.map.page import live
from music_map.retrieval.recommender import Recommender
from music_map.serving.batcher import lower_priority
from music_map.serving.served import Served

_FOLDER = Path(__file__).with_name("page")
_TYPES = {"docs.html": "text/html", "docs.js": "text/javascript", "docs.css": "text/css"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_NICE = 10


def add_docs(app: FastAPI) -> None:
    """Adds /docs: its scripts and styles are its own."""

    def add(name: str, path: str) -> None:
        content = (_FOLDER / name).read_bytes()
        headers = {"content-security-policy": _POLICY, "x-content-type-options": "nosniff"}

        @app.get(path, include_in_schema=False)
        async def page() -> Response:
            return Response(content, media_type=_TYPES[name], headers=headers)

    for name in _TYPES:
        add(name, "/docs" if name == "docs.html" else f"/docs/{name}")


class MapPage:
    """The map at /, which asks the service for its answers.

    Args:
      title: of the page.
      exported: a page of launch/export_map.py; None: the map is drawn from two principal components when it is first
        asked for, and again for a new model.

    Raises:
      UserError: the file is not there, or holds no map.
    """

    def __init__(self, title: str, exported: Path | None):
        self._title, self._worker = title, ThreadPoolExecutor(1, "map", lower_priority, (_NICE,))
        self._drawn: bytes | None = None
        self._of: weakref.ref[Recommender] | None = None
        self._exported = exported is not None
        if exported is not None:
            if not exported.is_file():
                raise UserError(f"{exported}: no such file; give a page of launch/export_map.py")
            try:
                text = exported.read_text(encoding="utf-8")
            except UnicodeDecodeError as e:
                raise UserError(f"{exported}: is no page of launch/export_map.py") from e
            self._drawn = live(text, source=str(exported)).encode()

    def add(self, app: FastAPI, served: Served) -> None:
        """Adds the path."""
        # The page forbids all other hosts itself; a meta element cannot forbid frames.
        headers = {"content-security-policy": "frame-ancestors 'none'", "x-content-type-options": "nosniff"}

        @app.get("/", include_in_schema=False)
        async def page() -> Response:
            content = await asyncio.get_running_loop().run_in_executor(self._worker, self._page, served.current)
            return Response(content, media_type="text/html", headers=headers)

    def stop(self) -> None:
        """Ends the thread."""
        self._worker.shutdown(cancel_futures=True)

    def _page(self, recommender: Recommender) -> bytes:
        if self._drawn is None or not (self._exported or (self._of is not None and self._of() is recommender)):
            page = make_map(recommender, title=self._title, method="pca")
            self._drawn, self._of = live(page.html, source="/").encode(), weakref.ref(recommender)
        return self._drawn
