import asyncio
from typing import Any

import pytest

from schemas.errors import Unavailable
from storage.connection import connect_async
from storage.glances import Glance, Glances
from tests.storage.desk import OWNER, Desk


def test_a_glance_is_whose_the_job_is_and_its_revision(desk: Desk) -> None:
    job = desk.submit().record
    assert desk.run(desk.queue.glance(job.id)) == Glance(OWNER, job.revision)
    claim = desk.leases.claim(job.id, "w")
    assert claim is not None
    assert desk.run(desk.queue.glance(job.id)) == Glance(OWNER, job.revision + 1)
    assert desk.run(desk.queue.glance("no-such-job")) is None


class CountedClient:
    """A real client that counts its round trips and can hold one back."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.trips = 0
        self.gate = asyncio.Event()
        self.gate.set()

    def pipeline(self, *, transaction: bool) -> Any:
        pipeline = self._client.pipeline(transaction=transaction)
        execute = pipeline.execute

        async def count() -> Any:
            self.trips += 1
            await self.gate.wait()
            return await execute()

        pipeline.execute = count
        return pipeline


def test_calls_at_the_same_time_share_round_trips_and_see_what_was_there_when_they_began(desk: Desk) -> None:
    ids = [desk.submit(str(number)).record.id for number in range(20)]

    async def look() -> tuple[int, list[Glance | None], Glance | None]:
        async with desk.server.connect_async() as client:
            counted = CountedClient(client)
            glances = Glances(counted)  # type: ignore[arg-type]
            counted.gate.clear()
            first = asyncio.create_task(glances.look(ids[0]))
            await asyncio.sleep(0.05)  # its round trip is under way
            rest = [asyncio.create_task(glances.look(id)) for id in ids * 5]
            hung_up = asyncio.create_task(glances.look(ids[1]))
            await asyncio.sleep(0.05)
            hung_up.cancel()
            await client.hset(f"faultline:job:{ids[0]}", "revision", 77)
            counted.gate.set()
            return counted.trips, await asyncio.gather(*rest), await first

    trips, found, _ = desk.run(look())
    assert trips == 1
    assert [one is not None and one.owner for one in found] == [OWNER] * 100
    assert found[0] == Glance(OWNER, 77)  # asked after the change, although another caller's question was under way before it


def test_a_store_that_is_away_is_told_to_everybody_who_waits() -> None:
    async def look() -> list[Glance | BaseException | None]:
        client = connect_async("unix:///nowhere/store.sock", retries=0)
        glances = Glances(client)
        found = await asyncio.gather(*(glances.look(str(number)) for number in range(3)), return_exceptions=True)
        await client.aclose()
        return found

    assert [type(one) for one in asyncio.run(look())] == [Unavailable] * 3


@pytest.mark.parametrize("calls", [1, 50])
def test_it_goes_on_after_a_failure(desk: Desk, calls: int) -> None:
    job = desk.submit().record

    async def look() -> list[Glance | None]:
        async with desk.server.connect_async() as client:
            glances = Glances(client)
            await client.set("faultline:job:broken", "no hash")
            with pytest.raises(Exception, match="WRONGTYPE"):
                await glances.look("broken")
            return await asyncio.gather(*(glances.look(job.id) for _ in range(calls)))

    assert desk.run(look()) == [Glance(OWNER, job.revision)] * calls
