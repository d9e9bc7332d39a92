"""templates/service.yaml and service-headless.yaml: how callers find the replicas."""

from rendering import find, one, render


def test_one_address_for_all_replicas():
    service = one(render(), "Service", "tb-token-broker")["spec"]
    assert "clusterIP" not in service
    assert service["ports"] == [{"name": "grpc", "port": 50051, "targetPort": "grpc"}]
    assert service["selector"] == one(render(), "Deployment")["spec"]["selector"]["matchLabels"]


def test_one_address_for_each_ready_replica():
    service = one(render(), "Service", "tb-token-broker-headless")["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is False
    assert service["ports"] == [{"name": "grpc", "port": 50051, "targetPort": "grpc"}]
    assert service["selector"] == one(render(), "Deployment")["spec"]["selector"]["matchLabels"]


def test_plaintext_is_said_to_be_http_2():
    for service in find(render(variant="open"), "Service"):
        assert service["spec"]["ports"][0]["appProtocol"] == "kubernetes.io/h2c"


def test_the_headless_one_has_metrics_only_for_a_service_monitor():
    ports = one(render(variant="reviewed"), "Service", "tb-token-broker-headless")["spec"]["ports"]
    assert ports[1:] == [{"name": "admin", "port": 9090, "targetPort": "admin"}]


def test_either_can_be_left_out_and_annotated():
    assert [part["metadata"]["name"] for part in find(render(variant="offline-keys"), "Service")] == ["tb-token-broker-headless"]
    assert [part["metadata"]["name"] for part in find(render({"headlessService": {"enabled": False}}), "Service")] == [
        "tb-token-broker"
    ]
    documents = render(variant="everything")
    assert one(documents, "Service", "tokens")["spec"]["trafficDistribution"] == "PreferClose"
    assert "trafficDistribution" not in one(render(), "Service", "tb-token-broker")["spec"]
    assert one(documents, "Service", "tokens")["metadata"]["annotations"] == {"example.org/note": "one"}
    assert one(documents, "Service", "tokens-headless")["metadata"]["annotations"] == {"example.org/note": "each"}
