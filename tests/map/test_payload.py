"""The block of a page: there and back, the same bytes, and damage named; groups, names, subsets of songs."""

import gzip
import json

import maps
import numpy as np
import pytest

from music_map.errors import DamagedFileError, UserError
from music_map.map.metadata import Column, Metadata
from music_map.map.page import block_of, live, read_previous, render, save_positions
from music_map.map.payload import ALLOWED, FORMAT_VERSION, KNOWN, groups_of, names_of, pack, songs_of, unpack
from music_map.retrieval.filters import Filters


def test_there_and_back():
    arrays, meta = maps.payload()
    block = pack(arrays, meta)
    assert block == pack(*maps.payload())
    again, values = unpack(block, source="a")
    assert values == meta and again.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)
        assert again[name].dtype == array.dtype
    for damage in (b"", block[:-9], block[:200] + b"\0\0\0" + block[203:], pack({}, {})[:4]):
        with pytest.raises(DamagedFileError, match="page: holds no map of this version"):
            unpack(damage, source="page")
    array = {"dtype": "<f4", "shape": [1], "offset": 0}
    for head in (
        [], 3, {"arrays": [], "meta": {}}, {"arrays": {"a": None}}, {"arrays": {"a": array | {"shape": [2**62, 8]}}},
        {"arrays": {"a": array | {"dtype": "O"}}}, {"arrays": {"a": array | {"offset": -(10**30)}}},
    ):  # fmt: skip
        text = json.dumps(head | {"version": FORMAT_VERSION} if isinstance(head, dict) else head).encode()
        block = gzip.compress(np.uint32(len(text)).tobytes() + text + bytes(-(4 + len(text)) % 8))
        with pytest.raises(DamagedFileError, match="page: holds no map of this version"):
            unpack(block, source="page")


def test_flags_follow_the_filters():
    export = maps.songs()
    arrays, _ = maps.payload(export, filters=Filters(min_listeners=10))
    allowed = export.recommendable & (export.listeners >= 10)
    np.testing.assert_array_equal(arrays["flags"] & ALLOWED > 0, allowed)
    np.testing.assert_array_equal(arrays["flags"] & KNOWN > 0, export.recommendable)


def test_some_of_the_songs_keep_what_is_theirs():
    export, rows = maps.songs(), np.array([3, 4, 90, 239])
    some = songs_of(export, rows)
    for new, old in enumerate(rows):
        assert some.item_ids[new] == export.item_ids[old]
        mine, was = (
            e.artists[e.artist_offsets[at] : e.artist_offsets[at + 1]].tolist()
            for e, at in ((some, new), (export, old))
        )
        assert mine == was


def test_groups_and_names():
    export = maps.songs()
    artists = groups_of(export, None, "artist")
    assert artists.values[0] == "artist 100" and groups_of(export, None, "genre") is None
    first = [int(e) for e in np.flatnonzero(np.diff(export.artist_offsets))[:5]]
    assert [artists.codes[i] for i in first] == [export.artists[export.artist_offsets[i]] for i in first]
    genre = Column("Genres", ["pop", "folk", "noise"], np.array([0, 0, 1, 0, 2, 2, -1], np.int32))
    assert groups_of(export, Metadata([genre], 7, 7), "genre") is genre
    clusters = np.array([0, 0, 0, 1, 1, 1, 2])
    # Pop is everywhere, folk in the first cluster alone, noise in the second alone.
    assert names_of(clusters, genre, np.ones(7), most=1) == {0: "folk", 1: "noise", 2: "group 3"}
    assert names_of(clusters, genre, np.ones(7))[0] == "folk · pop"
    assert names_of(clusters, None, np.ones(7)) == {0: "group 1", 1: "group 2", 2: "group 3"}


def test_an_older_map_is_read_from_its_page_and_from_its_positions(tmp_path):
    arrays, meta = maps.payload()
    page = maps.write_page(tmp_path / "map.html")
    positions = (arrays["item_ids"], arrays["position"], arrays["clusters"])
    save_positions(tmp_path / "map.parquet", *positions)
    ids = np.append(arrays["item_ids"][5:9], 2_000_000).astype(np.uint32)
    for path in (page, tmp_path / "map.parquet"):
        found = read_previous(path, ids)
        np.testing.assert_array_equal(found.position[:4], arrays["position"][5:9])
        assert found.clusters.tolist() == [*arrays["clusters"][5:9].tolist(), -1] and np.isnan(found.position[4]).all()
    assert read_previous(page, ids).colours == {c["number"]: c["colour"] for c in meta["clusters"]}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("none.html", None, "no such file"),
        ("a.html", "<p>hello", "holds no map"),
        ("b.html", '<script id="map-data" type="application/octet-stream;base64">x</script>', "damaged"),
        ("c.html", '<script id="map-data" type="application/octet-stream;base64">aGk=</script>', "holds no map"),
        ("d.parquet", "PAR1", "no positions of a map"),
    ],
)
def test_what_is_no_older_map(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=says) as caught:
        read_previous(tmp_path / name, np.arange(3, dtype=np.uint32))
    assert str(tmp_path / name) in str(caught.value)


def test_a_page_is_whole_and_its_texts_cannot_break_out():
    block = pack(*maps.payload())
    page = render(block, title="<b>& ")
    assert block_of(page, source="p") == block
    assert "<title>&lt;b&gt;&amp; </title>" in page and "{{" not in page.split("<script>")[0]
    for name in ("regl-scatterplot 1.16.0, MIT", "default-src 'none'"):
        assert name in page
    for outside in ('src="http', 'href="http', "@import", "url(http"):
        assert outside not in page


def test_a_page_that_asks_the_service_has_no_vectors():
    export = maps.songs()
    labels = [f"spotify:track:{i}" for i in export.item_ids]
    page = render(pack(*maps.payload(export, ids=labels)), title="Music Map: test")
    assert "connect-src 'none'" in page
    asking = live(page, source="map.html")
    arrays, meta = unpack(block_of(asking, source="p"), source="p")
    assert "codes" not in arrays and meta["service"] and meta["ids"] == labels
    assert "connect-src 'self'" in asking and len(asking) < len(page)
    with pytest.raises(DamagedFileError, match=r"map\.html: holds no map"):
        live("<p>hello", source="map.html")
