"""templates/podmonitor.yaml and servicemonitor.yaml: one of them at most scrapes /metrics."""

import pytest

from rendering import VARIANTS, broker, find, one, render


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_off_unless_asked_for_and_never_both(variant):
    found = find(render(variant=variant), "PodMonitor") + find(render(variant=variant), "ServiceMonitor")
    assert len(found) == (variant in {"everything", "reviewed"})


def test_the_pods_are_scraped():
    documents = render(variant="everything")
    monitor = one(documents, "PodMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["selector"] == one(documents, "Deployment")["spec"]["selector"]
    assert monitor["spec"]["podMetricsEndpoints"] == [{"port": "admin", "path": "/metrics", "interval": "15s"}]
    assert {"name": "admin", "containerPort": 9090} in broker(documents)["ports"]
    assert monitor["spec"]["jobLabel"] == "app.kubernetes.io/name"


def test_or_one_service_and_not_the_other():
    documents = render({"monitoring": {"serviceMonitor": {"labels": {"release": "prometheus"}}}}, "reviewed")
    monitor = one(documents, "ServiceMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["endpoints"] == [{"port": "admin", "path": "/metrics", "interval": "30s"}]
    assert monitor["spec"]["jobLabel"] == "app.kubernetes.io/name"
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    found = [part for part in find(documents, "Service") if wanted <= part["metadata"]["labels"].items()]
    assert [part["metadata"]["name"] for part in found] == ["tb-token-broker-headless"]
    assert "admin" in [port["name"] for port in found[0]["spec"]["ports"]]
