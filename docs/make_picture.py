"""The picture of the map that the landing page and the README show: docs/_static/map.png, below 150 kB.

    python launch/export_map.py --workdir=checkpoints/demo --output=build/map.html
    python docs/make_picture.py build/map.html docs/_static/map.png

Opens the exported page in a headless Chromium (Debian package chromium; playwright), makes a playlist of some songs of
one cluster and saves what is seen, with few colours.
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

SIZE, MOST_BYTES = (1280, 760), 150_000
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
# Five of the most listened songs of the cluster whose name stands nearest to the middle of the map.
PLAYLIST = """async () => {
  const { data, view, setPlaylist } = musicMap, { clusters, listeners } = data.arrays, [mx, my] = view.middle();
  const away = (c) => Math.hypot(view.x[c.centre] - mx, view.y[c.centre] - my);
  const cluster = data.meta.clusters.reduce((best, c) => (away(c) < away(best) ? c : best));
  const songs = Array.from(clusters.keys()).filter((i) => clusters[i] === cluster.number);
  await setPlaylist(songs.sort((a, b) => listeners[b] - listeners[a]).slice(0, 5));
}"""


def picture(page_file: Path, chromium: str) -> bytes:
    """A PNG of the page with a playlist."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]}, color_scheme="dark")
        page.goto(page_file.absolute().as_uri())
        page.wait_for_function("window.musicMap")
        page.evaluate(PLAYLIST)
        page.wait_for_timeout(1_500)
        shot = page.screenshot()
        browser.close()
    file = io.BytesIO()
    Image.open(io.BytesIO(shot)).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(file, "png", optimize=True)
    return file.getvalue()


def main(page_file: str, output: str) -> int:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("chromium: not installed; on Debian apt install chromium")
        return 1
    found = picture(Path(page_file), chromium)
    if len(found) > MOST_BYTES:
        print(f"{output}: would have {len(found):,} bytes, more than {MOST_BYTES:,}; choose a smaller SIZE")
        return 1
    Path(output).write_bytes(found)
    print(f"{output}: {len(found):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
