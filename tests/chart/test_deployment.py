"""templates/deployment.yaml: what runs, and what makes it restart."""

import pytest
import yaml

from rendering import CHART, broker, one, pod, render

VERSION = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]

RESTARTS = {
    "grpc.listen and health_listen": {"grpc": {"listenAddress": "[::]"}},
    "admin.listen": {"admin": {"enabled": False}},
    "audit.file": {"audit": {"file": "a", "volume": {"emptyDir": {}}}},
    "audit.hits": {"audit": {"hits": "summed"}},
    "state_directory": {"state": {"enabled": False}},
    "operator": {"operator": {"enabled": False}},
    "log.format": {"log": {"format": "text"}},
}
RELOADS = {
    "callers": {"callers": [{"id": "a.example.org", "merchants": []}]},
    "times": {"grpc": {"lameDuckSeconds": 1, "drainSeconds": 2, "callTimeout": "9s", "maxConnectionAge": "1h"}},
    "level": {"log": {"level": "debug"}},
    "vault": {"vault": {"baseUrl": "https://other.example.org", "timeout": "1s", "headers": {"A": "b"}, "renewal": "ahead"}},
    "service accounts": {"auth": {"serviceAccounts": {"issuer": "https://other.example.org", "audience": "other"}}},
    "labels of objects": {"monitoring": {"podMonitor": {"enabled": True}}},
}


def template(values=None, variant="service-accounts"):
    return one(render(values, variant), "Deployment")["spec"]["template"]


def checksum(values=None):
    return template(values)["metadata"]["annotations"]["checksum/restarts"]


@pytest.mark.parametrize("key", RESTARTS)
def test_what_takes_a_restart_rolls_the_pods(key):
    assert checksum(RESTARTS[key]) != checksum()


@pytest.mark.parametrize("key", RELOADS)
def test_what_is_reloaded_leaves_the_pods_alone(key):
    assert template(RELOADS[key]) == template()


def test_sharing_and_its_names_roll_the_pods_and_its_keys_and_server_do_not():
    def shared(values):
        return one(render({"shared": values}, "shared"), "Deployment")["spec"]["template"]

    def checksum_of(part):
        return part["metadata"]["annotations"]["checksum/restarts"]

    assert checksum_of(shared({})) != checksum()
    assert checksum_of(shared({"nameKeySecret": {"key": "other"}})) != checksum_of(shared({}))
    # One more, from the same Secret.
    keys = [{"id": number, "secretName": "token-broker-shared-keys", "key": str(number)} for number in (3, 2, 1)]
    assert shared({"url": "rediss://broker@other.example.org", "keys": keys}) == shared({})


def test_tls_set_or_removed_rolls_the_pods_and_another_secret_is_another_volume():
    opened = {
        "tls": {"secretName": ""},
        "auth": {"allowUnauthenticated": True, "serviceAccounts": {"enabled": False}},
        "callers": [],
    }
    assert checksum(opened) != checksum()
    assert checksum({"tls": {"secretName": "other"}}) == checksum()


def test_a_new_replica_is_ready_before_an_old_one_goes():
    spec = one(render(), "Deployment")["spec"]
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    assert spec["replicas"] == 2
    assert pod(render())["terminationGracePeriodSeconds"] == 60


def test_the_autoscaler_has_the_say_on_replicas():
    assert one(render({"autoscaling": {"enabled": True}}), "Deployment")["spec"]["replicas"] == 2
    assert one(render({"replicaCount": 0}), "Deployment")["spec"]["replicas"] == 0


def test_probes_are_native_and_on_the_plaintext_port():
    container = broker(render())
    assert container["readinessProbe"]["grpc"] == {"port": 50052, "service": "tokenbroker.v1.TokenBrokerService"}
    assert container["livenessProbe"]["grpc"] == {"port": 50052, "service": ""}
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {"grpc": 50051, "health": 50052, "admin": 9090}
    assert container["args"] == ["serve", "--config", "/etc/token-broker/config/config.toml"]
    assert "command" not in container
    without = broker(render(variant="offline-keys"))
    assert [port["name"] for port in without["ports"]] == ["grpc", "health"]


def test_why_a_pod_did_not_start_is_seen_and_a_hung_one_is_not_waited_for():
    container = broker(render())
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
    probe = container["livenessProbe"]
    assert probe["terminationGracePeriodSeconds"] == 5
    # From the last answer to SIGKILL.
    assert (
        probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"] + probe["terminationGracePeriodSeconds"]
        <= 45
    )


