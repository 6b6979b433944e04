"""Reads the headers that make a request conditional or patient: If-None-Match, Prefer, Accept."""

import re

_TAG = re.compile(r'(?:W/)?"([^"]*)"')
_WAIT = re.compile(r'(?:^|[,;])\s*wait\s*=\s*"?(\d{1,9})"?\s*(?=$|[,;])', re.IGNORECASE)


def format_etag(value: str | int) -> str:
    """Return the strong entity tag of `value`."""
    return f'"{value}"'


def matches_etag(if_none_match: str | None, etag: str) -> bool:
    """Tell whether the caller already holds `etag`; weak comparison, as RFC 9110 asks of If-None-Match.

    Returns:
        True for "*" and for a list that names the tag.

    >>> matches_etag('W/"3", "4"', '"4"'), matches_etag("*", '"4"'), matches_etag('"3"', '"4"')
    (True, True, False)
    """
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or etag.strip('"') in _TAG.findall(if_none_match)


def read_wait(prefer: str | None, cap_s: int) -> int | None:
    """Read RFC 7240's `wait`.

    Returns:
        The seconds asked for, at most `cap_s`; None when there is no such preference.

    >>> read_wait("respond-async, wait=90", 60), read_wait("wait=soon", 60)
    (60, None)
    """
    found = _WAIT.search(prefer or "")
    return min(int(found[1]), cap_s) if found else None


def wants_async(prefer: str | None) -> bool:
    """Tell whether RFC 7240's `respond-async` is asked for.

    Returns:
        True when it is among the preferences.

    >>> wants_async("wait=5, respond-async"), wants_async("wait=5"), wants_async(None)
    (True, False, False)
    """
    return any(one.partition(";")[0].strip().lower() == "respond-async" for one in (prefer or "").split(","))


def accepts(accept: str | None, media_type: str) -> bool:
    """Tell whether an Accept header takes `media_type`; the most specific range decides.

    Returns:
        True also when there is no such header.

    >>> accepts("text/html, */*;q=0.1", "application/json"), accepts("text/html", "application/json")
    (True, False)
    """
    if not accept or not accept.strip():
        return True
    ranges = ("*/*", f"{media_type.partition('/')[0]}/*", media_type)
    qualities = [quality for wanted in ranges for name, quality in map(_read_range, accept.split(",")) if name == wanted]
    return bool(qualities) and qualities[-1] > 0


def takes_gzip(accept_encoding: str | None) -> bool:
    """Tell whether an Accept-Encoding header takes gzip; what it does not name, `*` decides.

    Returns:
        False when there is no such header: then the bytes go as they are.

    >>> takes_gzip("br, gzip;q=0.5"), takes_gzip("gzip;q=0, *"), takes_gzip("*"), takes_gzip("identity")
    (True, False, True, False)
    """
    named = dict(map(_read_range, (accept_encoding or "").split(",")))
    return named.get("gzip", named.get("*", 0.0)) > 0


def _read_range(entry: str) -> tuple[str, float]:
    name, *parameters = (part.strip().lower() for part in entry.split(";"))
    weights = [parameter.removeprefix("q=") for parameter in parameters if parameter.startswith("q=")]
    try:
        return name, float(weights[0]) if weights else 1.0
    except ValueError:
        return name, 1.0
