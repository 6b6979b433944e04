"""How single figures look in a terminal. Names and texts come from files and servers: their control characters are escaped."""

from schemas.problem import clean_text

SHARES = frozenset({"accuracy", "error_rate", "f1"} | {f"top_{k}{rest}" for k in (3, 5, 10) for rest in ("", "_error_rate")})
"""Metrics between 0 and 1, shown as percentages."""
NOTHING = "-"
BLOCKS = " ▏▎▍▌▋▊▉█"
MAX_NAME = 200


def one_line(text: str) -> str:
    r"""Return foreign text on one line and harmless.

    >>> one_line("a\nb\x1b[2J")
    'a b\\x1b[2J'
    """
    return clean_text(text, MAX_NAME).replace("\n", " ").replace("\t", " ")


def show_change(value: float | None) -> str:
    """Return a signed loss change.

    >>> show_change(0.60004), show_change(-1.5e-7), show_change(None)
    ('+0.6', '-1.5e-07', '-')
    """
    return NOTHING if value is None else f"{value:+.3g}"


def show_metric(name: str, value: float | None) -> str:
    """Return a metric's value, shares as percentages.

    >>> show_metric("accuracy", 0.975), show_metric("perplexity", 12.3456)
    ('97.5 %', '12.35')
    """
    if value is None:
        return NOTHING
    return f"{100 * value:.1f} %" if name in SHARES else f"{value:.4g}"


def show_drop(name: str, drop: float | None) -> str:
    """Return a metric's deterioration: positive when worse.

    >>> show_drop("accuracy", 0.225), show_drop("perplexity", 1.5)
    ('22.5 points', '1.5')
    """
    if drop is None:
        return NOTHING
    return f"{100 * drop:.1f} points" if name in SHARES else f"{drop:.3g}"


def show_count(value: int) -> str:
    """Return a count with separators.

    >>> show_count(14458)
    '14,458'
    """
    return f"{value:,}"


def show_several(count: int, what: str) -> str:
    """Return a count with its noun.

    >>> show_several(1, "tensor"), show_several(2500, "tensor")
    ('1 tensor', '2,500 tensors')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def show_digest(sha256: str) -> str:
    """Return the head of a digest, enough to recognise it."""
    return f"sha256 {clean_text(sha256, 64)[:12]}"


def show_size(size_bytes: int) -> str:
    """Return a file's size.

    >>> show_size(900), show_size(23_000_000)
    ('900 B', '23.0 MB')
    """
    value, unit = float(size_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def draw_bar(share: float, width: int, *, unicode: bool = True) -> str:
    """Return a bar for a share between 0 and 1.

    >>> draw_bar(0.5, 4), draw_bar(0.5, 4, unicode=False)
    ('██  ', '##  ')
    """
    share = min(max(share, 0.0), 1.0)
    if not unicode:
        return ("#" * round(share * width)).ljust(width)
    eighths = round(share * width * 8)
    full, rest = divmod(eighths, 8)
    return (BLOCKS[8] * full + (BLOCKS[rest] if rest else "")).ljust(width)
