"""templates/networkpolicy.yaml: who gets in, and where the broker gets out."""

import ipaddress

import pytest

from rendering import find, one, render

CALLERS = [{"podSelector": {"matchLabels": {"token-broker.caller": "true"}}}]
PRIVATE = [
    "10.1.2.3",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "127.0.0.1",
    "::1",
    "fd00::1",
    "fe80::1",
]


def policy(values=None, variant="service-accounts"):
    return one(render(values, variant), "NetworkPolicy")["spec"]


def ways(rules):
    return [sorted((port.get("protocol", "TCP"), port["port"]) for port in rule["ports"]) for rule in rules]


def test_both_ways_are_closed_for_the_brokers_pods():
    assert policy()["policyTypes"] == ["Ingress", "Egress"]
    assert policy()["podSelector"] == one(render(), "Deployment")["spec"]["selector"]
    assert not find(render(variant="offline-keys"), "NetworkPolicy")


def test_callers_and_monitoring_get_in_each_by_its_port():
    assert policy()["ingress"] == [
        {"from": CALLERS, "ports": [{"port": 50051}]},
        {
            "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
            "ports": [{"port": 9090}],
        },
    ]


def test_callers_are_named_by_label_and_namespace():
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "cards"}}, **CALLERS[0]}
    assert policy({"networkPolicy": {"callers": [peer]}})["ingress"][0]["from"] == [peer]


def test_without_admin_or_monitoring_callers_alone_get_in():
    assert ways(policy({"admin": {"enabled": False}})["ingress"]) == [[("TCP", 50051)]]
    assert ways(policy({"networkPolicy": {"monitoring": []}})["ingress"]) == [[("TCP", 50051)]]


def test_each_rule_names_its_peers_and_ports():
    for variant in ("service-accounts", "reviewed", "traces", "open", "everything", "shared"):
        spec = policy(variant=variant)
        for rule in spec["ingress"]:
            assert rule["from"]
            assert rule["ports"]
        for rule in spec["egress"]:
            assert rule["to"]
            assert rule["ports"]


def test_the_ordinary_one_gets_out_to_dns_the_vault_and_the_api_server():
    out = policy()["egress"]
    assert ways(out) == [[("TCP", 53), ("UDP", 53)], [("TCP", 443)], [("TCP", 443), ("TCP", 6443)]]
    assert out[0]["to"] == [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
            "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
        }
    ]


def test_the_open_one_and_the_spiffe_one_do_not_get_to_the_api_server():
    for variant in ("open", "spiffe"):
        assert ways(policy(variant=variant)["egress"]) == [[("TCP", 53), ("UDP", 53)], [("TCP", 443)]]


def test_the_vaults_and_the_api_servers_addresses_can_be_named():
    out = policy(variant="reviewed")["egress"]
    assert out[1]["to"] == [{"ipBlock": {"cidr": "192.0.2.0/24"}}, {"ipBlock": {"cidr": "2001:db8::/32"}}]
    assert ways(out)[1] == [("TCP", 8443)]
    assert out[2]["to"] == [{"ipBlock": {"cidr": "10.96.0.1/32"}}, {"ipBlock": {"cidr": "10.1.0.10/32"}}]


def test_while_the_vault_moves_both_ports_are_open():
    values = {"vault": {"baseUrl": "https://vault.example.org:8443"}, "networkPolicy": {"vaultPorts": [443, 8443]}}
    assert ways(policy(values)["egress"])[1] == [("TCP", 443), ("TCP", 8443)]


def test_keys_from_a_file_leave_the_way_to_the_api_server_unless_it_is_closed():
    offline = {"auth": {"serviceAccounts": {"jwksConfigMap": {"name": "keys"}}}}
    assert ways(policy(offline)["egress"])[-1] == [("TCP", 443), ("TCP", 6443)]
    closed = offline | {"networkPolicy": {"apiServer": {"cidrs": []}}}
    assert ways(policy(closed)["egress"]) == [[("TCP", 53), ("UDP", 53)], [("TCP", 443)]]


@pytest.mark.parametrize("address", PRIVATE)
def test_without_them_the_vault_is_never_in_a_private_range(address):
    for peer in policy()["egress"][1]["to"]:
        block, inside = peer["ipBlock"], ipaddress.ip_address(address)
        network = ipaddress.ip_network(block["cidr"])
        if inside.version == network.version:
            assert any(inside in ipaddress.ip_network(part) for part in block["except"])
        assert all(ipaddress.ip_network(part).subnet_of(network) for part in block["except"])


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("https://vault.example.org", 443),
        ("https://vault.example.org/v1/8", 443),
        ("https://vault.example.org:8443", 8443),
        ("https://vault.example.org:8443/v1", 8443),
        ("https://[2001:db8::1]", 443),
        ("https://[2001:db8::1]:8443", 8443),
    ],
)
def test_the_vaults_port_is_that_of_its_url(url, port):
    assert ways(policy({"vault": {"baseUrl": url}})["egress"])[1] == [("TCP", port)]


SERVERS = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "valkey"}}}]


def test_what_replicas_share_is_reached_where_it_is_said_to_be_and_by_its_port():
    rule = policy(variant="shared")["egress"][-1]
    assert rule == {"to": SERVERS, "ports": [{"port": 6380}]}
    block = [{"ipBlock": {"cidr": "10.9.8.7/32"}}]
    assert policy({"networkPolicy": {"shared": block}}, "shared")["egress"][-1]["to"] == block
    # Peers alone open nothing.
    assert policy({"networkPolicy": {"shared": block}}) == policy()


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("rediss://valkey.example.org", 6379),
        ("rediss://broker@valkey.example.org/8", 6379),
        ("rediss://broker@valkey.example.org:6380/8", 6380),
        ("rediss://[2001:db8::1]", 6379),
        ("rediss://[2001:db8::1]:6380", 6380),
    ],
)
def test_the_shared_servers_port_is_that_of_its_url(url, port):
    assert ways(policy({"shared": {"url": url}}, "shared")["egress"])[-1] == [("TCP", port)]


def test_one_beside_the_broker_needs_no_way_out():
    values = {"shared": {"url": "redis://127.0.0.1:6379", "ca": {"configMapName": ""}}, "networkPolicy": {"shared": []}}
    assert policy(values, "shared") == policy()


def test_traces_get_out_to_their_collector():
    rule = policy(variant="traces")["egress"][-1]
    assert rule["to"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "observability"}}}]
    assert ways([rule]) == [[("TCP", 4317)]]
    assert ways(policy({"traces": {"endpoint": "http://c:14317"}}, "traces")["egress"])[-1] == [("TCP", 14317)]
    assert ways(policy({"traces": {"endpoint": "http://c"}}, "traces")["egress"])[-1] == [("TCP", 4317)]
