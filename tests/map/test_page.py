"""The page in a headless Chromium: search, click, nearest, playlist, themes and keys, and no word to anywhere."""

import maps
import numpy as np
import pytest
from browser import needs_browser, opened

from music_map.map.agreement import recommender_of
from music_map.map.metadata import Column, Metadata
from music_map.map.quantise import dequantise
from music_map.retrieval.filters import Filters

pytestmark = needs_browser


def names(count):
    codes = np.arange(count, dtype=np.int32)
    titles = [f"Étude {i}" if i % 2 else f"</script> Nocturne {i}" for i in range(count)]
    return Metadata(
        [
            Column("title", titles, codes),
            Column("artist", ["Ada", "Bo", "Cy"], codes % 3),
            Column("year", ["1999"], codes * 0),
        ],
        count,
        count,
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = maps.write_page(tmp_path_factory.mktemp("page") / "map.html", metadata=names(240))
    with opened(path) as page:
        yield page
        assert page.complaints == []
        assert [url for url in page.requests if not url.startswith(("file:", "data:", "blob:"))] == []


def texts(page, where):
    return page.locator(where).all_inner_texts()


def wait_for_place(page, song, place):
    page.wait_for_function(
        "([i, [x, y]]) => { const p = musicMap.view.screen(i); return Math.hypot(p[0] - x, p[1] - y) < 1.5; }",
        arg=[song, place],
        timeout=10_000,
    )


def test_search_by_name_and_by_id_selects_a_song(page):
    page.keyboard.press("/")
    page.keyboard.type("etude 15")
    assert texts(page, "#results .name")[0].startswith("Étude 15")
    page.keyboard.press("Enter")
    assert page.inner_text("#song-body .big").startswith("Étude 15")
    ids = maps.songs().item_ids
    page.fill("#search", str(ids[30]))
    page.keyboard.press("Enter")
    assert page.inner_text("#song-body .big") == "</script> Nocturne 30"
    assert len(texts(page, "#nearest li")) == 10
    page.fill("#search", "no such song")
    assert "No song" in page.inner_text("#results")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")


def test_nearest_and_recommended_are_those_of_the_recommender(page):
    export, heads = maps.songs(), maps.heads()
    arrays, _ = maps.payload(export)
    recommender = recommender_of(
        export, dequantise(arrays["codes"].reshape(240, -1)), heads, Filters(), dislike_push=0.5
    )
    for rows, ordered in (([7, 8, 90, 3], True), (list(range(40, 90)), False), ([12], True)):
        page.evaluate("([rows, ordered]) => musicMap.setPlaylist(rows, {ordered})", [rows, ordered])
        shown = [
            int(i) for i in page.eval_on_selector_all("#recommended li", "nodes => nodes.map(n => n.dataset.song)")
        ]
        wanted = recommender.recommend(export.item_ids[rows].tolist(), ordered=ordered, k=10).recommendations
        assert shown == [r.item_id for r in wanted]
    page.evaluate("musicMap.setPlaylist([])")
    page.evaluate("musicMap.select(12)")
    shown = [int(i) for i in page.eval_on_selector_all("#nearest li", "nodes => nodes.map(n => n.dataset.song)")]
    assert shown == [r.item_id for r in recommender.similar(int(export.item_ids[12]), k=10).recommendations]


def test_a_list_of_ids_becomes_the_playlist(page):
    ids = maps.songs().item_ids
    page.fill("#search", f"{ids[5]}, {ids[9]} 999999999")
    assert "Make 2 songs the playlist (1 unknown)" in page.inner_text("#results")
    page.keyboard.press("Enter")
    assert len(texts(page, "#playlist li")) == 2 and page.is_checked("#ordered")
    assert f"--songs={ids[5]},{ids[9]} --k=10" in page.text_content("#command")
    page.click("#clear")
    assert page.is_visible("#playlist-empty") and page.is_hidden("#answer")
    page.evaluate("document.activeElement.blur()")


def test_hover_click_ctrl_click_and_lasso(page):
    page.keyboard.press("0")
    page.wait_for_timeout(700)
    left, top = page.evaluate(
        "(() => { const b = document.getElementById('plot').getBoundingClientRect(); return [b.x, b.y] })()"
    )
    # A song that no other lies near. Where drawing is slow the view may still be moving, and a single move is missed.
    for _ in range(20):
        song, x, y = page.evaluate("""() => {
          const p = Array.from(musicMap.view.x.keys(), i => musicMap.view.screen(i));
          const away = (i, j) => i === j ? 1e9 : Math.hypot(p[i][0] - p[j][0], p[i][1] - p[j][1]);
          const free = p.map((a, i) => a[0] < 80 ? 0 : Math.min(...p.map((b, j) => away(i, j))));
          const i = free.indexOf(Math.max(...free)); return [i, ...p[i]];
        }""")
        page.mouse.move(left + x + 3, top + y + 30)
        page.mouse.move(left + x, top + y, steps=4)
        page.wait_for_timeout(500)
        if page.is_visible("#tooltip"):
            break
    assert page.is_visible("#tooltip")
    title = page.evaluate("i => musicMap.names.title(i)", song)
    assert title in page.inner_text("#tooltip") and "1999" not in page.inner_text("#tooltip")
    page.mouse.click(left + x, top + y)
    page.wait_for_function("i => musicMap.state.song === i", arg=song)
    assert page.inner_text("#song-body .big") == title and "1999" in page.inner_text("#song-body")
    page.keyboard.down("Control")
    page.mouse.click(left + x, top + y)
    page.keyboard.up("Control")
    page.wait_for_function("i => musicMap.state.playlist.includes(i)", arg=song)
    page.keyboard.press("a")
    assert page.evaluate("musicMap.state.playlist.length") == 0
    page.keyboard.press("l")
    assert page.get_attribute("#lasso", "aria-pressed") == "true"
    width, height = page.evaluate(
        "[document.getElementById('plot').clientWidth, document.getElementById('plot').clientHeight]"
    )
    corners = [(100, 20), (width - 10, 20), (width - 10, height / 2), (100, height / 2), (100, 24)]
    page.mouse.move(left + corners[0][0], top + corners[0][1])
    page.mouse.down()
    for cx, cy in corners[1:]:
        page.mouse.move(left + cx, top + cy, steps=6)
        page.wait_for_timeout(30)
    page.mouse.up()
    page.wait_for_function("musicMap.state.playlist.length > 0")
    inside = page.evaluate(
        """([w, h]) => Array.from(musicMap.view.x.keys()).filter(i => {
      const [a, b] = musicMap.view.screen(i); return a > 104 && a < w - 14 && b > 26 && b < h / 2 - 4; })""",
        [width, height],
    )
    assert set(inside) <= set(page.evaluate("musicMap.state.playlist"))
    assert not page.is_checked("#ordered") and len(texts(page, "#recommended li")) == 10
    place = page.evaluate("musicMap.state.answer.stars[0]")
    assert np.isfinite(place).all()
    assert page.get_attribute("#lasso", "aria-pressed") == "false"
    page.evaluate("musicMap.setPlaylist([])")


def test_keys_colours_highlight_and_themes(page):
    page.evaluate("document.activeElement.blur()")
    for mode in ("artist", "popularity", "cold", "cluster"):
        page.keyboard.press("c")
        assert page.is_checked(f"#colour-{mode}") and page.locator("#legend li").count() > 0
    entry = page.locator("#legend button").first
    entry.click()
    assert entry.get_attribute("aria-pressed") == "true"
    page.keyboard.press("Escape")
    assert page.evaluate("musicMap.state.spot") is None
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.keyboard.press("?")
    assert "rounded to 8 bits" in page.inner_text("#about")
    page.keyboard.press("Escape")
    page.focus("#plot")
    page.keyboard.press("Enter")
    assert page.evaluate("musicMap.state.song") is not None
    unnamed = page.eval_on_selector_all(
        "button, input",
        "nodes => nodes.filter(n => !(n.getAttribute('aria-label') || n.innerText || n.labels?.length)).map(n => n.id)",
    )
    assert unnamed == []


def test_a_link_brings_the_view_back(page):
    ids = maps.songs().item_ids
    page.evaluate("musicMap.setPlaylist([7, 8, 90], { ordered: false })")
    page.evaluate("musicMap.dislike(11)")
    page.evaluate("musicMap.select(12, { fly: false })")
    before = page.evaluate("musicMap.view.where()[2]")
    page.evaluate("musicMap.view.zoom(1 / 2)")
    wanted = f"song={ids[12]}&songs={ids[7]},{ids[8]},{ids[90]}&order=0&dislikes={ids[11]}"
    page.wait_for_function("text => location.hash.endsWith(text)", arg=wanted)
    # The link follows the movement; on a slow machine it is behind.
    page.wait_for_function("wanted => Math.abs(musicMap.view.where()[2] / wanted - 1) < 1e-6", arg=2 * before)
    page.wait_for_function("wanted => Math.abs(location.hash.split(/[=,&]/)[3] / wanted - 1) < 1e-3", arg=2 * before)
    link = page.evaluate("location.hash")
    at, marks = page.evaluate("[musicMap.view.where(), musicMap.view.screen(12)]")
    page.evaluate("musicMap.setPlaylist([], { ordered: true })")
    page.evaluate("musicMap.select(null)")
    page.evaluate("musicMap.view.goHome()")
    page.wait_for_function("!location.hash.includes('song')")
    page.evaluate("link => { location.hash = link }", link)
    page.wait_for_function("musicMap.state.song === 12 && musicMap.state.answer")
    page.wait_for_function("at => Math.abs(musicMap.view.where()[2] - at[2]) < 1e-3 * at[2]", arg=at)
    assert page.evaluate("musicMap.state.playlist") == [7, 8, 90] and not page.is_checked("#ordered")
    assert page.evaluate("musicMap.state.dislikes") == [11]
    np.testing.assert_allclose(page.evaluate("musicMap.view.where()"), at, rtol=1e-3, atol=1e-4)
    wait_for_place(page, 12, marks)  # the marks move with the next frame
    assert page.get_attribute("#listen", "href").endswith("search_query=Ada%20%3C%2Fscript%3E%20Nocturne%2012")
    page.evaluate("musicMap.dislike(11)")


def test_a_playlist_is_saved(page):
    page.evaluate("musicMap.setPlaylist([7, 8])")
    page.select_option("#save-what", "both")
    for button, head in (("#save-m3u8", "#EXTM3U"), ("#save-jspf", "{")):
        with page.expect_download() as download:
            page.click(button)
        text = download.value.path().read_text(encoding="utf-8")
        assert download.value.suggested_filename == f"music-map.{button.removeprefix('#save-')}"
        assert text.startswith(head) and ("Bo - Étude 7" in text or '"Étude 7"' in text)
        assert text.count("#EXTINF") + text.count('"identifier"') == 12
    page.evaluate("musicMap.setPlaylist([])")


def test_on_a_narrow_screen_the_map_is_free_and_the_panel_a_sheet(page):
    page.evaluate("musicMap.select(null)")
    page.set_viewport_size({"width": 390, "height": 844})
    top = "document.getElementById('panel').getBoundingClientRect().top"  # it slides
    page.wait_for_function(f"{top} > 844 - 110")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    # Tools and lists are out of sight, and out of the way of the keyboard.
    assert page.evaluate("document.getElementById('rest').inert && document.getElementById('rest').contains(tools)")
    page.click("#grip")
    page.wait_for_function(f"{top} < 500")
    assert page.evaluate(top) > 300 and page.get_attribute("#grip", "aria-expanded") == "true"
    assert page.is_visible("#lasso")
    page.click("#grip")
    page.wait_for_function(f"{top} > 844 - 110")
    # A tap chooses a song; one finger moves the map, and the marks with it.
    finger = """([from, to]) => { const canvas = document.getElementById("plot"), box = canvas.getBoundingClientRect();
      const send = (type, [x, y]) => canvas.dispatchEvent(new PointerEvent(type, { pointerType: "touch", pointerId: 1,
        clientX: box.left + x, clientY: box.top + y, bubbles: true }));
      canvas.setPointerCapture = () => {};
      send("pointerdown", from); send("pointermove", to); send("pointerup", to); }"""
    before = page.evaluate("musicMap.view.screen(30)")
    page.evaluate(finger, [[200, 300], [260, 340]])
    wait_for_place(page, 30, [before[0] + 60, before[1] + 40])
    spot = page.evaluate("musicMap.view.screen(30)")
    page.evaluate(finger, [spot, spot])
    page.wait_for_function("musicMap.state.song !== null")
    page.wait_for_function(f"{top} < 500")
    assert page.is_visible("#song-body")
    page.wait_for_function(f"(([, y]) => y > 0 && y < {top})(musicMap.view.screen(musicMap.state.song))")
    page.evaluate("musicMap.select(null)")
    page.set_viewport_size({"width": 1280, "height": 800})
    page.wait_for_function("document.getElementById('stage').contains(tools)")
    page.evaluate("musicMap.view.goHome()")


def test_points_are_drawn(page):
    page.evaluate("musicMap.view.plot.redraw()")
    shades = page.evaluate("""() => { const image = musicMap.view.plot.export(); const seen = new Set();
      for (let i = 0; i < image.data.length; i += 4)
        if (image.data[i + 3] > 200) seen.add(image.data[i] + ',' + image.data[i + 1]);
      return seen.size }""")
    assert shades > 5


def test_no_label_is_cut_off_or_covered_and_no_two_overlap(page):
    seen = []
    page.emulate_media(reduced_motion="reduce")
    page.evaluate("musicMap.select(null)")
    for zoom in ("goHome()", "zoom(1 / 2.5)", "pan(1.5, 0)", "zoom(1 / 4)", "pan(-2, 1)"):
        page.evaluate(f"musicMap.view.{zoom}")
        page.evaluate(
            "new Promise(done => { musicMap.view.redraw(); requestAnimationFrame(() => requestAnimationFrame(done)); })"
        )
        written, covers, size = page.evaluate("""() => {
          const canvas = document.getElementById("plot").getBoundingClientRect();
          const box = document.getElementById("tools").getBoundingClientRect();
          const [left, top] = [canvas.left, canvas.top];
          return [musicMap.view.state.written, [[box.left - left, box.top - top, box.right - left, box.bottom - top]],
            [canvas.width, canvas.height]] }""")
        seen.append({label["text"] for label in written})
        boxes = [label["box"] for label in written]
        for at, (left, top, right, bottom) in enumerate(boxes):
            assert left >= 0 and top >= 0 and right <= size[0] and bottom <= size[1]
            for other in boxes[:at] + covers:
                assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
    assert seen[0] and seen[0] <= set(page.evaluate("musicMap.data.meta.clusters.map(c => c.name)"))
    assert seen[1] <= set(page.evaluate("musicMap.data.meta.finer.map(c => c.name)"))
    page.evaluate("musicMap.view.goHome()")
