"""The map's page at 250,000 songs: what the export takes, the page's size, loading, frames, and answers.

    python benchmarks/map_page.py --folder=checkpoints/map-bench --output=map_page.json

The catalogue is generated, as in benchmarks/recommend.py; the page stays in FOLDER. A headless Chromium (Debian package
chromium; playwright) draws it without a graphics card, so its frames a second are a lower bound. "Script ms a frame" is
what the page's own code takes of the main thread (Chromium's ScriptDuration), whatever draws: below 16.7 ms a graphics
card that draws the points can show 60 frames a second.
"""

import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import options
from absl import flags
from playwright.sync_api import CDPSession, Page, sync_playwright
from workdir import make_workdir

from music_map.errors import UserError
from music_map.storage import write_json

_FOLDER = flags.DEFINE_string("folder", None, "Folder of the generated run and the page.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file.", required=True)
_SONGS = flags.DEFINE_integer("num_songs", 250_000, "Of the catalogue.", 100)
_SECONDS = flags.DEFINE_float("seconds", 5.0, "Of each movement.", 0.5)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Page loads, and questions of each kind.", 1)

CHROMIUM_FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]

# Moves the view by a little before every frame; how many frames that many milliseconds have.
MOVE = """([milliseconds, closer]) => new Promise((done) => {
  const { plot, home } = musicMap.view, { target, distance } = home(), start = performance.now();
  let frames = 0;
  const frame = () => {
    const passed = performance.now() - start, angle = passed / 400;
    if (passed > milliseconds) return done(frames / passed * 1000);
    frames += 1;
    const shift = 0.2 * distance / closer;
    plot.zoomToLocation([target[0] + shift * Math.cos(angle), target[1] + shift * Math.sin(angle)],
      distance / closer * (1 + 0.1 * Math.sin(angle)));
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
})"""

# Milliseconds of one answer, drawing left out.
ANSWERS = {
    "nearest songs of a song": """async (n) => { const t = performance.now();
      await musicMap.select(n); return performance.now() - t }""",
    "a playlist of 50, its query and its recommendations": """async (n) => { const t = performance.now();
      await musicMap.setPlaylist(Array.from({ length: 50 }, (_, i) => n + 7 * i)); return performance.now() - t }""",
    "search by id": """(n) => { const box = document.getElementById('search'), t = performance.now();
      box.value = String(n); box.dispatchEvent(new Event('input')); return performance.now() - t }""",
}


def export(workdir: Path, page: Path) -> dict[str, float]:
    """Seconds of launch/export_map.py, its peak memory, and the page's size."""
    start = time.perf_counter()
    command = [sys.executable, "launch/export_map.py", f"--workdir={workdir}", f"--output={page}"]
    subprocess.run(command, check=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "export_seconds": time.perf_counter() - start,
        "export_peak_mib": used.ru_maxrss / 1024,
        "page_mib": page.stat().st_size / 2**20,
    }


def script_seconds(devtools: CDPSession) -> float:
    metrics = devtools.send("Performance.getMetrics")["metrics"]
    return next(m["value"] for m in metrics if m["name"] == "ScriptDuration")


def moving(page: Page, devtools: CDPSession, closer: float) -> dict[str, float]:
    before, start = script_seconds(devtools), time.perf_counter()
    rate = page.evaluate(MOVE, [1000 * _SECONDS.value, closer])
    frames = rate * (time.perf_counter() - start)
    return {"frames_per_second": rate, "script_ms_per_frame": 1000 * (script_seconds(devtools) - before) / frames}


def in_browser(path: Path, chromium: str) -> dict:
    """Medians of loads and answers, and the frames of a moving view."""
    found: dict = {"load_seconds": [], "script_load_seconds": []}
    complaints: list[str] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        for _ in range(_ROUNDS.value):
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.set_default_timeout(600_000)
            page.on("console", lambda m: m.type == "error" and complaints.append(m.text))
            page.on("pageerror", lambda e: complaints.append(str(e)))
            start = time.perf_counter()
            page.goto(path.absolute().as_uri())
            page.wait_for_function("window.musicMap")
            found["load_seconds"].append(time.perf_counter() - start)
            found["script_load_seconds"].append(page.evaluate("musicMap.seconds"))
            if complaints:
                raise UserError(f"{path}: the page complains: {complaints[0]}")
            if len(found["load_seconds"]) < _ROUNDS.value:
                page.close()
        page.screenshot(path=path.with_suffix(".png"))
        devtools = page.context.new_cdp_session(page)
        devtools.send("Performance.enable")
        found["whole map moving"] = moving(page, devtools, 1.0)
        found["close up, moving"] = moving(page, devtools, 12.0)
        for name, code in ANSWERS.items():
            times = [page.evaluate(code, 1_000 + 37 * n) for n in range(_ROUNDS.value + 1)][1:]
            found[name] = {"ms": statistics.median(times)}
        page.screenshot(path=path.with_name("answers.png"))
        browser.close()
    return found


def main() -> int:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise UserError("chromium: not installed; on Debian apt install chromium")
    folder = Path(_FOLDER.value)
    workdir, path = folder / "workdir", folder / "map.html"
    if not (workdir / "config.json").is_file():
        make_workdir(workdir, num_songs=_SONGS.value, num_users=2_000)
    results = export(workdir, path) | in_browser(path, chromium)
    write_json(options.path_of(_OUTPUT.value, "output"), results)
    for name, value in results.items():
        if isinstance(value, list):
            options.say(f"{name:<52} {statistics.median(value):10.2f}")
        elif isinstance(value, dict):
            options.say(f"{name:<52} " + "  ".join(f"{key} {figure:.2f}" for key, figure in value.items()))
        else:
            options.say(f"{name:<52} {value:10.2f}")
    return 0


if __name__ == "__main__":
    options.run(main)
