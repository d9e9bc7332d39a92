"""templates/externalsecrets.yaml: Secrets that an operator fetches from elsewhere."""

from rendering import find, one, pod, render


def test_each_makes_the_secret_that_is_mounted():
    documents = render(variant="reviewed")
    mounted = {part["secret"]["secretName"] for part in pod(documents)["volumes"] if part["name"].startswith("credentials-")}
    for name in ("loans", "savings"):
        spec = one(documents, "ExternalSecret", f"tb-token-broker-{name}")["spec"]
        assert spec["target"] == {"name": f"tb-token-broker-{name}", "creationPolicy": "Owner", "deletionPolicy": "Retain"}
        assert spec["target"]["name"] in mounted
    assert len(find(documents, "ExternalSecret")) == 2
    assert not find(render(), "ExternalSecret")


def test_one_key_or_all_of_them():
    documents = render(variant="reviewed")
    loans = one(documents, "ExternalSecret", "tb-token-broker-loans")["spec"]
    assert loans["data"] == [{"secretKey": "users.toml", "remoteRef": {"key": "token-broker/loans", "property": "users.toml"}}]
    assert loans["secretStoreRef"] == {"kind": "ClusterSecretStore", "name": "safe"}
    assert loans["refreshInterval"] == "5m"
    assert "dataFrom" not in loans
    savings = one(documents, "ExternalSecret", "tb-token-broker-savings")["spec"]
    assert savings["dataFrom"] == [{"extract": {"key": "token-broker/savings"}}]
    assert savings["refreshInterval"] == "1h"
    assert "data" not in savings
