"""Outbox: the ends of jobs that their webhooks are still to be told. The transition that ends a job fills it."""

import json
from dataclasses import dataclass
from typing import Any, Final, Literal

import redis

from schemas.webhooks import Delivery, Webhook
from storage.connection import reaching_store
from storage.records import JobRecord, pair_fields, read_record
from storage.scripts import KEY_PREFIX, ScriptName, load_script

NAMES: Final[tuple[ScriptName, ...]] = ("take_delivery", "settle_delivery")
Told = Literal["pending", "delivered", "given_up"]


@dataclass(frozen=True)
class Due:
    """The end of a job that is to be told now. `token` is what this turn settles it by; `attempt` counts from 1."""

    record: JobRecord
    token: int

    @property
    def attempt(self) -> int:
        """Which attempt it is, of those that came to an end."""
        return len(self.record.deliveries) + 1

    @property
    def webhook(self) -> Webhook | None:
        """What the request says of it."""
        return read_webhook(self.record)


def read_webhook(record: JobRecord) -> Webhook | None:
    """Return the webhook that the audit came with."""
    given = json.loads(record.request).get("webhook") if record.kind == "audit" else None
    return None if given is None else Webhook.model_validate_json(json.dumps(given))


class Outbox:
    """Every call may be repeated when its reply was lost. Raises Unavailable when the store is out of reach."""

    def __init__(self, client: redis.Redis) -> None:
        self._scripts = {name: client.register_script(load_script(name)) for name in NAMES}

    def take(self, life_s: float, most: int) -> list[Due]:
        """Return up to `most` ends that are due; what is not settled within `life_s` is due again."""
        reply = self._run("take_delivery", round(life_s * 1e6), most)
        triples = zip(reply[::3], reply[1::3], reply[2::3], strict=True)
        return [Due(read_record(id.decode(), pair_fields(fields)), int(token)) for id, token, fields in triples]

    def settle(self, due: Due, delivery: Delivery | None, told: Told, pause_s: float = 0.0) -> bool:
        """Note what became of the attempt; None: nothing was tried.

        Args:
            due: what was taken.
            delivery: what goes into the log.
            told: what became of it.
            pause_s: until the next attempt, while it is pending.

        Returns:
            False when another turn began meanwhile.

        """
        pause = str(round(pause_s * 1e6)) if told == "pending" else ""
        entry = "" if delivery is None else delivery.model_dump_json()
        return bool(self._run("settle_delivery", due.record.id, str(due.token), entry, pause, told))

    def _run(self, name: ScriptName, *arguments: str | bytes | int) -> Any:
        with reaching_store():
            return self._scripts[name](keys=[KEY_PREFIX], args=arguments)
