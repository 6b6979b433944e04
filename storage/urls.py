"""Store addresses: one REDIS_URL, spelt for redis-py (redis://, rediss://, unix://) and for kombu."""

from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from schemas.errors import Fault, InvalidRequest

SCHEMES = ("redis", "rediss", "unix")


def check_redis_url(redis_url: str) -> str:
    """Return the address if it is one that both redis-py and kombu can be given; raise InvalidRequest if not."""
    parts = urlsplit(redis_url)
    faults = []
    where = "REDIS_URL"
    if parts.scheme not in SCHEMES:
        faults.append(Fault("the store's address has an unknown scheme", where, "redis://, rediss:// or unix://", parts.scheme))
    if parts.scheme == "unix" and not parts.path.startswith("/"):
        faults.append(Fault("the store's socket has no absolute path", where, "unix:///path/to/socket", parts.path))
    database = _read_database(redis_url)
    if not database.isdecimal():
        faults.append(Fault("the store's database is not a number", where, "0, 1, 2, ...", database))
    if faults:
        raise InvalidRequest(*faults)
    return redis_url


def make_broker_url(redis_url: str) -> str:
    """Return the same database's address in kombu's spelling; one that is spelt so already stays as it is.

    kombu checks no certificate unless it is told to; redis-py does by default, and so do we.

    >>> make_broker_url("unix:///run/store.sock?db=2")
    'redis+socket:///run/store.sock?virtual_host=2'
    >>> make_broker_url("rediss://:secret@example.org:6380/1")
    'rediss://:secret@example.org:6380/1?ssl_cert_reqs=required'
    """
    if redis_url.startswith("redis+socket://"):
        return redis_url
    parts = urlsplit(check_redis_url(redis_url))
    database = _read_database(redis_url)
    if parts.scheme == "unix":
        login = parts.netloc.rpartition("@")[0]
        return f"redis+socket://{f'{login}@' if login else ''}{quote(unquote(parts.path))}?virtual_host={database}"
    query = {name: value for name, value in parse_qsl(parts.query) if name.startswith("ssl_")}
    if parts.scheme == "rediss":
        query = {"ssl_cert_reqs": "required"} | query
    return f"{parts.scheme}://{parts.netloc}/{database}{f'?{urlencode(query)}' if query else ''}"


def hide_password(redis_url: str) -> str:
    """Return the address as it may stand in a message or a log.

    >>> hide_password("redis://user:secret@example.org/0")
    'redis://***@example.org/0'
    """
    parts = urlsplit(redis_url)
    login, _, place = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{'***@' if login else ''}{place}{parts.path}"


def _read_database(redis_url: str) -> str:
    parts = urlsplit(redis_url)
    path = "" if parts.scheme == "unix" else parts.path.strip("/")
    return dict(parse_qsl(parts.query)).get("db", path) or "0"
