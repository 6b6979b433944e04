"""Lists: newest first, by state, and not disturbed by what happens between two pages."""

import pytest

from schemas.errors import InvalidRequest
from tests.storage.desk import Desk


def read_all(desk: Desk, limit: int, state: str | None = None) -> list[str]:
    ids, cursor = desk.list_ids(limit, None, state)
    while cursor is not None:
        more, cursor = desk.list_ids(limit, cursor, state)
        assert more
        ids += more
    return ids


@pytest.mark.parametrize("limit", [1, 3, 10, 11])
def test_pages_hold_every_job_once_newest_first(desk: Desk, limit: int) -> None:
    ids = [desk.accept() for _ in range(10)]
    assert read_all(desk, limit) == ids[::-1]


def test_no_jobs_are_one_empty_page(desk: Desk) -> None:
    assert desk.list_ids(10) == ([], None)


def test_new_jobs_and_changes_between_two_pages_shift_nothing(desk: Desk) -> None:
    ids = [desk.accept() for _ in range(6)]
    first, cursor = desk.list_ids(2)
    for _ in range(5):
        desk.accept()
    desk.succeed(ids[4])
    desk.cancel(ids[0])
    second, cursor = desk.list_ids(2, cursor)
    third, cursor = desk.list_ids(2, cursor)
    assert first + second + third == ids[::-1]
    assert cursor is None


def test_a_state_filter_lists_that_state_only(desk: Desk) -> None:
    ids = [desk.accept() for _ in range(9)]
    for id in ids[::3]:
        desk.cancel(id)
    assert read_all(desk, 2, "cancelled") == ids[::3][::-1]
    assert read_all(desk, 2, "queued") == [id for id in ids[::-1] if id not in ids[::3]]
    assert desk.list_ids(5, None, "failed") == ([], None)


def test_a_page_follows_a_filter_while_jobs_leave_its_state(desk: Desk) -> None:
    ids = [desk.accept() for _ in range(4)]
    first, cursor = desk.list_ids(2, None, "queued")
    desk.cancel(ids[2])
    desk.cancel(ids[1])
    assert (first, desk.list_ids(2, cursor, "queued")) == ([ids[3], ids[2]], ([ids[0]], None))


def test_owners_lists_are_their_own(desk: Desk) -> None:
    mine, other = desk.accept(), desk.submit(owner="local:index:all").record.id
    assert desk.list_ids(10) == ([mine], None)
    assert desk.list_ids(10, owner="local:index:all") == ([other], None)


@pytest.mark.parametrize("cursor", ["", "x", "-", "[a", "0" * 28, "0" * 30, "Z" * 29])
def test_a_cursor_of_somebodys_invention_is_refused(desk: Desk, cursor: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        desk.list_ids(10, cursor)
    assert raised.value.faults[0].where == "query: cursor"
