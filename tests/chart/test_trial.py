"""The trial with the sandbox vault: what the commands of sandbox/README.md make, the manifests and the values fit each other."""

import ipaddress
import re
import tomllib

import yaml

from rendering import CHART, ROOT, broker, find, helm, one, pod

DIRECTORY = ROOT / "deploy" / "kubernetes"
README = (ROOT / "sandbox" / "README.md").read_text()
NAMESPACE = "token-broker"


def manifests(name):
    return list(yaml.safe_load_all((DIRECTORY / name).read_text()))


def rendered():
    """As the README's command does."""
    done = helm("template", NAMESPACE, CHART, "--namespace", NAMESPACE, files=[DIRECTORY / "trial-values.yaml"])
    assert done.returncode == 0, done.stderr
    return [part for part in yaml.safe_load_all(done.stdout) if part]


def config(documents):
    return tomllib.loads(one(documents, "ConfigMap", NAMESPACE)["data"]["config.toml"])


def test_the_vaults_address_is_the_sandboxs_service_with_the_certificates_name():
    service = one(manifests("sandbox.yaml"), "Service")
    host, port = re.fullmatch(r"https://(.*):(\d+)", config(rendered())["vault"]["base_url"]).groups()
    assert host == f"{service['metadata']['name']}.{NAMESPACE}.svc"
    assert int(port) == service["spec"]["ports"][0]["port"]
    # Network plugins look at the pod's port.
    container = pod(manifests("sandbox.yaml"))["containers"][0]
    assert container["ports"][0]["containerPort"] == int(port)
    assert f"--listen=0.0.0.0:{port}" in container["args"]
    assert "subjectAltName=DNS:$name.token-broker.svc," in README


def test_the_secrets_that_are_made_are_those_that_are_mounted():
    made = {f"{name}-tls" for name in ("token-broker", "token-broker-sandbox")} | {"token-broker-credentials"}
    mounted = set()
    for documents in (rendered(), manifests("sandbox.yaml")):
        mounted |= {part["secret"]["secretName"] for part in pod(documents)["volumes"] if "secret" in part}
    job = one(manifests("trial-caller.yaml"), "Job")["spec"]["template"]["spec"]
    mounted |= {part["secret"]["secretName"] for part in job["volumes"] if "secret" in part}
    assert mounted == made
    assert "for name in token-broker token-broker-sandbox; do" in README


def test_the_broker_gets_to_the_sandbox_and_nobody_else_does():
    documents = rendered()
    (rule,) = one(manifests("sandbox.yaml"), "NetworkPolicy")["spec"]["ingress"]
    (peer,) = rule["from"]
    labels = one(documents, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert peer["podSelector"]["matchLabels"].items() <= labels.items()
    out = one(documents, "NetworkPolicy")["spec"]["egress"][1]
    assert [port["port"] for port in out["ports"]] == [port["port"] for port in rule["ports"]] == [8081]
    networks = [ipaddress.ip_network(peer["ipBlock"]["cidr"]) for peer in out["to"]]
    assert all(any(ipaddress.ip_address(pod_) in network for network in networks) for pod_ in ("10.244.0.7", "192.168.3.4"))


def test_the_caller_is_let_in_and_may_ask_for_the_documented_user():
    documents = rendered()
    job = one(manifests("trial-caller.yaml"), "Job")["spec"]["template"]
    peers = one(documents, "NetworkPolicy")["spec"]["ingress"][0]["from"]
    assert any(peer["podSelector"]["matchLabels"].items() <= job["metadata"]["labels"].items() for peer in peers)
    (caller,) = config(documents)["callers"]
    assert caller["id"] == f"system:serviceaccount:{NAMESPACE}:{job['spec']['serviceAccountName']}"
    arguments = dict(part.removeprefix("--").split("=", 1) for part in job["spec"]["containers"][0]["args"][1:])
    assert [arguments["merchant-id"]] == caller["merchants"]
    user = tomllib.loads(re.search(r"users\.toml <<'END'\n(.*?)END", README, re.DOTALL)[1])["users"][0]
    assert (user["merchant_id"], user["number"]) == (arguments["merchant-id"], arguments["number"])
    assert arguments["endpoint"] == f"https://{one(documents, 'Service', NAMESPACE)['metadata']['name']}.{NAMESPACE}.svc:50051"
    (token,) = (part for part in job["spec"]["volumes"] if part["name"] == "token-broker")
    assert token["projected"]["sources"][0]["serviceAccountToken"]["audience"] == "token-broker"


def test_the_images_are_of_the_charts_version():
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    for name in ("sandbox.yaml", "trial-caller.yaml"):
        for part in find(manifests(name), "Deployment") + find(manifests(name), "Job"):
            for container in part["spec"]["template"]["spec"]["containers"]:
                assert container["image"].endswith(f":{version}")
    assert broker(rendered())["image"] == f"token-broker:{version}"
