"""values.schema.json: what a single value may look like."""

import json

import pytest
import yaml

from rendering import CHART, refusal, render

SECRET = {"name": "a", "secretName": "b"}
STORE = {"name": "a", "secretStoreRef": {"name": "b"}}
SEALING = {"id": 1, "secretName": "a", "key": "1"}
CALLER = {"id": "a.example.org", "merchants": ["*"]}
WRONG = {
    "a key nobody knows": ({"replicas": 2}, "replicas"),
    "one deep inside": ({"auth": {"serviceAccounts": {"tokenreview": True}}}, "tokenreview"),
    "no issuer in the list": ({"auth": {"serviceAccounts": {"issuer": []}}}, "/auth/serviceAccounts/issuer"),
    "an issuer twice": ({"auth": {"serviceAccounts": {"issuer": ["a", "a"]}}}, "/auth/serviceAccounts/issuer"),
    "an issuer that is empty": ({"auth": {"serviceAccounts": {"issuer": ["a", ""]}}}, "/auth/serviceAccounts/issuer"),
    "a path for keys": (
        {"auth": {"serviceAccounts": {"jwksConfigMap": {"key": ["a", "../b"]}}}},
        "/auth/serviceAccounts/jwksConfigMap/key",
    ),
    "an unknown level": ({"log": {"level": "loud"}}, "/log/level"),
    "a duration without a unit": ({"vault": {"timeout": "10"}}, "/vault/timeout"),
    "a number for a duration": ({"vault": {"timeout": 10}}, "/vault/timeout"),
    "seconds as a duration": ({"grpc": {"drainSeconds": "20s"}}, "/grpc/drainSeconds"),
    "too long a lame duck": ({"grpc": {"lameDuckSeconds": 301}}, "/grpc/lameDuckSeconds"),
    "an address of its own": ({"grpc": {"listenAddress": "127.0.0.1"}}, "/grpc/listenAddress"),
    "a password in plaintext": ({"vault": {"baseUrl": "http://vault.example.org"}}, "/vault/baseUrl"),
    "a user in the URL": ({"vault": {"baseUrl": "https://user@vault.example.org"}}, "/vault/baseUrl"),
    "a third way of renewal": ({"vault": {"renewal": "sometimes"}}, "/vault/renewal"),
    "no sign-in at all": ({"vault": {"maxConcurrentSignIns": 0}}, "/vault/maxConcurrentSignIns"),
    "a number for a header": ({"vault": {"headers": {"X-Version": 1.2}}}, "/vault/headers/X-Version"),
    "a digest cut short": ({"image": {"digest": "sha256:abc"}}, "/image/digest"),
    "a directory that is none": (
        {"credentials": {"secrets": [{"name": "a/b", "secretName": "b"}]}},
        "/credentials/secrets/0/name",
    ),
    "a Secret without a name": ({"credentials": {"secrets": [{"name": "a"}]}}, "secretName"),
    "a password in the values": ({"credentials": {"secrets": [{**SECRET, "password": "p"}]}}, "password"),
    "users in the values": ({"users": []}, "users"),
    "a Secret from nothing": ({"credentials": {"externalSecrets": [STORE]}}, "/credentials/externalSecrets/0"),
    "another kind of store": (
        {"credentials": {"externalSecrets": [{**STORE, "secretStoreRef": {"kind": "Store", "name": "b"}}]}},
        "kind",
    ),
    "a caller without merchants": ({"callers": [{"id": "a"}]}, "merchants"),
    "all merchants and one": ({"callers": [{**CALLER, "merchants": ["*", "a"]}]}, "/callers/0/merchants"),
    "all merchants twice": ({"callers": [{**CALLER, "merchants": ["*", "*"]}]}, "/callers/0/merchants"),
    "part of a segment": ({"callers": [{**CALLER, "id": "spiffe://example.org/x*"}]}, "/callers/0/id"),
    "a wildcard for a domain": ({"callers": [{**CALLER, "id": "spiffe://*/x"}]}, "/callers/0/id"),
    "nobody in particular": ({"callers": [{**CALLER, "id": "*"}]}, "/callers/0/id"),
    "half a service account": ({"callers": [{**CALLER, "id": "system:serviceaccount:cards"}]}, "/callers/0/id"),
    "a national number": ({"callers": [{**CALLER, "numbers": ["07871239999"]}]}, "/callers/0/numbers/0"),
    "no eviction ever": ({"podDisruptionBudget": {"maxUnavailable": 0}}, "/podDisruptionBudget/maxUnavailable"),
    "nor by a part": ({"podDisruptionBudget": {"maxUnavailable": "0%"}}, "/podDisruptionBudget/maxUnavailable"),
    "a claim that pods share": ({"audit": {"volume": {"persistentVolumeClaim": {"claimName": "a"}}}}, "persistentVolumeClaim"),
    "a claim that pods share, for holds": (
        {"state": {"volume": {"persistentVolumeClaim": {"claimName": "a"}}}},
        "persistentVolumeClaim",
    ),
    "a path for the audit trail": ({"audit": {"file": "../a"}}, "/audit/file"),
    "hits told in neither way": ({"audit": {"hits": "none"}}, "/audit/hits"),
    "a variable that is given twice": (
        {"extraEnv": [{"name": "A", "value": "a", "valueFrom": {"secretKeyRef": {"name": "b", "key": "c"}}}]},
        "/extraEnv/0",
    ),
    "a variable from a whole Secret": (
        {"extraEnv": [{"name": "A", "valueFrom": {"secretRef": {"name": "b"}}}]},
        "/extraEnv/0/valueFrom",
    ),
    "a variable from no key": ({"extraEnv": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "b"}}}]}, "secretKeyRef"),
    "a single file mounted": (
        {"extraContainers": [{"name": "a", "image": "b", "volumeMounts": [{"name": "c", "mountPath": "/d", "subPath": "e"}]}]},
        "/extraContainers/0/volumeMounts/0",
    ),
    "a single file of another kind": (
        {"extraVolumeMounts": [{"name": "c", "mountPath": "/d", "subPath": "e"}]},
        "/extraVolumeMounts/0",
    ),
    "a place of the broker's own": (
        {"extraVolumeMounts": [{"name": "c", "mountPath": "/etc/token-broker/credentials"}]},
        "/extraVolumeMounts/0/mountPath",
    ),
    **{
        f"the broker would not see what is at {place}": (
            {"extraVolumes": [{"name": "c", "emptyDir": {}}], "extraVolumeMounts": [{"name": "c", "mountPath": place}]},
            "/extraVolumeMounts/0/mountPath",
        )
        for place in [
            *(
                "/",
                "//",
                "relative",
                "/etc",
                "/etc/",
                "/var",
                "/var/lib",
                "/var/log",
                "/var//log/token-broker",
                "/a/./b",
                "/a/../etc",
            ),
            *("/token-broker", "/var/lib/token-broker", "/var/log/token-broker/a", "/etc/token-broker", "/proc", "/a:b"),
        ]
    },
    "a name that is none": ({"fullnameOverride": "Bad Name"}, "/fullnameOverride"),
    "a name of digits": ({"fullnameOverride": "1"}, "/fullnameOverride"),
    "a name for the label that is none": ({"nameOverride": "Bad Name"}, "/nameOverride"),
    "the checksum given by hand": ({"podAnnotations": {"checksum/restarts": "a"}}, "/podAnnotations"),
    "a sidecar without a name": ({"sidecars": [{"image": "a"}]}, "/sidecars/0"),
    "a volume without a name": ({"extraVolumes": [{"emptyDir": {}}]}, "/extraVolumes/0"),
    "an unknown key type": ({"tls": {"podCertificate": {"keyType": "RSA1024"}}}, "/tls/podCertificate/keyType"),
    "a signer without a domain": ({"tls": {"podCertificate": {"signerName": "internal"}}}, "/tls/podCertificate/signerName"),
    "traffic to nowhere": ({"service": {"trafficDistribution": "Far"}}, "/service/trafficDistribution"),
    "traces over TLS without a CA": ({"traces": {"endpoint": "https://c:4317"}}, "/traces/endpoint"),
    "a password in the URL": ({"shared": {"url": "rediss://broker:word@valkey"}}, "/shared/url"),
    "tokens in plaintext": ({"shared": {"url": "redis://valkey"}}, "/shared/url"),
    "a password among the values": ({"shared": {"password": "p"}}, "password"),
    "a key among the values": ({"shared": {"keys": [{**SEALING, "value": "a"}]}}, "/shared/keys/0"),
    "a key from nowhere": ({"shared": {"keys": [{"id": 1, "key": "1"}]}}, "secretName"),
    "a key without an id": ({"shared": {"keys": [{"secretName": "a", "key": "1"}]}}, "id"),
    "an id below the least": ({"shared": {"keys": [{**SEALING, "id": 0}]}}, "/shared/keys/0/id"),
    "a key by another path": ({"shared": {"keys": [{**SEALING, "key": "../a"}]}}, "/shared/keys/0/key"),
    "a Secret too long for a volume's name": (
        {"shared": {"keys": [{**SEALING, "secretName": "a" * 51}]}},
        "/shared/keys/0/secretName",
    ),
    "more keys than ever": ({"shared": {"keys": [{**SEALING, "id": number + 1} for number in range(9)]}}, "/shared/keys"),
    "no peer for the shared tier": ({"networkPolicy": {"shared": [{}]}}, "/networkPolicy/shared/0"),
    "no port for the vault": ({"networkPolicy": {"vaultPorts": [0]}}, "/networkPolicy/vaultPorts/0"),
    "a peer that is everybody": ({"networkPolicy": {"callers": [{}]}}, "/networkPolicy/callers/0"),
    "a peer with a typing error": ({"networkPolicy": {"callers": [{"podSelektor": {}}]}}, "podSelektor"),
    "an address for a network": ({"networkPolicy": {"vaultCidrs": ["192.0.2.1"]}}, "/networkPolicy/vaultCidrs/0"),
    "no port for the API server": ({"networkPolicy": {"apiServer": {"ports": []}}}, "/networkPolicy/apiServer/ports"),
    "more than all calls": ({"traces": {"sampleRatio": 1.5}}, "/traces/sampleRatio"),
    "an interval of another kind": ({"monitoring": {"podMonitor": {"interval": "30"}}}, "/monitoring/podMonitor/interval"),
    "a way to spread": ({"topologySpread": {"zone": "Perhaps"}}, "/topologySpread/zone"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_is_refused_and_named(wrong):
    values, named = WRONG[wrong]
    told = refusal(values)
    assert "don't meet the specifications of the schema" in told
    assert named in told


@pytest.mark.parametrize(
    "caller",
    [
        "spiffe://example.org/ns/*/sa/cards",
        "system:serviceaccount:*:cards.v2",
        "*.example.org",
        "cards.*.example.org",
        "localhost",
    ],
)
def test_callers_that_the_broker_takes_are_taken(caller):
    render({"callers": [{"id": caller, "merchants": ["bece038f-2e46-49f4-b25e-89cd38d6dc16", "m"]}]})


@pytest.mark.parametrize("duration", ["0s", "90s", "1h 30m", "1h30m", "5000ms", "7days", "2 min", "1day"])
def test_durations_that_the_broker_takes_are_taken(duration):
    render({"vault": {"minSignInInterval" if duration == "0s" else "idleAfter": duration}})


@pytest.mark.parametrize("place", ["/scratch", "/etc/ssl/certs", "/var/lib/other", "/token-broker-more", "/.cache", "/a/..b"])
def test_places_beside_the_brokers_own_are_taken(place):
    render({"extraVolumes": [{"name": "c", "emptyDir": {}}], "extraVolumeMounts": [{"name": "c", "mountPath": place}]})


def closed(schema, path=""):
    """Yields the places of objects that take any key, though they list some."""
    if isinstance(schema, dict):
        if schema.get("type") == "object" and "properties" in schema and schema.get("additionalProperties") is not False:
            yield path
        for key, part in schema.items():
            yield from closed(part, f"{path}/{key}")
    elif isinstance(schema, list):
        for index, part in enumerate(schema):
            yield from closed(part, f"{path}/{index}")


def test_no_object_takes_keys_that_it_does_not_know():
    schema = json.loads((CHART / "values.schema.json").read_text())
    # These are Kubernetes's; here containers are only kept from mounting single files, and volumes from having no name.
    assert sorted(closed(schema)) == ["/definitions/container", "/properties/extraVolumes/items"]


def keys(values, schema, definitions):
    schema = definitions[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    if isinstance(values, dict) and "properties" in schema:
        assert set(values) <= set(schema["properties"])
        return {key for key, part in values.items()} | {
            f"{key}.{deep}" for key, part in values.items() for deep in keys(part, schema["properties"][key], definitions)
        }
    return set()


def test_the_schema_has_the_values_and_no_more():
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(schema["properties"]) - set(values) == {"global"}
    assert "vault.ca.key" in keys(values, schema, schema["definitions"])
