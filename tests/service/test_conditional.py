import pytest

from service.conditional import accepts, format_etag, matches_etag, read_wait


@pytest.mark.parametrize(
    ("header", "held"),
    [
        (None, False),
        ("", False),
        ('"7"', True),
        ('W/"7"', True),
        ('"1", "7"', True),
        ('"1" ,W/"7"', True),
        ("*", True),
        (" * ", True),
        ('"77"', False),
        ("7", False),
    ],
)
def test_an_entity_tag_is_found_in_any_list(header: str | None, held: bool) -> None:
    assert matches_etag(header, format_etag(7)) is held


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("respond-async", None),
        ("wait=5", 5),
        ("Wait = 5", 5),
        ('wait="5"', 5),
        ("respond-async, wait=5; foo=bar", 5),
        ("handling=lenient,wait=0", 0),
        ("wait=61", 60),
        ("wait=999999999", 60),
        ("wait=9999999999999999999999", None),
        ("wait=-1", None),
        ("wait=1.5", None),
        ("wait", None),
        ("await=5", None),
    ],
)
def test_a_wait_is_whole_seconds_up_to_the_cap(header: str | None, seconds: int | None) -> None:
    assert read_wait(header, 60) == seconds


@pytest.mark.parametrize(
    ("header", "fine"),
    [
        (None, True),
        ("", True),
        ("*/*", True),
        ("application/*", True),
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("text/html, application/json;q=0.1", True),
        ("text/html", False),
        ("application/json;q=0", False),
        ("application/json;q=0, */*", False),
        ("*/*;q=0, application/json", True),
        ("text/html;q=bad", False),
        (";;,", False),
    ],
)
def test_the_most_specific_range_decides(header: str | None, fine: bool) -> None:
    assert accepts(header, "application/json") is fine
