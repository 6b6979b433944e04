"""Reads what a process offers to Prometheus, with Prometheus's own parser."""

from collections.abc import Mapping

import httpx2
from prometheus_client.parser import text_string_to_metric_families


class Scrape:
    """One answer of /metrics."""

    def __init__(self, url: str) -> None:
        response = httpx2.get(f"{url}/metrics", timeout=10)
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/plain; version=")
        self.text = response.text
        self._samples = [sample for family in text_string_to_metric_families(self.text) for sample in family.samples]

    def read(self, name: str, **labels: str) -> float:
        """Return the sum of the samples with these labels; there must be one."""
        found = [sample.value for sample in self._samples if sample.name == name and labels.items() <= sample.labels.items()]
        assert found, f"{name} {labels} is not in\n{self.text}"
        return float(sum(found))

    def has(self, name: str, **labels: str) -> bool:
        return any(sample.name == name and labels.items() <= sample.labels.items() for sample in self._samples)

    def list_values(self, label: str) -> set[str]:
        return {sample.labels[label] for sample in self._samples if label in sample.labels}

    def list_labels(self) -> set[str]:
        return {label for sample in self._samples for label in sample.labels}

    def count_series(self, labels: Mapping[str, str] | None = None) -> int:
        return sum((labels or {}).items() <= sample.labels.items() for sample in self._samples)
