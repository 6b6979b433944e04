"""A page that shows the OpenAPI document: our own few files, nothing from elsewhere."""

from pathlib import Path as FilePath
from typing import Final

from fastapi import Response

from service.routes.router import make_router

router = make_router("service")

FOLDER: Final = FilePath(__file__).resolve().parent.parent / "pages"
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        *("script-src 'self'", "style-src 'self'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'"),
        "frame-ancestors 'none'",
    )
)
MEDIA_TYPES: Final = {"docs.html": "text/html", "docs.css": "text/css", "docs.js": "text/javascript"}
_CONTENTS: Final = {name: (FOLDER / name).read_bytes() for name in MEDIA_TYPES}


@router.get("/docs", include_in_schema=False)
async def get_docs() -> Response:
    """Return the page."""
    return _answer("docs.html")


@router.get("/docs/docs.css", include_in_schema=False)
async def get_docs_style() -> Response:
    """Return the page's style."""
    return _answer("docs.css")


@router.get("/docs/docs.js", include_in_schema=False)
async def get_docs_script() -> Response:
    """Return the page's script."""
    return _answer("docs.js")


def _answer(name: str) -> Response:
    return Response(_CONTENTS[name], headers={"content-security-policy": POLICY}, media_type=MEDIA_TYPES[name])
