"""templates/certificate.yaml: the broker's certificate by cert-manager."""

from rendering import NAMESPACE, find, one, pod, render


def test_only_where_it_is_asked_for():
    assert not find(render(), "Certificate")


def test_it_fills_the_secret_that_is_mounted():
    documents = render(variant="reviewed")
    spec = one(documents, "Certificate")["spec"]
    mounted = next(part for part in pod(documents)["volumes"] if part["name"] == "tls")
    assert spec["secretName"] == mounted["secret"]["secretName"] == "tb-token-broker-tls"
    assert spec["issuerRef"] == {"name": "internal", "kind": "ClusterIssuer", "group": "cert-manager.io"}
    assert (spec["duration"], spec["renewBefore"]) == ("2160h", "720h")
    assert spec["privateKey"] == {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"}
    assert spec["usages"] == ["digital signature", "server auth"]


def test_it_has_every_name_that_callers_use():
    names = one(render({"clusterDomain": "example.local"}, "reviewed"), "Certificate")["spec"]["dnsNames"]
    services = [part["metadata"]["name"] for part in find(render(variant="reviewed"), "Service")]
    assert len(services) == 2
    expected = {"broker.example.org"}
    for service in services:
        for end in ("", f".{NAMESPACE}", f".{NAMESPACE}.svc", f".{NAMESPACE}.svc.example.local"):
            expected.add(service + end)
    assert set(names) == expected
    assert len(names) == len(expected)
