"""While an upgrade or a rollback is under way: what is old still finds what it needs.

Helm changes and deletes objects at once. A configuration reaches the pods up to 90 seconds later, pods are replaced one
by one, and those that are yet to go run with what was configured before. So after each step the former pods, with the
former configuration and with the new one, must find permissions, ways out, ports and time as they need them. What can't
be so in one step is done in several, and README.md says so: those are tried as well.
"""

import ipaddress
import itertools
import re
import tomllib

import pytest

from rendering import BASE, NAMESPACE, ROOT, broker, find, one, pod, render

README = (ROOT / "deploy" / "charts" / "token-broker" / "README.md").read_text()
REVIEWED = {"auth": {"serviceAccounts": {"tokenReview": True}}}
MUTUAL = {"tls": {"clientCa": {"secretName": "callers"}}}
OFFLINE = {"auth": {"serviceAccounts": {"jwksConfigMap": {"name": "keys"}}}}
OFFLINE_REVIEWED = {"auth": {"serviceAccounts": {"jwksConfigMap": {"name": "keys"}, "tokenReview": True}}}

# Values that one and the same release may have, in whatever order.
STATES = {
    "plain": (BASE, {}),
    "reviewed": (BASE, REVIEWED),
    "by another account": (BASE, REVIEWED | {"serviceAccount": {"name": "other"}}),
    "by an account that was given": (BASE, REVIEWED | {"serviceAccount": {"create": False, "name": "given"}}),
    "keys from a file": (BASE, OFFLINE),
    "keys from a file, reviewed": (BASE, OFFLINE_REVIEWED),
    "certificates too": (BASE, MUTUAL | REVIEWED),
    "high availability": ("ha", {}),
    "scaled": (BASE, {"autoscaling": {"enabled": True, "minReplicas": 3}}),
    "without admin": (BASE, {"admin": {"enabled": False}}),
    "scraped by service": (BASE, {"monitoring": {"serviceMonitor": {"enabled": True}}}),
    "labelled": (BASE, {"podLabels": {"tier": "backend"}, "commonLabels": {"team": "identity"}}),
    "traced": (BASE, {"traces": {"endpoint": "http://c:4317"}}),
    "sharing tokens": ("shared", {}),
    "sharing them elsewhere": ("shared", {"shared": {"url": "rediss://valkey.example.org"}}),
    "more credentials": (
        BASE,
        {
            "credentials": {
                "externalSecrets": [{"name": "b", "secretStoreRef": {"name": "s"}, "dataFrom": [{"extract": {"key": "k"}}]}]
            }
        },
    ),
}


def objects(state):
    variant, values = state
    return render(values, variant)


def key(part):
    return (part["kind"], part["metadata"]["name"])


def after(former, latter):
    """What there is once Helm is done: everything of the latter, and of the former what is kept."""
    there = {key(part): part for part in latter}
    for part in former:
        if (part["metadata"].get("annotations") or {}).get("helm.sh/resource-policy") == "keep":
            there.setdefault(key(part), part)
    return list(there.values())


def config(documents):
    name = one(documents, "Deployment")["metadata"]["name"]
    return tomllib.loads(one(documents, "ConfigMap", name)["data"]["config.toml"])


def seconds(duration):
    return int(re.fullmatch(r"(\d+)s", duration)[1])


