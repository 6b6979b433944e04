"""The store's transitions: one Lua script each, run by the server in one step."""

from functools import cache
from importlib.resources import files
from typing import Final, Literal

KEY_PREFIX: Final = "faultline:"
JobScript = Literal[
    "accept", "look", "claim", "beat", "finish", "release", "sweep", "cancel", "verdict", "page", "purge", "workers", "files"
]
DeliveryScript = Literal["take_delivery", "settle_delivery"]
KeyScript = Literal["key_create", "key_check", "key_revoke", "key_page"]
ScriptName = JobScript | KeyScript | DeliveryScript | Literal["take_tokens"]


@cache
def load_script(name: ScriptName) -> str:
    """Return the source of a transition with what all of them share before it."""
    folder = files("storage") / "lua"
    return (folder / "prelude.lua").read_text() + (folder / f"{name}.lua").read_text()
