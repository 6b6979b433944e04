"""Who is calling. Everybody is the same owner until there are keys."""

from typing import Annotated

from fastapi import Depends

LOCAL_OWNER = "local"


async def find_owner() -> str:
    """Return the owner that artifacts and audits of this caller belong to."""
    return LOCAL_OWNER


Owner = Annotated[str, Depends(find_owner)]
