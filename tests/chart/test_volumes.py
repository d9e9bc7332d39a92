"""templates/_volumes.tpl: what is mounted, as directories that kubelet swaps, readable by the broker alone."""

from rendering import broker, pod, render
from test_configmap import config


def volumes(values=None, variant="service-accounts"):
    documents = render(values, variant)
    mounts = {part["name"]: part["mountPath"] for part in broker(documents)["volumeMounts"]}
    sources = {part["name"]: {key: value for key, value in part.items() if key != "name"} for part in pod(documents)["volumes"]}
    assert set(mounts) == set(sources)
    # Each name once, or the API server refuses the pod.
    assert len(mounts) == len(broker(documents)["volumeMounts"])
    assert len(sources) == len(pod(documents)["volumes"])
    return {mounts[name]: source for name, source in sources.items()}


def test_each_credentials_secret_is_a_directory():
    mounted = volumes(variant="reviewed")
    for name, secret in {
        "cards": "cards-credentials",
        "payments": "payments-credentials",
        "loans": "tb-token-broker-loans",
        "savings": "tb-token-broker-savings",
    }.items():
        assert mounted[f"/etc/token-broker/credentials/{name}"] == {"secret": {"secretName": secret, "defaultMode": 0o440}}


def test_the_ordinary_one_has_these_and_no_others():
    assert volumes() == {
        "/etc/token-broker/config": {"configMap": {"name": "tb-token-broker", "defaultMode": 0o440}},
        "/etc/token-broker/credentials/users": {"secret": {"secretName": "token-broker-credentials", "defaultMode": 0o440}},
        "/etc/token-broker/tls": {"secret": {"secretName": "token-broker-tls", "defaultMode": 0o440}},
        "/etc/token-broker/api-server": {
            "projected": {
                "defaultMode": 0o440,
                "sources": [
                    {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
                    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                ],
            }
        },
        "/var/lib/token-broker": {"emptyDir": {"sizeLimit": "160Mi"}},
        "/run/token-broker": {"emptyDir": {"sizeLimit": "1Mi"}},
    }


def test_the_api_servers_token_is_there_only_where_it_is_asked():
    path = "/etc/token-broker/api-server"
    assert path not in volumes(variant="open")
    assert path not in volumes(variant="spiffe")
    assert path not in volumes(variant="offline-keys")
    assert path in volumes(
        {"auth": {"serviceAccounts": {"tokenReview": True}}, "serviceAccount": {"name": "given"}}, "offline-keys"
    )


def test_cas_are_mounted_without_what_lies_beside_them():
    mounted = volumes(variant="everything")
    assert mounted["/etc/token-broker/client-ca"] == {
        "secret": {"secretName": "callers", "defaultMode": 0o440, "items": [{"key": "ca.crt", "path": "ca.crt"}]}
    }
    assert mounted["/etc/token-broker/vault-ca"] == {
        "secret": {"secretName": "vault-ca", "defaultMode": 0o440, "items": [{"key": "vault.pem", "path": "vault.pem"}]}
    }
    mounted = volumes(variant="reviewed")
    assert mounted["/etc/token-broker/client-ca"] == {
        "configMap": {"name": "callers", "defaultMode": 0o440, "items": [{"key": "bundle.pem", "path": "bundle.pem"}]}
    }
    assert mounted["/etc/token-broker/vault-ca"]["configMap"]["name"] == "vault-ca"


def test_certificates_come_from_a_secret_or_a_driver():
    assert volumes(variant="reviewed")["/etc/token-broker/tls"]["secret"]["secretName"] == "tb-token-broker-tls"
    assert volumes(variant="spiffe")["/etc/token-broker/tls"] == {
        "csi": {"driver": "spiffe.csi.cert-manager.io", "readOnly": True}
    }
    attributes = {"csi.cert-manager.io/issuer-name": "internal"}
    other = volumes({"tls": {"csi": {"driver": "csi.cert-manager.io", "volumeAttributes": attributes}}}, "spiffe")
    assert other["/etc/token-broker/tls"]["csi"]["volumeAttributes"] == attributes


def test_a_certificate_of_the_pods_own_is_one_file_for_both_keys():
    mounted = volumes(variant="pod-certificate")
    (source,) = mounted["/etc/token-broker/tls"]["projected"]["sources"]
    assert source == {
        "podCertificate": {
            "signerName": "example.org/internal",
            "keyType": "ECDSAP256",
            "maxExpirationSeconds": 86400,
            "credentialBundlePath": "tls.pem",
        }
    }
    configured = config(variant="pod-certificate")["grpc"]["tls"]
    assert configured["certificate_file"] == configured["key_file"] == "/etc/token-broker/tls/tls.pem"
    assert configured["client_ca_file"] == "/etc/token-broker/client-ca/ca.crt"


def test_bundles_of_the_cluster_are_by_name_or_all_of_a_signers():
    mounted = volumes(variant="pod-certificate")
    assert mounted["/etc/token-broker/client-ca"]["projected"]["sources"] == [
        {"clusterTrustBundle": {"name": "example.org:internal:callers", "path": "ca.crt"}}
    ]
    assert mounted["/etc/token-broker/vault-ca"]["projected"]["sources"] == [
        {"clusterTrustBundle": {"signerName": "example.org/vaults", "labelSelector": {}, "path": "ca.crt"}}
    ]


def test_the_clusters_keys_come_from_a_config_map():
    assert volumes(variant="offline-keys")["/etc/token-broker/jwks"] == {
        "configMap": {"name": "cluster-keys", "defaultMode": 0o440}
    }
    closed = {
        "auth": {"serviceAccounts": {"enabled": False, "jwksConfigMap": {"name": "a"}}},
        "tls": {"clientCa": {"secretName": "a"}},
    }
    assert "/etc/token-broker/jwks" not in volumes(closed)


def test_what_replicas_share_is_sealed_with_secrets_that_the_broker_alone_can_read():
    def only(name, key):
        return {"secret": {"secretName": name, "defaultMode": 0o440, "items": [{"key": key, "path": key}]}}

    def shared(values=None):
        return {path: source for path, source in volumes(values, "shared").items() if "/shared-" in path}

    assert shared() == {
        "/etc/token-broker/shared-password": only("token-broker-shared", "password"),
        "/etc/token-broker/shared-ca": {
            "configMap": {"name": "valkey-ca", "defaultMode": 0o440, "items": [{"key": "ca.crt", "path": "ca.crt"}]}
        },
        "/etc/token-broker/shared-names": only("token-broker-shared", "names"),
        # Whole, so that a key which is added to it arrives in pods that run.
        "/etc/token-broker/shared-keys/token-broker-shared-keys": {
            "secret": {"secretName": "token-broker-shared-keys", "defaultMode": 0o440}
        },
    }
    keys = [{"id": number, "secretName": name, "key": "k"} for number, name in enumerate("ba", start=1)]
    assert [path[-2:] for path in shared({"shared": {"keys": keys}}) if "shared-keys" in path] == ["/a", "/b"]
    bare = {"url": "rediss://valkey", "passwordSecret": {"name": ""}, "ca": {"configMapName": ""}}
    assert set(shared({"shared": bare})) == set(shared()) - {f"/etc/token-broker/shared-{what}" for what in ("password", "ca")}
    nothing = {"state": {"enabled": False}, "operator": {"enabled": False}}
    assert all(part["readOnly"] for part in broker(render(nothing, "shared"))["volumeMounts"])


def test_only_the_audit_trail_holds_and_the_operators_socket_are_written():
    documents = render(variant="everything")
    assert volumes(variant="everything")["/var/log/token-broker"] == {"emptyDir": {"sizeLimit": "1Gi"}}
    writable = [part["name"] for part in broker(documents)["volumeMounts"] if not part.get("readOnly")]
    assert writable == ["audit", "state", "operator"]
    assert volumes()["/run/token-broker"] == {"emptyDir": {"sizeLimit": "1Mi"}}
    read_only = broker(render({"state": {"enabled": False}, "operator": {"enabled": False}}))["volumeMounts"]
    assert all(part["readOnly"] for part in read_only)


def test_holds_outlive_a_container_and_where_is_said_they_outlive_more():
    assert volumes()["/var/lib/token-broker"] == {"emptyDir": {"sizeLimit": "160Mi"}}
    claim = {"ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"]}}}}
    assert volumes({"state": {"volume": claim}})["/var/lib/token-broker"] == claim
    assert "/var/lib/token-broker" not in volumes({"state": {"enabled": False}})