def test_replicas_are_spread_over_zones_and_nodes():
    selector = one(render(), "Deployment")["spec"]["selector"]
    spread = {part["topologyKey"]: part for part in pod(render())["topologySpreadConstraints"]}
    assert set(spread) == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
    for part in spread.values():
        assert part["whenUnsatisfiable"] == "ScheduleAnyway"
        assert part["labelSelector"] == selector
        assert part["matchLabelKeys"] == ["pod-template-hash"]
    high = {part["topologyKey"]: part["whenUnsatisfiable"] for part in pod(render(variant="ha"))["topologySpreadConstraints"]}
    assert high == {"topology.kubernetes.io/zone": "ScheduleAnyway", "kubernetes.io/hostname": "DoNotSchedule"}
    only = pod(render(variant="everything"))["topologySpreadConstraints"]
    assert [(part["topologyKey"], part["whenUnsatisfiable"]) for part in only] == [
        ("topology.kubernetes.io/zone", "DoNotSchedule")
    ]
    assert "topologySpreadConstraints" not in pod(render({"topologySpread": {"zone": "", "host": ""}}))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({}, f"token-broker:{VERSION}"),
        ({"repository": "r.example.org/b"}, f"r.example.org/b:{VERSION}"),
        ({"tag": "1.2"}, "token-broker:1.2"),
        ({"tag": "1.2", "digest": "sha256:" + "a" * 64}, "token-broker@sha256:" + "a" * 64),
    ],
)
def test_a_digest_wins_over_a_tag(image, expected):
    assert broker(render({"image": image}))["image"] == expected


def test_what_is_set_for_the_pod_arrives():
    spec = pod(render(variant="everything"))
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert spec["tolerations"] == [{"key": "dedicated", "operator": "Exists"}]
    assert "nodeAffinity" in spec["affinity"]
    assert spec["priorityClassName"] == "high"
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["serviceAccountName"] == "tokens-account"
    assert [part["name"] for part in spec["containers"]] == ["token-broker", "beside"]
    assert broker(render(variant="everything"))["imagePullPolicy"] == "Always"
    assert broker(render())["resources"] == {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}}
    metadata = template(variant="everything")["metadata"]
    assert metadata["annotations"]["example.org/note"] == 'a "quoted" one'
    assert metadata["labels"] == {
        "app.kubernetes.io/name": "broker",
        "app.kubernetes.io/instance": "tb",
        "team": "identity",
        "tier": "backend",
    }


def test_a_sidecar_starts_before_the_broker_and_ends_after_it():
    documents = render(variant="everything")
    (sidecar,) = pod(documents)["initContainers"]
    assert (sidecar["name"], sidecar["restartPolicy"]) == ("ship-audit", "Always")
    mounted = {part["name"] for part in sidecar["volumeMounts"]}
    assert mounted == {"audit"} <= {part["name"] for part in pod(documents)["volumes"]}
    assert "initContainers" not in pod(render())


def test_variables_and_volumes_arrive():
    container = broker(render(variant="everything"))
    assert container["env"] == [{"name": "RUST_BACKTRACE", "value": "1"}]
    assert {"name": "scratch", "mountPath": "/scratch", "readOnly": True} in container["volumeMounts"]
    assert {"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}} in pod(render(variant="everything"))["volumes"]
    assert "env" not in broker(render())


def test_labels_of_ours_are_not_replaced():
    labels = {"app.kubernetes.io/name": "other"}
    documents = render({"commonLabels": labels, "podLabels": labels})
    for part in documents:
        assert part["metadata"]["labels"]["app.kubernetes.io/name"] == "token-broker"
    assert (
        template({"commonLabels": labels, "podLabels": labels})["metadata"]["labels"]["app.kubernetes.io/name"] == "token-broker"
    )


def test_the_services_ports_are_no_environment_variables():
    assert pod(render())["enableServiceLinks"] is False


def test_the_collectors_headers_come_from_a_secret():
    (variable,) = broker(render(variant="traces"))["env"]
    reference = {"secretKeyRef": {"name": "otel-collector", "key": "headers"}}
    assert variable == {"name": "OTEL_EXPORTER_OTLP_HEADERS", "valueFrom": reference}
