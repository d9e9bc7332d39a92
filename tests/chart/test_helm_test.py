"""templates/tests/ready.yaml: `helm test` asks whether a broker is ready, and has nothing that is secret."""

import re

import pytest
import yaml

from rendering import CHART, VARIANTS, broker, find, notes, one, render


def pod_of(values=None, variant="service-accounts"):
    return one(render(values, variant), "Pod")


def test_it_asks_by_the_services_name_over_tls_with_the_ca_alone():
    documents = render()
    spec = pod_of()["spec"]
    (container,) = spec["containers"]
    service = one(documents, "Service", "tb-token-broker")["metadata"]
    endpoint = f"https://{service['name']}.{service['namespace']}.svc.cluster.local:50051"
    assert container["args"] == ["health", f"--endpoint={endpoint}", "--ca-file=/ca/ca.crt"]
    assert container["image"] == broker(documents)["image"]
    (volume,) = spec["volumes"]
    assert volume["secret"]["secretName"] == "token-broker-tls"
    # Not the key beside it.
    assert volume["secret"]["items"] == [{"key": "ca.crt", "path": "ca.crt"}]
    assert spec["automountServiceAccountToken"] is False


def test_in_plaintext_it_needs_nothing():
    spec = pod_of(variant="open")["spec"]
    assert spec["containers"][0]["args"] == ["health", "--endpoint=http://tb-token-broker.broker-ns.svc.cluster.local:50051"]
    assert "volumes" not in spec


def test_another_ca_can_be_named_and_without_one_there_is_no_test():
    named = pod_of({"healthTest": {"ca": {"configMapName": "cas", "key": "a.pem"}}}, "spiffe")["spec"]
    assert named["volumes"][0]["configMap"]["name"] == "cas"
    assert "--ca-file=/ca/a.pem" in named["containers"][0]["args"]
    for variant in ("spiffe", "pod-certificate"):
        assert not find(render(variant=variant), "Pod")
    for values in ({"healthTest": {"enabled": False}}, {"service": {"enabled": False}}):
        assert not find(render(values), "Pod")


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_nothing_takes_it_for_a_brokers_pod(variant):
    documents = render({"podLabels": {"app.kubernetes.io/instance": "tb"}, "commonLabels": {"team": "a"}}, variant)
    for pod in find(documents, "Pod"):
        labels = pod["metadata"]["labels"].items()
        assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
        for part in documents:
            spec = part.get("spec", {})
            selectors = [spec.get("selector") or {}, spec.get("podSelector") or {}]
            for selector in selectors:
                wanted = selector.get("matchLabels", selector)
                assert not wanted or not wanted.items() <= labels, part["kind"]


def test_the_network_policy_lets_it_in_and_the_manifests_have_none():
    labels = pod_of()["metadata"]["labels"].items()
    (peer,) = one(render(), "NetworkPolicy")["spec"]["ingress"][0]["from"]
    assert peer["podSelector"]["matchLabels"].items() <= labels
    example = yaml.safe_load(re.search(r"```yaml\n(image:.*?)```", (CHART / "README.md").read_text(), re.DOTALL)[1])
    peers = one(render(example | {"tls": example["tls"] | {"secretName": ""}}), "NetworkPolicy")["spec"]["ingress"][0]["from"]
    assert any("namespaceSelector" not in peer and peer["podSelector"]["matchLabels"].items() <= labels for peer in peers), (
        "the README's example keeps its own test out"
    )
    assert "helm.sh/hook" not in (CHART.parents[1] / "kubernetes" / "token-broker.yaml").read_text()
    assert "helm test tb --namespace broker-ns" in notes()
