"""The picture of the map that the landing page and the README show: docs/_static/map.png, below 150 kB.

    python launch/export_map.py --workdir=checkpoints/demo --output=build/map.html
    python docs/make_picture.py build/map.html docs/_static/map.png

Opens the exported page in a headless Chromium (Debian package chromium; playwright), makes a playlist of some songs of
three clusters and saves what is seen, with few colours.
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

SIZE, MOST_BYTES = (1280, 760), 150_000
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
# The song in the middle of each of three clusters, from the middle of the map to its border, and the one nearest to it:
# songs that are so different become several queries.
PLAYLIST = """async () => {
  const { data, view, setPlaylist } = musicMap, { clusters } = data.arrays, [mx, my] = view.middle();
  const away = (i, x, y) => Math.hypot(view.x[i] - x, view.y[i] - y);
  const from = data.meta.clusters.slice().sort((a, b) => away(a.centre, mx, my) - away(b.centre, mx, my));
  const two = (c) => Array.from(clusters.keys()).filter((i) => clusters[i] === c.number)
    .map((i) => [away(i, view.x[c.centre], view.y[c.centre]), i]).sort((a, b) => a[0] - b[0])
    .slice(0, 2).map((pair) => pair[1]);
  await setPlaylist([from[0], from[from.length >> 1], from.at(-1)].flatMap(two));
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
    # Median cuts would give one colour to two clusters.
    few = (
        Image.open(io.BytesIO(shot))
        .convert("RGB")
        .quantize(255, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    )
    few.save(file, "png", optimize=True)
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
