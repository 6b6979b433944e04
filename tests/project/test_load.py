import asyncio

from benchmarks.http_load import Connection, Latencies, load_openly, prepare
from benchmarks.load import Result

PAUSE_S = 0.05


async def load_slow_server(rate: float, connections: int, status: bytes) -> Latencies:
    """Load a server that takes its time for each answer, one at a time per connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            while await reader.readline() != b"\r\n":
                pass
            await asyncio.sleep(PAUSE_S)
            writer.write(b"HTTP/1.1 " + status + b" \r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    opened = [Connection("127.0.0.1", port) for _ in range(connections)]
    found = await load_openly(opened, lambda _: prepare("GET", "/"), rate, 0.5, frozenset({200}))
    for one in opened:
        await one.close()
    await asyncio.sleep(PAUSE_S)  # the server sees that its callers are gone
    server.close()
    return found


def test_a_server_that_falls_behind_is_charged_for_the_wait_of_those_that_it_keeps_waiting() -> None:
    behind = asyncio.run(load_slow_server(100, 1, b"200"))
    assert len(behind.seconds) == 50
    assert behind.find_quantile(0.99) > 50 * PAUSE_S - 0.5 - PAUSE_S
    in_time = asyncio.run(load_slow_server(20, 8, b"200"))
    assert PAUSE_S <= in_time.find_quantile(0.5) < 4 * PAUSE_S
    assert in_time.faults == []


def test_another_status_is_a_fault() -> None:
    found = asyncio.run(load_slow_server(20, 4, b"503"))
    assert len(found.faults) == 10
    result = Result()
    result.add_latencies("polls", found, 20, 60.0)
    assert not result.good
