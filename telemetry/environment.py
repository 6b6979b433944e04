"""Which variables are ours. One that is misspelt would otherwise be left out in silence, and a limit or a sandbox with it."""

import difflib
from collections.abc import Mapping
from typing import Final

PREFIX: Final = "FAULTLINE_"
KNOWN: Final = frozenset(
    {
        "AUDIT_LOG_ENTRIES",
        "AUTH",
        "COMMIT",
        "CORS_ORIGINS",
        "DATA_DIR",
        "DEADLINE_GRACE_S",
        "DEBUG",
        "DEVICE",
        "DEVICES",
        "DRAIN_S",
        "FETCH_CA_FILE",
        "FETCH_FREE_BYTES",
        "FETCH_HOSTS",
        "FETCH_HTTP",
        "FETCH_HTTPS",
        "FETCH_MAX_BYTES",
        "FETCH_PORTS",
        "FETCH_PRIVATE_NETWORKS",
        "FETCH_ROOTS",
        "FETCH_S3",
        "ARTIFACT_GRACE_S",
        "CLEANUP_S",
        "FETCH_SILENCE_S",
        "FETCH_TIMEOUT_S",
        "FETCH_TRIES",
        "HIGHEST_PRIORITY",
        "HOST",
        "JOB_MEMORY_BYTES",
        "JOB_OUTPUT_BYTES",
        "JOB_SCRATCH_BYTES",
        "JOB_TIMEOUT_S",
        "KEY",
        "LEASE_S",
        "LOG_AUDIT_OUTPUT",
        "LOG_FORMAT",
        "LOG_LEVEL",
        "MAX_LIVE_JOBS",
        "MAX_REQUEST_BYTES",
        "MAX_RUNNING",
        "MAX_UPLOAD_BYTES",
        "MAX_VERDICT_BYTES",
        "MAX_WAIT_S",
        "METRICS_HOST",
        "METRICS_PORT",
        "MIN_FREE_BYTES",
        "PORT",
        "QUOTA_BYTES",
        "REQUESTS_BURST",
        "REQUESTS_PER_S",
        "RETENTION_DAYS",
        "SANDBOX",
        "STUCK_AFTER_S",
        "TENANTS",
        "THREADS",
        "UPLOAD_LIFE_S",
        "URL",
        "WEBHOOK_HOSTS",
        "WEBHOOK_PAUSE_S",
        "WEBHOOK_SECRET",
        "WEBHOOK_TIMEOUT_S",
        "WEBHOOK_TRIES",
    }
)
"""Variables of all programs after the prefix: they are often started in one environment. A test compares it with the settings."""
CUTOFF: Final = 0.8


def find_misspelt(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that are none of ours but nearly, and what they look like.

    >>> find_misspelt({"FAULTLINE_SANDBX": "required", "FAULTLINE_SANDBOX": "off", "FAULTLINE_SERVICE_HOST": "10.0.0.1"})
    {'FAULTLINE_SANDBX': 'FAULTLINE_SANDBOX'}
    """
    near = {name: difflib.get_close_matches(name.removeprefix(PREFIX), KNOWN, 1, CUTOFF) for name in list_unknown(environment)}
    return {name: PREFIX + found[0] for name, found in near.items() if found}


def list_unknown(environment: Mapping[str, str]) -> list[str]:
    """Return the variables with our prefix that no program of ours reads.

    Not all are mistakes: a cluster adds some for every service of that name, and other versions have others.
    """
    return sorted(name for name in environment if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in KNOWN)