def may_review(there, account):
    """Whether a service account may create tokenreviews, and still is."""
    roles = {
        part["metadata"]["name"]
        for part in find(there, "ClusterRole")
        for rule in part["rules"]
        if "tokenreviews" in rule["resources"] and "create" in rule["verbs"]
    }
    return any(
        binding["roleRef"]["name"] in roles
        and {"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE} in binding["subjects"]
        for binding in find(there, "ClusterRoleBinding")
    )


# Somewhere in the world, and within a cluster.
VAULT, API_SERVER = map(ipaddress.ip_address, ("203.0.113.9", "10.96.0.1"))


def leads_to(peer, address):
    block = peer.get("ipBlock")
    inside = [ipaddress.ip_network(part) for part in [block["cidr"], *block.get("except", [])]] if block else []
    return bool(inside) and address in inside[0] and not any(address in part for part in inside[1:])


def ports_out(there, labels, address):
    """The ports at that address which pods with these labels may reach; None where no policy holds them."""
    policies = [
        part["spec"]
        for part in find(there, "NetworkPolicy")
        if part["spec"]["podSelector"]["matchLabels"].items() <= labels.items() and "Egress" in part["spec"]["policyTypes"]
    ]
    if not policies:
        return None
    rules = [rule for policy in policies for rule in policy["egress"]]
    return {port["port"] for rule in rules if any(leads_to(peer, address) for peer in rule["to"]) for port in rule["ports"]}


def ways_to_servers(there, labels):
    """The rules by which pods with these labels reach the server that replicas share, by its namespace."""
    server = {"kubernetes.io/metadata.name": "valkey"}
    return [
        rule
        for part in find(there, "NetworkPolicy")
        if part["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
        for rule in part["spec"]["egress"]
        if any(peer.get("namespaceSelector", {}).get("matchLabels") == server for peer in rule["to"])
    ]


def port_of(url):
    found = re.match(r"https://[^/]+?:(\d+)(/|$)", url)
    return int(found[1]) if found else 443


def faults(pods_of, configured_by, there):
    """What pods miss that run as one state has it, with the configuration of one of them."""
    spec, template = pod(pods_of), one(pods_of, "Deployment")["spec"]["template"]
    told, labels, missing = config(configured_by), template["metadata"]["labels"], []
    mounts = {part["mountPath"] for part in broker(pods_of)["volumeMounts"]}
    accounts = told["auth"].get("service_accounts", {})
    reviews = accounts.get("token_review", False)
    # Without the token's mount the broker refuses the configuration, and goes on with the former one.
    if reviews and "/etc/token-broker/api-server" in mounts:
        if not may_review(there, spec["serviceAccountName"]):
            missing.append("the permission to review tokens")
        made = [part["metadata"]["name"] for part in find(pods_of, "ServiceAccount")]
        if spec["serviceAccountName"] in made and not find(there, "ServiceAccount", spec["serviceAccountName"]):
            missing.append("its service account, without which its token is void")
    out = ports_out(there, labels, VAULT)
    if out is not None and port_of(told["vault"]["base_url"]) not in out:
        missing.append("the way to the vault")
    # Where sharing ends, pods of before sign in by themselves: README.md says so. Where it goes on, there is a way.
    if "shared" in told and "shared" in config(there) and not ways_to_servers(there, labels):
        missing.append("a way to what replicas share")
    out = ports_out(there, labels, API_SERVER)
    if out is not None and "token_file" in accounts and not {443, 6443} <= out:
        missing.append("the way to the API server")
    named = {part["name"] for part in broker(pods_of)["ports"]}
    for service in find(there, "Service"):
        if not service["spec"]["selector"].items() <= labels.items():
            missing.append(f"the Service {service['metadata']['name']}")
        if any(port["targetPort"] not in named for port in service["spec"]["ports"] if port["name"] == "grpc"):
            missing.append("the port of its Service")
    for volume in spec["volumes"]:
        name = volume.get("configMap", {}).get("name")
        if name in {part["metadata"]["name"] for part in find(pods_of, "ConfigMap")} and not find(there, "ConfigMap", name):
            missing.append(f"the ConfigMap {name}")
    if spec["terminationGracePeriodSeconds"] < seconds(told["grpc"]["lame_duck"]) + seconds(told["grpc"]["drain"]) + 5:
        missing.append("the time to drain")
    return missing


def step(former, latter):
    """All that is missing while one becomes the other."""
    there = after(former, latter)
    return [
        f"pods {whose}: {fault}"
        for whose, pods_of, configured_by in (
            ("of before, configured as before", former, former),
            ("of before, configured anew", former, latter),
            ("that are new", latter, latter),
        )
        for fault in faults(pods_of, configured_by, there)
    ]


def in_one_step(former, latter):
    """Another account that is to review at once can't be: see IN_STEPS."""
    (former, latter) = (objects(STATES[state]) for state in (former, latter))
    others = pod(former)["serviceAccountName"] != pod(latter)["serviceAccountName"]
    return not (others and find(latter, "ClusterRole") and not find(former, "ClusterRole"))


PAIRS = [pair for pair in itertools.permutations(STATES, 2) if in_one_step(*pair)]


@pytest.mark.parametrize(("former", "latter"), PAIRS)
def test_nothing_is_missing_from_one_to_the_other(former, latter):
    assert step(objects(STATES[former]), objects(STATES[latter])) == []


def test_what_is_kept_is_what_reviews_need_and_no_more():
    kept = {
        part["kind"]
        for state in STATES.values()
        for part in objects(state)
        if (part["metadata"].get("annotations") or {}).get("helm.sh/resource-policy") == "keep"
    }
    assert kept == {"ClusterRole", "ClusterRoleBinding", "ServiceAccount"}
    for part in render():
        assert "helm.sh/resource-policy" not in (part["metadata"].get("annotations") or {})


def test_a_binding_is_one_accounts_for_good():
    """roleRef can't be changed, and a subject that is replaced would take the permission from the pods that still run."""
    names = {}
    for variant, values in STATES.values():
        for part in find(render(values, variant), "ClusterRoleBinding"):
            subjects = [(subject["namespace"], subject["name"]) for subject in part["subjects"]]
            assert names.setdefault(part["metadata"]["name"], subjects) == subjects


# In one step something is missing; in these, nothing. README.md says which.
MOVED = {"vault": {"baseUrl": "https://vault.example.org:8443"}}
OTHER = {"serviceAccount": {"name": "other"}}
BOTH = {"networkPolicy": {"vaultPorts": [443, 8443]}}
LONGER = {"grpc": {"lameDuckSeconds": 60, "drainSeconds": 120}, "terminationGracePeriodSeconds": 185}
IN_STEPS = {
    "another port of the vault": ([{}, MOVED], [{}, BOTH, MOVED | BOTH, MOVED], "networkPolicy.vaultPorts"),
    "reviews by another account": ([{}, OTHER | REVIEWED], [{}, REVIEWED, OTHER | REVIEWED], "serviceAccount"),
    "more time to drain": ([{}, LONGER], [{}, {"terminationGracePeriodSeconds": 185}, LONGER], "terminationGracePeriodSeconds"),
}


@pytest.mark.parametrize("change", IN_STEPS)
def test_what_takes_several_steps_is_said_and_then_nothing_is_missing(change):
    short, long, value = IN_STEPS[change]
    for steps, whole in ((short, False), (long, True)):
        states = [render(values) for values in steps]
        assert ([fault for pair in itertools.pairwise(states) for fault in step(*pair)] == []) is whole
    section = README.partition("## What is changed in several steps")[2].partition("\n## ")[0]
    assert value in section


def test_the_way_back_is_looked_at_as_well():
    """Less time to drain: pods of before have more than they need."""
    assert step(render(LONGER), render()) == []
