"""A headless Chromium with WebGL drawn in software, where the machine has one."""

import contextlib
import importlib.util
import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
]  # fmt: skip

needs_browser = pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("playwright") is None,
    reason="no Chromium (Debian package chromium) or no playwright on this machine",
)


@contextlib.contextmanager
def opened(path, *, scheme="dark", size=(1280, 800), storage=None):
    """A page of a file, once its map is drawn; yields it with what it complained of and what it asked for."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
            page.complaints, page.requests = [], []
            # Software rendering warns of its own slowness.
            page.on("console", lambda m: m.type == "error" and page.complaints.append(m.text))
            page.on("pageerror", lambda e: page.complaints.append(str(e)))
            page.on("request", lambda r: page.requests.append(r.url))
            page.set_default_timeout(60_000)  # drawing in software, beside other tests, is slow
            page.goto(path.as_uri())
            page.wait_for_function("window.musicMap", timeout=120_000)
            yield page
        finally:
            browser.close()
