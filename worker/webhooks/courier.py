"""Courier: tells receivers that audits have ended, on threads of its own. No audit waits for it and none fails by it."""

import logging
import random
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Final

from schemas.errors import FaultlineError, Unavailable
from schemas.problem import clean_text
from schemas.references import read_place
from schemas.webhooks import Delivery
from storage.outbox import Due, Outbox
from worker.fetching.limits import FetchLimits
from worker.fetching.patience import Patience, Transient
from worker.fetching.resolving import Resolver, resolve_by_system
from worker.fetching.web import Web
from worker.webhooks.messages import build_body, build_headers

log = logging.getLogger(__name__)

AT_ONCE: Final = 4
PERIOD_S: Final = 0.5
SLACK_S: Final = 30.0
LONGEST_PAUSE_S: Final = 6 * 3600.0
REST_S: Final = 30.0
GONE: Final = 410
"""The receiver says that it never wants to hear of this again."""


class Stopped(Exception):
    """The worker is going down; what was not told comes back to another one."""


class Courier:
    """Takes what is due from the outbox and posts it. A receiver is told at least once, or given up after some attempts."""

    def __init__(self, outbox: Outbox, limits: FetchLimits, resolve: Resolver = resolve_by_system) -> None:
        self._outbox = outbox
        self._limits = limits
        self._web = Web(limits.allow_webhooks(), limits.fetch_ca_file, resolve)
        self._stop = threading.Event()
        self._resting: dict[str, float] = {}
        self._pool = ThreadPoolExecutor(AT_ONCE, "courier")
        self._running: set[Future[None]] = set()
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)

    def start(self) -> None:
        """Begin the rounds, if this worker can sign."""
        if self._limits.webhook_secret is not None:
            self._thread.start()

    def close(self) -> None:
        """End the rounds; deliveries under way are interrupted."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self) -> None:
        reached = True
        while not self._stop.wait(PERIOD_S):
            try:
                self.tell_due()
                reached = True
            except Unavailable as error:
                if reached:
                    log.warning("webhooks wait for the store: %s", error)
                reached = False
            except Exception:  # a round that fails must not be the last one
                log.exception("a round of the courier failed")

    def tell_due(self) -> None:
        """Give what is due to threads that are free."""
        self._running = {future for future in self._running if not future.done()}
        free = AT_ONCE - len(self._running)
        if free:
            life_s = self._limits.webhook_timeout_s + SLACK_S
            self._running |= {self._pool.submit(self._deliver, due) for due in self._outbox.take(life_s, free)}

    def _deliver(self, due: Due) -> None:
        try:
            self.deliver(due)
        except Stopped:
            pass
        except Unavailable as error:
            log.warning("what became of the webhook of %s could not be noted: %s", due.record.id, error)
        except Exception:  # it comes back when its time in the outbox is over
            log.exception("the webhook of %s failed", due.record.id)

    def deliver(self, due: Due) -> None:
        """Tell one end and note what became of it."""
        webhook = due.webhook
        rest_s = 0.0 if webhook is None else self._resting.get(read_place(webhook.url).name, 0.0) - time.monotonic()
        if rest_s > 0:  # others found this receiver dead a moment ago: one that is must not keep all threads waiting
            self._outbox.settle(due, None, "pending", rest_s)
            return
        began, at = time.monotonic(), datetime.now(UTC)
        status, error = self._post(due, round(at.timestamp()))
        seconds = round(time.monotonic() - began, 3)
        delivery = Delivery(attempt=due.attempt, at=at, status=status, error=error, seconds=seconds)
        if status is not None and 200 <= status < 300:
            self._outbox.settle(due, delivery, "delivered")
        elif status == GONE or due.attempt >= self._limits.webhook_tries:
            log.warning("gave up the webhook of %s after attempt %d: %s", due.record.id, due.attempt, error or status)
            self._outbox.settle(due, delivery, "given_up")
        else:
            self._outbox.settle(due, delivery, "pending", choose_pause(due.attempt, self._limits.webhook_pause_s))

    def _post(self, due: Due, timestamp: int) -> tuple[int | None, str | None]:
        record, webhook = due.record, due.webhook
        secrets = self._limits.list_webhook_secrets(record.owner)
        if webhook is None or not secrets:
            return None, "webhooks are not enabled on this worker"
        body = build_body(record)
        headers = build_headers(secrets, record.id, timestamp, body)
        patience = Patience(self._limits.webhook_timeout_s, self._limits.webhook_timeout_s, self._check)
        try:
            with self._web.exchange("POST", webhook.url, patience, headers, body) as answer:
                return answer.status, None
        except (Transient, FaultlineError) as error:
            self._resting[read_place(webhook.url).name] = time.monotonic() + min(REST_S, self._limits.webhook_pause_s)
            return None, clean_text(str(error), limit=200)

    def _check(self) -> None:
        if self._stop.is_set():
            raise Stopped


def choose_pause(attempt: int, first_s: float) -> float:
    """Return the seconds until the next attempt: four times as long each time, up to six hours, and a random part less."""
    return min(first_s * 4.0 ** (attempt - 1), LONGEST_PAUSE_S) * random.uniform(0.75, 1.0)  # noqa: S311 - not a secret
