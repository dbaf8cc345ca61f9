"""Several servers that take connections from one socket; in one event loop, so that no timing decides."""

import asyncio
import socket
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import uvicorn

from service.connection_counts import ConnectionCounts
from service.protocol import GuardedProtocol
from service.sharing import SharingServer

DEADLINE_S = 30.0


async def app(scope, receive, send):  # noqa: ARG001
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


def make_server(listener, counts):
    config = uvicorn.Config(app, http=GuardedProtocol, lifespan="off", log_config=None)
    return SharingServer(config, listener, counts)


@asynccontextmanager
async def running(listener, counts):
    own = listener.dup()  # a loop has one reader for each descriptor
    server = make_server(own, counts)
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup()
    yield server
    server.should_exit = True
    await server.shutdown()
    own.close()


async def connected(stack, address, number):
    """So many more connections, each taken by somebody."""
    for _ in range(number):
        reader, writer = await asyncio.open_connection(*address)
        stack.callback(writer.close)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 204")


def scenario_of(num_processes, steps, tmp_path):
    """Run steps on an address that so many servers share."""

    async def scenario():
        async with asyncio.timeout(DEADLINE_S), AsyncExitStack() as stack:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            counts = [ConnectionCounts(tmp_path / "counts", n, num_processes) for n in range(num_processes)]
            await steps(stack, listener, counts)

    asyncio.run(scenario())


def num_connections(server):
    return len(server.server_state.connections)


def test_connections_are_shared_out_evenly(tmp_path):
    async def steps(stack, listener, counts):
        servers = [await stack.enter_async_context(running(listener, each)) for each in counts]
        await connected(stack, listener.getsockname(), 9)
        assert [num_connections(server) for server in servers] == [3, 3, 3]

    scenario_of(3, steps, tmp_path)


def test_a_process_that_comes_later_takes_what_the_others_have_more(tmp_path):
    async def steps(stack, listener, counts):
        first = await stack.enter_async_context(running(listener, counts[0]))
        await connected(stack, listener.getsockname(), 4)
        second = await stack.enter_async_context(running(listener, counts[1]))
        await connected(stack, listener.getsockname(), 4)
        assert (num_connections(first), num_connections(second)) == (4, 4)

    scenario_of(2, steps, tmp_path)


def test_connections_that_a_stuck_process_should_take_are_taken_by_another(tmp_path):
    async def steps(stack, listener, counts):
        counts[1].tell(0)  # and nobody is there to take one
        server = await stack.enter_async_context(running(listener, counts[0]))
        await connected(stack, listener.getsockname(), 3)
        assert num_connections(server) == 3

    scenario_of(2, steps, tmp_path)


def test_a_process_that_has_left_is_waited_for_no_more(tmp_path):
    counts = [ConnectionCounts(tmp_path / "counts", number, 2) for number in range(2)]
    counts[0].tell(3)
    counts[1].tell(1)
    assert counts[0].is_ahead()
    counts[1].leave()
    assert not counts[0].is_ahead()


@pytest.mark.parametrize(
    ("own", "others", "ahead"), [(1, 0, True), (1, 1, False), (9, 8, False), (10, 8, True), (0, 5, False)]
)
def test_a_small_share_more_than_another_is_as_many(tmp_path, own, others, ahead):
    counts = [ConnectionCounts(tmp_path / "counts", number, 2) for number in range(2)]
    counts[0].tell(own)
    counts[1].tell(others)
    assert counts[0].is_ahead() is ahead
