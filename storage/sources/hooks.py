"""Webhooks as the operator's settings have them: the secret they are signed with, and where they may go."""

from typing import Annotated, Final, Self

from pydantic import AfterValidator, ConfigDict, SecretStr

from schemas.errors import Fault
from schemas.references import read_place, show_place
from schemas.signing import derive_secret, read_secret
from storage.sources.rules import ANY, SourceRules, check_hosts

MOST_SECRETS: Final = 3


def _check_secret(value: SecretStr | None) -> SecretStr | None:
    secrets = [] if value is None else value.get_secret_value().split()
    for secret in secrets:
        read_secret(secret)
    if value is not None and not 1 <= len(secrets) <= MOST_SECRETS:
        message = f"1 to {MOST_SECRETS} secrets, the new one first"
        raise ValueError(message)
    return value


class WebhookRules(SourceRules):
    """The part of both processes' settings that says whether webhooks are sent, and where to."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    webhook_secret: Annotated[SecretStr | None, AfterValidator(_check_secret)] = None
    """`whsec_` and random bytes in base64, which tenants' own secrets are made of; while it changes, the new one and the old."""

    webhook_hosts: Annotated[str, AfterValidator(check_hosts)] = ANY
    """The hosts that webhooks may be sent to, such as `hooks.example.org *.example.com`."""

    def list_webhook_secrets(self, owner: str) -> tuple[str, ...]:
        """Return what the owner's webhooks are signed with; nothing where webhooks are not enabled."""
        given = "" if self.webhook_secret is None else self.webhook_secret.get_secret_value()
        return tuple(derive_secret(secret, owner) for secret in given.split())

    def allow_webhooks(self) -> Self:
        """Return these rules with the hosts of webhooks in place of those that files are fetched from."""
        return self.model_copy(update={"fetch_hosts": self.webhook_hosts})

    def find_webhook_fault(self, url: str) -> Fault | None:
        """Return why this deployment does not send webhooks to `url`, as far as its spelling tells."""
        place, got = read_place(url), show_place(url)
        if self.webhook_secret is None:
            advice = "leave webhook out and poll, or ask the operator to set FAULTLINE_WEBHOOK_SECRET"
            return Fault("webhooks are not enabled here", "", "no webhook", got, advice)
        if place.scheme == "http" and not self.fetch_http:
            return Fault(
                "webhooks are sent by https:, for anybody on the way could read them",
                "",
                "an https: URL",
                got,
                "call it by https:",
            )
        return self.allow_webhooks().find_host_fault(place, url)
