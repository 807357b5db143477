"""The page on a light screen; apart, as Playwright opens one browser at a time and test_page.py keeps its own open."""

import maps
from browser import needs_browser, opened

pytestmark = needs_browser


def test_a_light_screen_gets_a_light_page(tmp_path):
    with opened(maps.write_page(tmp_path / "map.html"), scheme="light") as page:
        assert page.evaluate("document.documentElement.dataset.theme") == "light"
        assert page.complaints == []
