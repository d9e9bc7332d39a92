"""templates/serviceaccount.yaml: whose name the pods have; no token is mounted by itself."""

from rendering import find, one, pod, render


def test_one_of_its_own_without_a_token():
    documents = render()
    assert one(documents, "ServiceAccount")["metadata"]["name"] == "tb-token-broker"
    assert one(documents, "ServiceAccount")["automountServiceAccountToken"] is False
    assert pod(documents)["serviceAccountName"] == "tb-token-broker"
    assert pod(documents)["automountServiceAccountToken"] is False


def test_another_name_and_annotations():
    account = one(render(variant="everything"), "ServiceAccount")
    assert account["metadata"]["name"] == "tokens-account"
    assert account["metadata"]["annotations"] == {"example.org/role": "none"}


def test_one_that_exists():
    assert not find(render(variant="offline-keys"), "ServiceAccount")
    assert pod(render(variant="offline-keys"))["serviceAccountName"] == "default"
    given = render({"serviceAccount": {"create": False, "name": "given"}})
    assert pod(given)["serviceAccountName"] == "given"
