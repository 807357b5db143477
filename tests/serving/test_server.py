"""The server beside hostile clients, and its end: in a thread, with limits that a test can wait for."""

import asyncio
import contextlib
import logging
import threading
import time

import pytest
from clients import Seen, answer, ask, endless_head, get, half_sent, request
from generated_recommender import generated

from music_map.errors import UserError
from music_map.retrieval.answers import Query
from music_map.serving import server as serving
from music_map.serving.service import create_app


@pytest.fixture(scope="module")
def recommender():
    found = generated()
    for size in (1, 8, 64):  # compiled before the clocks run
        found.recommend_batch([Query((1,))] * size)
    return found


@contextlib.contextmanager
def running(recommender, *, most_connections=50):
    """The port of a service; at the end it is told to end, and does."""
    app = create_app(recommender)
    sockets = serving.bind("127.0.0.1", 0)
    serving.listen(sockets)
    config = serving.Config(app, most_connections=most_connections, log_config=None, server_header=False, ws="none")
    server = serving.Server(config, app.state.close)
    thread = threading.Thread(target=server.run, args=(sockets,))
    thread.start()
    try:
        yield sockets[0].getsockname()[1], server
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def test_half_sent_requests_keep_nobody_out(recommender, caplog):
    """Many more of them than there may be connections; the oldest give way."""

    async def run(port):
        held = await half_sent(port, 200)
        status, head, _ = await get(port)
        seen = Seen()
        await asyncio.gather(*(ask(port, [request({"songs": [n]})] * 3, seen) for n in range(10)))
        for writer in held:
            writer.close()
        return status, head, seen

    with running(recommender) as (port, server):
        status, head, seen = asyncio.run(run(port))
        assert len(server.server_state.connections) <= 50
    assert status == 200 and "server:" not in head.lower()
    assert set(seen.statuses) == {200}
    assert not caplog.records


def test_requests_that_do_not_arrive_are_ended(recommender, monkeypatch):
    monkeypatch.setattr(serving, "REQUEST_SECONDS", 1.0)
    begun = (
        b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-a: ",
        b"POST /recommend HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{",
    )

    async def slow(port, data):
        """Status of a request of which a byte comes at a time."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        found = asyncio.create_task(answer(reader))
        with contextlib.suppress(ConnectionError):
            while not found.done():
                writer.write(b"a")
                await writer.drain()
                await asyncio.sleep(0.1)
        status, _, _ = await found
        writer.close()
        return status

    async def silent(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        found = await reader.read()
        writer.close()
        return found

    async def run(port):
        return await asyncio.gather(*(slow(port, data) for data in begun), silent(port))

    with running(recommender) as (port, server):
        start = time.monotonic()
        assert asyncio.run(run(port)) == [408, 408, b""]
        assert time.monotonic() - start < 5
        assert not server.config.waiting


def test_a_head_without_an_end_is_not_read(recommender):
    with running(recommender) as (port, _):
        # What the sockets hold on both sides is beyond anybody's control.
        assert asyncio.run(endless_head(port, 100)) < 16 * 2**20
        assert asyncio.run(get(port, more=f"x-large: {'x' * 20_000}\r\n"))[0] == 431
        assert asyncio.run(get(port, more="x-small: x\r\n" * 1_000))[0] == 200


def test_clients_that_do_not_read_are_dropped(recommender, monkeypatch):
    monkeypatch.setattr(serving, "REQUEST_SECONDS", 0.5)
    monkeypatch.setattr(serving, "ANSWER_SECONDS", 1.0)
    one = request({"songs": list(range(100)), "k": 200, "reasons": 10})

    async def run(port, server):
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1_024)
        writer.transport.pause_reading()
        writer.write(one * 200)
        await asyncio.sleep(1.0)
        assert len(server.server_state.connections) == 1
        for _ in range(100):
            await asyncio.sleep(0.1)
            if not server.server_state.connections:
                break
        writer.transport.abort()
        return len(server.server_state.connections)

    with running(recommender) as (port, server):
        assert asyncio.run(run(port, server)) == 0


def test_requests_in_a_row_on_one_connection(recommender):
    """Pipelined, in pieces, with large bodies: all are answered, in order."""
    bodies = [{"songs": [n], "k": 1 + n % 5, "dislikes": list(range(10_000, 11_000))} for n in range(20)]
    data = b"".join(map(request, bodies))

    async def run(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for start in range(0, len(data), 7_001):
            writer.write(data[start : start + 7_001])
            await asyncio.sleep(0.001)
        found = [await answer(reader) for _ in bodies]
        writer.close()
        return found

    with running(recommender) as (port, _):
        found = asyncio.run(run(port))
    assert [body.count(b'"rank":') for _, _, body in found] == [body["k"] for body in bodies]


def test_the_end_answers_for_the_grace_and_refuses_the_rest(recommender, monkeypatch, caplog):
    monkeypatch.setattr(serving, "GRACE_SECONDS", 1.0)
    batch = recommender.recommend_batch

    def slow(queries, **options):
        time.sleep(0.3)
        return batch(queries, **options)

    monkeypatch.setattr(recommender, "recommend_batch", slow)

    async def run(port, server):
        seen = Seen()
        # Eight filters: a batch of 64 takes 2.4 s, longer than the grace, and those that come after it are refused.
        asked = [request({"songs": [n], "filters": {"min_listeners": n % 8}}) for n in range(100)]
        held = await half_sent(port, 5)
        many = [asyncio.create_task(ask(port, [one], seen)) for one in asked]
        await asyncio.sleep(0.5)
        server.should_exit = True
        start = time.monotonic()
        await asyncio.gather(*many)
        for writer in held:
            writer.close()
        return seen, time.monotonic() - start

    with running(recommender, most_connections=200) as (port, server):
        seen, seconds = asyncio.run(run(port, server))
    assert set(seen.statuses) == {200, 503} and seen.statuses.total() == 100
    assert seen.without_retry == 0 and seconds < 6
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_addresses_that_cannot_be_listened_on():
    taken = serving.bind("127.0.0.1", 0)
    serving.listen(taken)
    port = taken[0].getsockname()[1]
    for host, says in (
        ("127.0.0.1", "in use"),
        ("", "empty"),
        ("no.such.host.invalid", "no.such.host"),
        ("192.0.2.1", "192.0.2.1"),
    ):
        with pytest.raises(UserError, match=says):
            serving.bind(host, port)
    taken[0].close()
    assert serving.is_loopback("localhost") and serving.is_loopback("::1") and not serving.is_loopback("0.0.0.0")
    assert serving.is_wildcard("0.0.0.0") and serving.is_wildcard("::") and not serving.is_wildcard("127.0.0.1")


def test_logs_hold_no_control_characters():
    record = logging.LogRecord("uvicorn", logging.INFO, "", 0, "asked for %s", ("\x1b[31ma\rb",), None)
    assert serving._Formatter("%(message)s").format(record) == "asked for \\x1b[31ma\\rb"
