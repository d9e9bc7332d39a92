"""What holds of every variant, and of the manifests for people without Helm."""

import re
import tomllib

import pytest
import yaml

from rendering import BASE, CHART, NAMESPACE, ROOT, VARIANTS, find, helm, pod, render, text

MANIFESTS = ROOT / "deploy" / "kubernetes" / "token-broker.yaml"
# What Pod Security's restricted profile lets a pod mount.
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
HOST = ("hostNetwork", "hostPID", "hostIPC", "hostAliases")
PLAIN = "manifests"


def documents(variant):
    if variant == PLAIN:
        return list(yaml.safe_load_all(MANIFESTS.read_text()))
    return render(variant=variant)


every = pytest.mark.parametrize("variant", [*sorted(VARIANTS), PLAIN])


def everywhere(part):
    """Every mapping inside."""
    if isinstance(part, dict):
        yield part
        for inner in part.values():
            yield from everywhere(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from everywhere(inner)


@every
def test_no_secret_is_made_here(variant):
    assert not find(documents(variant), "Secret")


@every
def test_no_password_or_key_stands_anywhere(variant):
    written = MANIFESTS.read_text() if variant == PLAIN else text(variant)
    assert not re.search(r"password\s*=|BEGIN [A-Z ]*PRIVATE KEY|stringData|access_token", written)


@every
def test_nothing_is_mounted_as_a_single_file(variant):
    for part in everywhere(documents(variant)):
        assert "subPath" not in part
        assert "subPathExpr" not in part


@every
def test_no_environment_variable_takes_a_secret_but_the_collectors_headers(variant):
    for container in containers(documents(variant)):
        assert "envFrom" not in container
        for variable in container.get("env", []):
            assert variant in {"everything", "traces"}
            assert variable["name"] == "OTEL_EXPORTER_OTLP_HEADERS" or "valueFrom" not in variable


def containers(parts):
    spec = pod(parts)
    return spec.get("initContainers", []) + spec["containers"]


@every
def test_pods_are_fit_for_the_restricted_profile(variant):
    spec = pod(documents(variant))
    assert not [key for key in HOST if key in spec]
    for volume in spec["volumes"]:
        assert set(volume) - {"name"} <= VOLUMES
    context = spec["securityContext"]
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert context["runAsNonRoot"] is True
    assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (65532, 65532, 65532)
    assert "sysctls" not in context
    for container in containers(documents(variant)):
        inner = container["securityContext"]
        assert inner["allowPrivilegeEscalation"] is False
        assert inner["readOnlyRootFilesystem"] is True
        assert inner["capabilities"] == {"drop": ["ALL"]}
        assert set(inner) <= {"allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities", "runAsNonRoot"}
        assert inner.get("runAsNonRoot", True) is True
        assert not [port for port in container.get("ports", []) if "hostPort" in port]


@every
def test_no_token_is_mounted_unless_a_volume_says_so(variant):
    assert pod(documents(variant))["automountServiceAccountToken"] is False


@every
def test_secrets_are_readable_by_the_broker_alone(variant):
    for volume in pod(documents(variant))["volumes"]:
        for kind in ("secret", "configMap", "projected"):
            if kind in volume:
                assert volume[kind]["defaultMode"] == 0o440


@every
def test_the_grace_covers_lame_duck_and_drain(variant):
    parts = documents(variant)
    configured = next(part["data"]["config.toml"] for part in find(parts, "ConfigMap") if "config.toml" in part["data"])
    seconds = [int(re.search(rf'^{key} = "(\d+)s"$', configured, re.MULTILINE)[1]) for key in ("lame_duck", "drain")]
    assert pod(parts)["terminationGracePeriodSeconds"] >= sum(seconds) + 5


@every
def test_names_namespaces_and_labels(variant):
    namespace = "token-broker" if variant == PLAIN else NAMESPACE
    names = [(part["kind"], part["metadata"]["name"]) for part in documents(variant)]
    assert len(set(names)) == len(names)
    for part in documents(variant):
        if part["kind"].startswith("ClusterRole"):
            assert "namespace" not in part["metadata"]
        else:
            assert part["metadata"]["namespace"] == namespace
        assert part["metadata"]["labels"]["app.kubernetes.io/name"] in {"token-broker", "broker"}


def test_selectors_never_change_with_the_version():
    for part in find(render(), "Deployment"):
        assert set(part["spec"]["selector"]["matchLabels"]) == {"app.kubernetes.io/name", "app.kubernetes.io/instance"}


def test_long_names_are_cut_to_what_kubernetes_takes():
    for part in render({"fullnameOverride": "n" * 63}):
        if not part["kind"].startswith("ClusterRole"):
            assert len(part["metadata"]["name"]) <= 63


def test_names_of_digits_alone_stay_names():
    digits = "1234567"
    ca = {"secretName": digits, "key": digits}
    names = {
        "serviceAccount": {"name": digits},
        "priorityClassName": digits,
        "credentials": {"secrets": [{"name": digits, "secretName": digits}]},
        "tls": {"secretName": digits, "clientCa": ca},
        "vault": {"ca": {"configMapName": digits, "key": digits}},
        "auth": {"serviceAccounts": {"tokenReview": True, "jwksConfigMap": {"name": digits, "key": digits}}},
        "healthTest": {"ca": ca},
    }
    bundles = {"clusterTrustBundle": {"name": digits}}
    for values in (
        names,
        names | {"vault": {"ca": bundles}, "tls": {"csi": {"enabled": True, "driver": digits}, "secretName": ""}},
    ):
        done = helm("template", digits, CHART, "--namespace", digits, files=VARIANTS[BASE], values=values)
        assert done.returncode == 0, done.stderr
        for part in everywhere(list(yaml.safe_load_all(done.stdout))):
            for key, value in part.items():
                assert int(digits) not in (key, value), part


def test_the_manifests_are_secure_by_default():
    configured = next(iter(find(documents(PLAIN), "ConfigMap")))["data"]["config.toml"]
    assert "allow_unauthenticated = false" in configured
    assert "[grpc.tls]" in configured
    assert "[auth.service_accounts]" in configured
    assert find(documents(PLAIN), "NetworkPolicy")


def test_the_chart_is_of_the_brokers_version():
    package = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert package["version"] == chart["appVersion"]
