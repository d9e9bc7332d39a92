"""templates/validate.yaml: what contradicts itself is refused, with the value, the fault and the remedy."""

import pytest

from rendering import refusal, render

KEY = {"id": 1, "secretName": "keys", "key": "1"}
SHARED = {"url": "rediss://valkey", "nameKeySecret": {"name": "names"}, "keys": [KEY]}
SECRETS = [{"name": "users", "secretName": "a"}]
FAULTS = {
    "no image": ({"image": {"repository": ""}}, "image.repository is empty", "say where the image is"),
    "no vault": ({"vault": {"baseUrl": ""}}, "vault.baseUrl is missing", "give the vault's address"),
    "no credentials": ({"credentials": {"secrets": []}}, "credentials are missing", "credentials.externalSecrets"),
    "one directory twice": (
        {"credentials": {"secrets": SECRETS * 2}},
        'credentials have the name "users" twice',
        "choose another",
    ),
    "nobody is asked": (
        {"auth": {"serviceAccounts": {"enabled": False}}, "callers": []},
        "auth says of nobody who may call",
        "auth.allowUnauthenticated: true",
    ),
    "no callers": ({"callers": []}, "callers are missing", "add one for each caller"),
    "open, with callers": (
        {"auth": {"allowUnauthenticated": True, "serviceAccounts": {"enabled": False}}},
        "auth.allowUnauthenticated contradicts callers",
        "unset one of the two",
    ),
    "open, with service accounts": (
        {"auth": {"allowUnauthenticated": True}, "callers": []},
        "auth.allowUnauthenticated contradicts auth.serviceAccounts.enabled",
        "unset one of the two",
    ),
    "open, with mutual TLS": (
        {"auth": {"allowUnauthenticated": True}, "tls": {"clientCa": {"secretName": "a"}}},
        "auth.allowUnauthenticated contradicts tls.clientCa",
        "unset one of the two",
    ),
    "open, with SPIFFE": (
        {"auth": {"allowUnauthenticated": True}, "tls": {"secretName": "", "csi": {"enabled": True}}},
        "auth.allowUnauthenticated contradicts tls.csi.enabled",
        "unset one of the two",
    ),
    "open, with a policy on trial": (
        {"auth": {"allowUnauthenticated": True, "enforce": False, "serviceAccounts": {"enabled": False}}, "callers": []},
        "auth.enforce: false contradicts auth.allowUnauthenticated",
        "unset one of the two",
    ),
    "nobody to try": ({"auth": {"enforce": False}, "callers": []}, "callers are missing", "add one for each caller"),
    "tokens in plaintext": ({"tls": {"secretName": ""}}, "auth.serviceAccounts.enabled needs TLS", "set tls.secretName"),
    "keys of one issuer of two": (
        {"auth": {"serviceAccounts": {"issuer": ["a", "b"], "jwksConfigMap": {"name": "a", "key": ["a"]}}}},
        "auth.serviceAccounts.jwksConfigMap.key has 1 entries for 2 of auth.serviceAccounts.issuer",
        "give one for each",
    ),
    "keys of two for one issuer": (
        {"auth": {"serviceAccounts": {"jwksConfigMap": {"name": "a", "key": ["a", "b"]}}}},
        "auth.serviceAccounts.jwksConfigMap.key has 2 entries for 1 of auth.serviceAccounts.issuer",
        "or one alone that serves all",
    ),
    "reviews of nothing": (
        {"auth": {"serviceAccounts": {"enabled": False, "tokenReview": True}}, "tls": {"clientCa": {"secretName": "a"}}},
        "auth.serviceAccounts.tokenReview has no effect",
        "or unset it",
    ),
    "reviews by every pod of the namespace": (
        {"auth": {"serviceAccounts": {"tokenReview": True}}, "serviceAccount": {"create": False}},
        "serviceAccount is the namespace's account default",
        "name another in serviceAccount.name",
    ),
    "reviews by every pod of the namespace, by its name": (
        {"auth": {"serviceAccounts": {"tokenReview": True}}, "serviceAccount": {"create": False, "name": "default"}},
        "permitted what auth.serviceAccounts.tokenReview needs",
        "serviceAccount.create",
    ),
    "certificates for every pod of the namespace": (
        {"tls": {"secretName": "", "csi": {"enabled": True}}, "serviceAccount": {"create": False}},
        "permitted what tls.csi.enabled needs",
        "name another",
    ),
    "two certificates": (
        {"tls": {"certManager": {"enabled": True, "issuerRef": {"name": "a"}}}},
        "tls.certManager.enabled, tls.secretName name several certificates",
        "keep one of them",
    ),
    "no issuer": (
        {"tls": {"secretName": "", "certManager": {"enabled": True}}},
        "tls.certManager.issuerRef.name is missing",
        "name the issuer",
    ),
    "client CA without TLS": (
        {"tls": {"secretName": "", "clientCa": {"secretName": "a"}}, "auth": {"serviceAccounts": {"enabled": False}}},
        "tls.clientCa needs a certificate of the broker's own",
        "set tls.secretName",
    ),
    "a socket for files": (
        {"tls": {"secretName": "", "csi": {"enabled": True, "driver": "csi.spiffe.io"}}},
        "tls.csi.driver csi.spiffe.io mounts the Workload API's socket",
        "use spiffe.csi.cert-manager.io",
    ),
    "no signer": (
        {"tls": {"secretName": "", "podCertificate": {"enabled": True}}},
        "tls.podCertificate.signerName is missing",
        "name the signer",
    ),
    "two certificates, one of the pod's own": (
        {"tls": {"podCertificate": {"enabled": True, "signerName": "a/b"}}},
        "tls.podCertificate.enabled, tls.secretName name several certificates",
        "keep one of them",
    ),
    "a bundle beside a Secret": (
        {"tls": {"clientCa": {"secretName": "a", "clusterTrustBundle": {"name": "b"}}}},
        "tls.clientCa has clusterTrustBundle.name and secretName",
        "keep one of them",
    ),
    "a volume of the broker's own": (
        {"extraVolumes": [{"name": "tls", "emptyDir": {}}]},
        'extraVolumes has the name "tls"',
        "choose another",
    ),
    "a volume like one for credentials": (
        {"extraVolumes": [{"name": "credentials-users", "emptyDir": {}}]},
        'extraVolumes has the name "credentials-users"',
        "choose another",
    ),
    "a volume twice": (
        {"extraVolumes": [{"name": "a", "emptyDir": {}}] * 2},
        'extraVolumes has the name "a" twice',
        "choose another",
    ),
    "a mount of nothing": (
        {"extraVolumeMounts": [{"name": "a", "mountPath": "/a"}]},
        'extraVolumeMounts mounts "a", and no volume has that name',
        "add it to extraVolumes",
    ),
    "a sidecar's mount of nothing": (
        {"sidecars": [{"name": "b", "image": "c", "volumeMounts": [{"name": "audit", "mountPath": "/a"}]}]},
        'sidecars: b mounts "audit", and no volume has that name',
        "add it to extraVolumes",
    ),
    "two mounts at one place": (
        {
            "extraVolumes": [{"name": "a", "emptyDir": {}}],
            "extraVolumeMounts": [{"name": "a", "mountPath": "/a"}, {"name": "a", "mountPath": "/a"}],
        },
        "extraVolumeMounts mounts two volumes at /a",
        "choose another place",
    ),
    **{
        f"a secret in the header {name}": (
            {"vault": {"headers": {name: "Bearer a"}}},
            f'vault.headers has "{name}", which sounds like a secret',
            "remove it",
        )
        for name in ("Authorization", "Proxy-Authorization", "COOKIE", "X-Api-Key", "X-Auth-Token", "apikey")
    },
    "tokens for the issuer": (
        {"auth": {"serviceAccounts": {"issuer": ["https://a", "https://b"], "audience": "https://b"}}},
        "auth.serviceAccounts.audience is an issuer's",
        "choose one of the broker's own",
    ),
    "client CA twice": (
        {"tls": {"clientCa": {"secretName": "a", "configMapName": "b"}}},
        "tls.clientCa has configMapName and secretName",
        "keep one of them",
    ),
    "vault's CA twice": (
        {"vault": {"ca": {"secretName": "a", "configMapName": "b"}}},
        "vault.ca has configMapName and secretName",
        "keep one of them",
    ),
    "too little grace": (
        {"terminationGracePeriodSeconds": 29},
        "terminationGracePeriodSeconds is 29",
        "set at least 30 (grpc.lameDuckSeconds + grpc.drainSeconds + 5)",
    ),
    "too long a lame duck": ({"grpc": {"lameDuckSeconds": 36}}, "terminationGracePeriodSeconds is 60", "set at least 61"),
    "too long a drain": ({"grpc": {"drainSeconds": 51}}, "terminationGracePeriodSeconds is 60", "set at least 61"),
    "replicas that revoke": (
        {"vault": {"renewal": "at_expiry"}},
        "replicaCount above 1 contradicts vault.renewal at_expiry",
        "set it to 1",
    ),
    "scaling that revokes": (
        {"vault": {"renewal": "at_expiry"}, "replicaCount": 1, "autoscaling": {"enabled": True}},
        "autoscaling.enabled contradicts vault.renewal at_expiry",
        "disable it",
    ),
    "least above most": (
        {"autoscaling": {"enabled": True, "minReplicas": 7}},
        "autoscaling.minReplicas is above autoscaling.maxReplicas",
        "swap them",
    ),
    "parts of nothing": (
        {"autoscaling": {"enabled": True}, "resources": {"requests": None}},
        "resources.requests.cpu is missing",
        "set it",
    ),
    "audit on a read-only disk": ({"audit": {"file": "a"}}, "audit.file needs audit.volume", "give a volume"),
    "a volume for nothing": ({"audit": {"volume": {"emptyDir": {}}}}, "audit.volume has no effect", "name the file"),
    "scraped twice": (
        {"monitoring": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}},
        "monitoring.podMonitor.enabled and monitoring.serviceMonitor.enabled would scrape every pod twice",
        "keep one of the two",
    ),
    "nothing to scrape": (
        {"monitoring": {"podMonitor": {"enabled": True}}, "admin": {"enabled": False}},
        "monitoring.podMonitor.enabled needs the port of admin.enabled",
        "enable that too",
    ),
    "no service to scrape": (
        {"monitoring": {"serviceMonitor": {"enabled": True}}, "headlessService": {"enabled": False}},
        "monitoring.serviceMonitor.enabled needs headlessService.enabled",
        "use monitoring.podMonitor.enabled",
    ),
    "samples of nothing": ({"traces": {"sampleRatio": 0.5}}, "traces.sampleRatio has no effect", "name the collector"),
    "no caller gets in": ({"networkPolicy": {"callers": []}}, "networkPolicy.callers is empty", "name the callers' pods"),
    "no names": ({"networkPolicy": {"dns": []}}, "networkPolicy.dns is empty", "name the pods that answer DNS"),
    "traces don't get out": (
        {"networkPolicy": {"collector": []}, "traces": {"endpoint": "http://collector:4317"}},
        "networkPolicy.collector is empty",
        "name the collector's pods",
    ),
    "no way to what replicas share": (
        {"shared": SHARED},
        "networkPolicy.shared is empty",
        "name its pods and namespace, or its addresses",
    ),
    "no name key": (
        {"shared": SHARED | {"nameKeySecret": {"name": ""}}},
        "shared.nameKeySecret.name is missing",
        "name a Secret with 32 random bytes in base64",
    ),
    "no sealing key": ({"shared": SHARED | {"keys": []}}, "shared.keys are missing", "give one at least"),
    "a user who can't prove itself": (
        {"shared": SHARED | {"url": "rediss://broker@valkey"}},
        "shared.passwordSecret.name is missing",
        "name the Secret with its password",
    ),
    "a CA for plaintext": (
        {"shared": SHARED | {"url": "redis://localhost", "ca": {"secretName": "a"}}},
        "shared.ca has no effect",
        "write rediss://",
    ),
    "the shared tier's CA twice": (
        {"shared": SHARED | {"ca": {"secretName": "a", "configMapName": "b"}}},
        "shared.ca has configMapName and secretName",
        "keep one of them",
    ),
    "two keys with one id": (
        {"shared": SHARED | {"keys": [KEY, KEY | {"key": "2"}]}},
        "shared.keys has the id 1 twice",
        "give each its own",
    ),
    "one key with two ids": (
        {"shared": SHARED | {"keys": [KEY, KEY | {"id": 2}]}},
        "shared.keys has keys/1, which is another key already",
        "make each with openssl rand -base64 32",
    ),
    "the name key to seal with": (
        {"shared": SHARED | {"nameKeySecret": {"name": "keys", "key": "1"}}},
        "shared.keys has keys/1, which is another key already",
        "make each with openssl rand -base64 32",
    ),
    "a password for no server": (
        {"shared": {"passwordSecret": {"name": "a"}}},
        "shared.passwordSecret has no effect without shared.url",
        "or unset it",
    ),
    "a CA for no server": ({"shared": {"ca": {"configMapName": "a"}}}, "shared.ca has no effect without shared.url", "unset it"),
    "names at no server": (
        {"shared": {"nameKeySecret": {"name": "a"}}},
        "shared.nameKeySecret has no effect without shared.url",
        "give the server's address",
    ),
    "keys for no server": ({"shared": {"keys": [KEY]}}, "shared.keys has no effect without shared.url", "unset it"),
    "a volume like one for sealing keys": (
        {"extraVolumes": [{"name": "shared-keys-a", "emptyDir": {}}]},
        'extraVolumes has the name "shared-keys-a"',
        "choose another",
    ),
    "no way to the API server": (
        {"networkPolicy": {"apiServer": {"cidrs": []}}},
        "networkPolicy.apiServer.cidrs is empty",
        "give its addresses",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_is_refused_with_the_remedy(fault):
    values, what, remedy = FAULTS[fault]
    lines = [line for line in refusal(values).splitlines() if line.startswith("- ") and what in line]
    assert len(lines) == 1
    assert remedy in lines[0]


def test_the_defaults_are_refused_with_all_that_is_missing():
    told = refusal(variant=None)
    for word in ("vault.baseUrl is missing", "credentials are missing", "auth says of nobody who may call"):
        assert word in told
    assert told.count("\n- ") == 3


def test_what_is_just_enough_is_taken():
    render({"terminationGracePeriodSeconds": 30})
    render({"vault": {"renewal": "at_expiry"}, "replicaCount": 1})
    render({"autoscaling": {"enabled": True, "minReplicas": 6}})
    # Who share tokens revoke none of each other's.
    render({"vault": {"renewal": "at_expiry"}}, "shared")
    render({"shared": SHARED | {"url": "redis://localhost"}})
    render({"shared": SHARED, "networkPolicy": {"enabled": False}})
    render({"networkPolicy": {"enabled": False, "callers": [], "dns": []}})
    render({"credentials": {"secrets": [*SECRETS, {"name": "more", "secretName": "a"}]}})
