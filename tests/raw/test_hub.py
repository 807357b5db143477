"""Downloads against a loopback hub: whole, broken off, resumed, wrong, refused."""

import contextlib
import email.utils
import hashlib
import json
import resource
import shutil
import socket
import subprocess
import sys
import time

import fake_hub
import huggingface_hub
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from music_map.errors import UserError
from music_map.raw import hub

LISTENS, LIKES = "flat/50m/listens.parquet", "flat/50m/likes.parquet"
PATHS = [LISTENS, LIKES, "embeddings.parquet"]


HOLDER = """
import sys
from pathlib import Path
from music_map.lock import writing
with writing(Path(sys.argv[1]), "generate"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def random_bytes(seed, size):
    return np.random.default_rng(seed).bytes(size)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # pauses between tries, ours and the hub library's
    with fake_hub.serve({path: random_bytes(i, 300_000 + i) for i, path in enumerate(PATHS)}) as server:
        yield server
    huggingface_hub.close_session()


def source_of(server, **fields):
    return hub.Source(endpoint=server.endpoint, **fields)


def fetch(server, output, paths=PATHS, **fields):
    source = source_of(server, **fields)
    return hub.download(source, hub.list_files(source, paths), output)


def assert_whole(server, output, paths=PATHS):
    for path in paths:
        assert (output / path).read_bytes() == server.files[path]
    assert not list(output.glob(".download/*.part"))


class Bars:
    """A Progress that keeps count."""

    def __init__(self):
        self.totals, self.done = {}, {}

    @contextlib.contextmanager
    def __call__(self, label, total, unit):
        assert unit == "B"
        self.totals[label], self.done[label] = total, 0

        def advance(n):
            self.done[label] += n

        yield advance


def test_list_files_tells_size_hash_and_one_commit(server):
    server.in_git = {LIKES}
    files = hub.list_files(source_of(server), PATHS)
    assert [f.path for f in files] == PATHS
    assert [f.size for f in files] == [300_000, 300_001, 300_002]
    assert files[0].digest == hashlib.sha256(server.files[LISTENS]).hexdigest()
    assert files[1].digest == server.blob_sha1(LIKES)
    assert {f.commit for f in files} == {fake_hub.COMMIT}
    # The branch is asked for once; what follows names the commit.
    assert [r.path.split("/")[5] for r in server.requests] == ["main", fake_hub.COMMIT, fake_hub.COMMIT]


def test_download_brings_every_file_and_a_second_run_nothing(server, tmp_path):
    server.in_git = {LIKES}
    source, bars = source_of(server), Bars()
    files = hub.list_files(source, PATHS)
    assert hub.download(source, files, tmp_path, progress=bars) == files
    assert_whole(server, tmp_path)
    assert bars.totals == bars.done == {"download": 900_003}
    assert len(server.transfers()) == 3

    again = Bars()
    assert hub.download(source, files, tmp_path, progress=again) == []
    assert len(server.transfers()) == 3
    assert again.totals == {}  # nothing is hashed a second time either


@pytest.mark.parametrize("reset", [False, True])
def test_a_broken_off_transfer_goes_on_with_a_range_request(server, tmp_path, reset):
    server.cuts[LISTENS] = [100_000]
    server.reset = reset
    source, bars = source_of(server), Bars()
    hub.download(source, hub.list_files(source, PATHS), tmp_path, progress=bars)
    assert_whole(server, tmp_path)
    first, second = server.transfers(LISTENS)
    assert first.first_byte is None
    if reset:  # a reset may discard bytes that were under way
        assert second.first_byte is None or 0 < second.first_byte <= 100_000
    else:
        assert second.first_byte == 100_000
    assert bars.totals == bars.done


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 120_000), max_size=5))
def test_any_breaks_give_the_same_file(server, tmp_path, cuts):
    output = tmp_path / hashlib.sha256(repr(cuts).encode()).hexdigest()
    server.cuts[LISTENS] = list(cuts)
    fetch(server, output, [LISTENS], attempts=10)
    assert_whole(server, output, [LISTENS])


def test_a_failed_run_is_gone_on_with_by_the_next(server, tmp_path):
    source = source_of(server)
    files = hub.list_files(source, PATHS)
    server.cuts[LIKES] = [50_000] + [0] * 100
    with pytest.raises(hub.HubError, match=rf"{LIKES}: the connection failed .*by hand"):
        hub.download(source, files, tmp_path)
    assert (tmp_path / LISTENS).exists() and not (tmp_path / LIKES).exists()
    [part] = tmp_path.glob(".download/*.part")
    assert part.read_bytes() == server.files[LIKES][:50_000]

    server.cuts.clear()
    server.requests.clear()
    assert [f.path for f in hub.download(source, files, tmp_path)] == PATHS[1:]
    assert [r.first_byte for r in server.transfers(LIKES)] == [50_000]
    assert not server.transfers(LISTENS)
    assert_whole(server, tmp_path)


def test_an_interrupt_keeps_what_has_arrived(server, tmp_path):
    server.files[LISTENS] = random_bytes(9, 25_000_000)  # more than fits the buffers of a socket

    @contextlib.contextmanager
    def interrupted(label, total, unit):
        def advance(n):
            raise KeyboardInterrupt

        yield advance

    source = source_of(server)
    files = hub.list_files(source, [LISTENS])
    with pytest.raises(KeyboardInterrupt):
        hub.download(source, files, tmp_path, progress=interrupted)
    [part] = tmp_path.glob(".download/*.part")
    arrived = part.stat().st_size
    assert 0 < arrived < 25_000_000

    hub.download(source, files, tmp_path)
    assert server.transfers(LISTENS)[-1].first_byte == arrived
    assert_whole(server, tmp_path, [LISTENS])


def test_a_server_that_ignores_ranges_costs_only_time(server, tmp_path):
    server.cuts[LISTENS] = [100_000]
    server.ignore_ranges = True
    source, bars = source_of(server), Bars()
    hub.download(source, hub.list_files(source, [LISTENS]), tmp_path, progress=bars)
    assert_whole(server, tmp_path, [LISTENS])
    assert bars.done == {"download": 300_000}


@pytest.mark.parametrize("in_git", [False, True])
def test_wrong_bytes_are_named_and_removed(server, tmp_path, in_git):
    server.in_git = {LIKES} if in_git else set()
    server.served[LIKES] = random_bytes(7, 300_001)
    with pytest.raises(hub.HubError, match=f"^{LIKES}: the 300001 bytes received have .*removed"):
        fetch(server, tmp_path)
    assert not (tmp_path / LIKES).exists()
    assert not list(tmp_path.glob(".download/*.part"))
    assert_whole(server, tmp_path, [LISTENS])
    assert len(server.transfers(LIKES)) == 1


def test_a_file_longer_than_announced_is_refused(server, tmp_path):
    server.served[LIKES] = server.files[LIKES] + b"more"
    with pytest.raises(hub.HubError, match="sends 300005 bytes or more, the hub announced 300001"):
        fetch(server, tmp_path)


def test_a_damaged_partial_file_is_dropped_and_fetched_anew(server, tmp_path):
    source, bars = source_of(server), Bars()
    files = hub.list_files(source, [LISTENS])
    (tmp_path / ".download").mkdir()
    part = tmp_path / ".download" / f"flat-50m-listens.parquet.{files[0].digest[:16]}.part"
    part.write_bytes(b"\0" * 1000)
    hub.download(source, files, tmp_path, progress=bars)
    assert [r.first_byte for r in server.transfers(LISTENS)] == [1000, None]
    assert_whole(server, tmp_path, [LISTENS])
    assert bars.done == {"download": 300_000}


def test_a_whole_partial_file_needs_no_transfer(server, tmp_path):
    source = source_of(server)
    files = hub.list_files(source, [LISTENS])
    (tmp_path / ".download").mkdir()
    part = tmp_path / ".download" / f"flat-50m-listens.parquet.{files[0].digest[:16]}.part"
    part.write_bytes(server.files[LISTENS])
    hub.download(source, files, tmp_path)
    assert not server.transfers()
    assert_whole(server, tmp_path, [LISTENS])


def test_partial_files_of_an_older_version_are_removed(server, tmp_path):
    (tmp_path / ".download").mkdir()
    (tmp_path / ".download" / "flat-50m-listens.parquet.0123456789abcdef.part").write_bytes(b"old")
    fetch(server, tmp_path)
    assert_whole(server, tmp_path)


def test_right_files_put_there_by_hand_are_taken(server, tmp_path):
    (tmp_path / "embeddings.parquet").write_bytes(server.files["embeddings.parquet"])
    assert [f.path for f in fetch(server, tmp_path)] == PATHS[:2]
    assert not server.transfers("embeddings.parquet")


@pytest.mark.parametrize("content", [b"my own logs", b"x" * 300_000])
def test_a_foreign_file_in_the_way_is_never_touched(server, tmp_path, content):
    (tmp_path / "flat/50m").mkdir(parents=True)
    (tmp_path / LISTENS).write_bytes(content)
    with pytest.raises(UserError, match=f"{LISTENS}: differs from the hub's file .* move it away"):
        fetch(server, tmp_path)
    assert (tmp_path / LISTENS).read_bytes() == content
    assert not server.transfers()


def test_a_fetched_file_that_was_damaged_is_fetched_again(server, tmp_path):
    fetch(server, tmp_path)
    (tmp_path / LISTENS).write_bytes(server.files[LISTENS][:1000])
    assert [f.path for f in fetch(server, tmp_path)] == [LISTENS]
    assert_whole(server, tmp_path)


def test_a_new_version_on_the_hub_replaces_what_was_fetched(server, tmp_path):
    fetch(server, tmp_path)
    server.files[LIKES] = random_bytes(8, 1234)
    assert [f.path for f in fetch(server, tmp_path)] == [LIKES]
    assert_whole(server, tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"flat/50m/listens.parquet": 3}'])
def test_a_damaged_record_only_costs_reading_the_files(server, tmp_path, text):
    fetch(server, tmp_path)
    record = tmp_path / ".download" / "verified.json"
    assert set(json.loads(record.read_text())) == set(PATHS)
    record.write_text(text)
    assert fetch(server, tmp_path) == []
    assert set(json.loads(record.read_text())) == set(PATHS)


def test_a_missing_file_is_named(server, tmp_path):
    del server.files[LIKES]
    with pytest.raises(hub.HubError, match=f"{LIKES}: yandex/yambda has no such file at 'main'"):
        fetch(server, tmp_path)


def test_an_unknown_revision_is_named(server):
    with pytest.raises(hub.HubError, match="yandex/yambda has no revision 'v9'; --revision=main"):
        hub.list_files(source_of(server, revision="v9"), PATHS)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"access refused \(401\); set HF_TOKEN"),
        (403, r"access refused \(403\); set HF_TOKEN"),
        (404, r"not found \(404\); check HF_ENDPOINT"),
        (500, "the hub answered 500; try again later"),
        (0, "lacks commit, size or hash, so this is no hub"),
    ],
)
def test_refusals_are_explained(server, status, message):
    server.status[LIKES] = status
    with pytest.raises(hub.HubError, match=message) as caught:
        hub.list_files(source_of(server), PATHS)
    assert LIKES in str(caught.value) and "\n" not in str(caught.value)
    # Only what may pass is tried again.
    assert sum(r.path.endswith(LIKES) for r in server.requests) == (3 if status == 500 else 1)


def test_a_busy_hub_is_asked_again(server, monkeypatch):
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            server.status.clear()

    monkeypatch.setattr(time, "sleep", sleep)
    server.status[LISTENS] = 503
    assert len(hub.list_files(source_of(server), PATHS)) == 3
    assert waits == [1.0, 2.0]


def test_a_hub_that_asks_to_wait_is_obeyed(server, monkeypatch):
    waits, said = [], []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            server.status.clear()

    monkeypatch.setattr(time, "sleep", sleep)
    server.status[LISTENS], server.headers = 429, {"Retry-After": "61"}
    hub.list_files(source_of(server, note=said.append), PATHS[:1])
    assert waits == [61.0, 61.0] and said == [f"{server.endpoint}: busy; the next try is in 61 s"] * 2
    server.status[LISTENS], server.headers = 503, {"Retry-After": email.utils.formatdate(time.time() + 90, usegmt=True)}
    waits.clear()
    hub.list_files(source_of(server), PATHS[:1])
    assert all(80 < seconds <= 90 for seconds in waits)
    server.status[LISTENS], server.headers = 429, {"Retry-After": "86400"}
    with pytest.raises(hub.HubError, match="the hub answered 429; try again in 86,400 s, as it asks"):
        hub.list_files(source_of(server), PATHS[:1])
    for nonsense in ("-1", "soon", "9" * 400, "\u00b2"):
        with pytest.raises(hub.HubError, match="the hub answered 429; try again"):
            server.headers = {"Retry-After": nonsense.encode("utf-8").decode("latin-1")}
            hub.list_files(source_of(server), PATHS[:1])


@pytest.mark.parametrize("endless", [False, True])
def test_more_than_the_announced_size_is_stopped_at_once(server, tmp_path, endless):
    files = hub.list_files(source_of(server), PATHS[:1])
    server.served[LISTENS], server.endless = bytes(200_000_000), 200_000_000 * endless
    if endless:
        server.served[LISTENS] = bytes(100_000)
    with pytest.raises(hub.HubError, match=f"{LISTENS}: the server sends .* bytes or more, the hub announced 300000"):
        hub.download(source_of(server), files, tmp_path)
    assert sum(p.stat().st_size for p in tmp_path.rglob("*.part")) == 0
    assert len(server.transfers(LISTENS)) == 1 and server.sent < 20_000_000
    server.served.clear()
    server.endless = 0
    fetch(server, tmp_path)
    assert_whole(server, tmp_path)


def test_a_server_that_trickles_is_given_up(server, tmp_path):
    files = hub.list_files(source_of(server), PATHS[:1])
    server.trickle = 0.02
    began = time.monotonic()
    with pytest.raises(hub.HubError, match=r"connection failed \(only \d+ bytes in 0.3 s\)"):
        hub.download(source_of(server, patience=0.3), files, tmp_path)
    assert time.monotonic() - began < 5 and len(server.transfers(LISTENS)) == 3
    server.trickle = 0
    fetch(server, tmp_path)
    assert_whole(server, tmp_path)


def test_an_answer_that_does_not_begin_is_given_up(server):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        source = hub.Source(endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}", patience=0.2)
        with pytest.raises(hub.HubError, match=r"connection failed \(no answer within 0.2 s\)"):
            hub.list_files(source, PATHS)


@pytest.mark.parametrize(
    "headers",
    [{"X-Linked-Size": "abc"}, {"X-Linked-Size": "-1"}, {"X-Linked-Etag": '"x"'}, {"X-Repo-Commit": ""}],
)
def test_headers_that_make_no_sense_are_no_hub(server, headers):
    server.headers = headers
    with pytest.raises(hub.HubError, match="lacks commit, size or hash, so this is no hub"):
        hub.list_files(source_of(server), PATHS)


def test_an_answer_that_is_no_http_is_a_clear_error(server):
    server.garbage = b"\x00\xff SSH-2.0\r\n\r\n"
    with pytest.raises(hub.HubError, match="the connection failed") as caught:
        hub.list_files(source_of(server), PATHS)
    assert "\n" not in str(caught.value)


def test_a_connection_that_falls_silent_is_replaced(server, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    monkeypatch.setattr(time, "sleep", lambda seconds: server.stall.clear())
    server.stall[LISTENS] = 50_000
    fetch(server, tmp_path)
    assert_whole(server, tmp_path)
    assert [r.first_byte for r in server.transfers(LISTENS)] == [None, 50_000]


def test_no_network_is_a_clear_error(server):
    port = fake_hub.closed_port()
    with pytest.raises(hub.HubError, match=f"127.0.0.1:{port}.*connection failed .*check the network") as caught:
        hub.list_files(hub.Source(endpoint=f"http://127.0.0.1:{port}"), PATHS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "endpoint",
    [
        "huggingface.co", "ftp://example.org", "http://", "http://x:port", "http://[1", "http://x:99999", "http://x:0",
        "http://x:-1", "http://a b", "http://x\n.example", "http://x/?a=b", "http://x/#a",
        "http://\ud800.example", "//x", "http://[::1]x", "http://exa\x00mple",
    ],
)  # fmt: skip
def test_an_endpoint_that_is_no_address_is_named(endpoint):
    with pytest.raises(UserError, match=r"HF_ENDPOINT=.* is no address of a hub"):
        hub.list_files(hub.Source(endpoint=endpoint), PATHS)


def test_the_token_goes_to_the_hub_alone(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch(server, tmp_path)
    assert {r.authorization for r in server.requests if "/resolve/" in r.path} == {"Bearer hf_secret"}
    assert {r.authorization for r in server.requests if "/content/" in r.path} == {None}


def test_too_small_a_disk_is_told_before_anything_is_fetched(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 100_000))
    with pytest.raises(UserError, match=r"needs 0\.00 GB|free some space") as caught:
        fetch(server, tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert not server.transfers()


def test_a_disk_that_fills_up_is_told_and_the_rest_is_kept(server, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    source = source_of(server)
    files = hub.list_files(source, PATHS)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(UserError, match="no space left on the disk") as caught:
            hub.download(source, files, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not isinstance(caught.value, hub.HubError)
    hub.download(source, files, tmp_path)
    assert_whole(server, tmp_path)


def test_two_downloads_do_not_write_to_one_folder(server, tmp_path):
    job = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(job, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=r"generate \(process \d+ on host .*\) is writing there; wait for it"):
            fetch(server, tmp_path)
        other.communicate(b"end\n")
    fetch(server, tmp_path)


def test_an_output_that_is_a_file_is_named(server, tmp_path):
    (tmp_path / "raw").write_text("")
    with pytest.raises(UserError, match="raw: is a file"):
        fetch(server, tmp_path / "raw")


def test_by_hand_lists_what_is_missing(tmp_path):
    (tmp_path / "flat/50m").mkdir(parents=True)
    (tmp_path / LISTENS).touch()
    lines = hub.by_hand(hub.Source(endpoint="http://hub.example"), PATHS[:2], tmp_path)
    assert lines == [f"http://hub.example/datasets/yandex/yambda/resolve/main/{LIKES} -> {tmp_path / LIKES}"]
