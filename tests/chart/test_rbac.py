"""templates/rbac.yaml: no permission but the two that a way of proving identity needs."""

import re

import pytest

from rendering import CHART, NAMESPACE, VARIANTS, find, one, pod, render

KINDS = ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")


@pytest.mark.parametrize("variant", sorted(set(VARIANTS) - {"reviewed", "spiffe"}))
def test_nothing_may_be_done_by_default(variant):
    assert not [part for kind in KINDS for part in find(render(variant=variant), kind)]


def test_reviews_of_tokens_and_nothing_else():
    documents = render(variant="reviewed")
    role, binding = one(documents, "ClusterRole"), one(documents, "ClusterRoleBinding")
    assert role["rules"] == [{"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}]
    # Cluster-wide names: another namespace may have a release of the same name.
    assert NAMESPACE in role["metadata"]["name"]
    assert binding["roleRef"] == {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole",
        "name": role["metadata"]["name"],
    }
    account = pod(documents)["serviceAccountName"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}]
    assert not find(documents, "Role")


def test_the_readme_names_what_reviews_leave_behind():
    told = re.sub(r"\s+", " ", (CHART / "README.md").read_text())
    reviews = {"auth": {"serviceAccounts": {"tokenReview": True}}}
    for account, name in (("", "NAMESPACE-FULLNAME-tokenreviews"), ("other", "NAMESPACE-FULLNAME-tokenreviews-ACCOUNT")):
        documents = render(reviews | {"serviceAccount": {"name": account}})
        fullname = one(documents, "Deployment")["metadata"]["name"]
        made = one(documents, "ClusterRoleBinding")["metadata"]["name"]
        assert made == name.replace("NAMESPACE", NAMESPACE).replace("FULLNAME", fullname).replace("ACCOUNT", account)
        assert f"`{name}`" in told
        for kind in ("ClusterRole", "ClusterRoleBinding", "ServiceAccount"):
            assert one(documents, kind)["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert "former account and its binding" in told
    # What the README selects them by.
    assert one(documents, "ClusterRole")["metadata"]["labels"]["app.kubernetes.io/name"] == "token-broker"


def test_the_spiffe_driver_asks_for_certificates_in_the_pods_name():
    documents = render(variant="spiffe")
    role, binding = one(documents, "Role"), one(documents, "RoleBinding")
    assert role["rules"] == [{"apiGroups": ["cert-manager.io"], "resources": ["certificaterequests"], "verbs": ["create"]}]
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role["metadata"]["name"]}
    account = pod(documents)["serviceAccountName"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}]
    assert not find(documents, "ClusterRole")
    assert not find(render({"tls": {"csi": {"driver": "csi.example.org"}}}, "spiffe"), "Role")
