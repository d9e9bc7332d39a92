"""What the documents tell people to type: each command has been tried or is said not to be, and what can be tried here is."""

import os
import re
import socket
import subprocess
from pathlib import Path

import pytest
import yaml

from rendering import CHART, ROOT, notes, one, render
from test_broker import BROKER, check

KUBECTL = os.environ.get("TOKEN_BROKER_KUBECTL")
PAGES = [
    "README.md",
    "deploy/charts/token-broker/README.md",
    "docs/callers.md",
    "docs/operations.md",
    "docs/runbook.md",
    "docs/authentication.md",
    "docs/testing.md",
    "sandbox/README.md",
]
# What is a matter of this project, in the place where a command begins.
PROGRAMS = r"kubectl|helm|grpcurl|docker|skopeo|cosign|gh|ctr|curl|awk|token-broker|/token-broker|deploy/\S+\.sh"
WITH_A_VALUE = {"-n", "--namespace", "-l", "--selector", "-o", "--output"}
# 1 MiB, as Kubernetes has it for all keys of a Secret together.
SECRET_MAX = 1 << 20
USERS = 100_000


def read(page):
    return (ROOT / page).read_text()


def shell(page):
    """The text of a page's commands, each on one line."""
    blocks = "\n".join(re.findall(r"^ *```sh\n(.*?)^ *```", read(page), re.MULTILINE | re.DOTALL))
    return re.sub(r"\\\n\s*", " ", blocks)


def texts():
    for page in PAGES:
        yield page, shell(page)
    for variant in ("service-accounts", "open", "spiffe", "reviewed", "offline-keys"):
        told = re.sub(r"\\\n\s*", " ", notes(variant))
        yield f"NOTES.txt ({variant})", "\n".join(line.strip() for line in told.splitlines() if line.startswith("     "))
    head = read("deploy/kubernetes/token-broker.yaml").partition("# Then apply:")[2].splitlines()
    head = "\n".join(line[1:].strip() for line in head if line.startswith("#   "))
    yield "the manifests' head", re.sub(r"\\\n\s*", " ", head)


def commands():
    """Each command as its program and the words after it, without options."""
    for where, text in texts():
        for part in re.split(r"\n|\||&&|;| -- |\$\(", text):
            found = re.match(rf"\s*(?:[A-Z_]+=\S+ )*({PROGRAMS})(?=\s|$)(.*)", part)
            if not found:
                continue
            program, words = found[1].removeprefix("/"), []
            given = iter(found[2].partition(" #")[0].split())
            for word in given:
                if word in WITH_A_VALUE:
                    next(given, None)
                else:
                    words.append(word)
            yield where, [program, *words]


def rows():
    table = re.findall(r"^\| (`.*?) \| (.*?) \|$", read("docs/commands.md"), re.MULTILINE)
    return [(command.split(), where) for commands, where in table for command in re.findall(r"`(.*?)`", commands)]


def test_each_command_is_in_the_table():
    listed = [row for row, _ in rows()]
    missing = {
        (where, " ".join(words[:4]))
        for where, words in commands()
        # In their order, whatever options stand between.
        if not any(row == [word for word in words if word in row][: len(row)] and row[0] == words[0] for row in listed)
    }
    assert not missing


def test_the_table_names_its_pages_and_programs():
    head = read("docs/commands.md").partition("- **CI**")[0]
    for page in (page for page in PAGES if page.startswith("docs/") and page != "docs/runbook.md"):
        assert f"]({page.removeprefix('docs/')})" in head
    for program in PROGRAMS.split("|"):
        assert program.lstrip("/") in head or program in {"token-broker", "/token-broker", r"deploy/\S+\.sh"}


def test_the_table_says_of_each_where():
    for row, where in rows():
        assert re.search(r"\b(CI|API server|cluster|by hand|not)\b", where), row
    found = {words[0] for _, words in commands()}
    assert {"kubectl", "helm", "grpcurl", "token-broker"} <= found


def test_what_runs_in_the_image_is_named_by_its_path():
    for where, text in texts():
        for command in re.findall(r"kubectl .*? exec .*? -- (\S+)", text):
            assert command == "/token-broker", where


# In the place of kubectl and grpcurl. The port is open some time after its command began, as in a cluster.
STAND_INS = r"""
kubectl() {
  case "$*" in
  *"create token"*) echo a-token ;;
  *"get secret"*) echo Y2E= ;;
  *port-forward*) exec python3 -c '
import os, pathlib, socket, time
pathlib.Path("forwarded").write_text(str(os.getpid()))
time.sleep(0.5)
listener = socket.create_server(("127.0.0.1", 50051))
time.sleep(60)' ;;
  esac
}
grpcurl() { : </dev/tcp/127.0.0.1/50051 && [ "$TOKEN" = a-token ] && [ "$(cat ca.crt)" = ca ]; }
"""


def test_the_runbooks_question_from_outside_waits_for_its_port_and_leaves_nothing(tmp_path):
    (block,) = (part for part in re.findall(r"```sh\n(.*?)```", read("docs/runbook.md"), re.DOTALL) if "create token" in part)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = (STAND_INS + block + 'wait; echo "left: $TOKEN"').replace("50051", port)
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "yes\nleft: \n", done.stderr
    # The CA is no secret; the token stands in no file.
    assert {file.name for file in tmp_path.iterdir()} == {"ca.crt", "forwarded"}
    assert not Path("/proc", (tmp_path / "forwarded").read_text()).exists()


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """100,000 users, split as the chart's README says."""
    directory = tmp_path_factory.mktemp("users")
    entry = '[[users]]\nmerchant_id = "bece038f-2e46-49f4-b25e-89cd38d6dc16"\nnumber = "+4478{:08}"\npassword = "p-{:014}"\n\n'
    previous = os.umask(0o077)
    try:
        (directory / "users.toml").write_text("# Ours.\n" + "".join(entry.format(n, n) for n in range(USERS)))
        block = next(part for part in re.findall(r"```sh\n(.*?)```", read(PAGES[1]), re.DOTALL) if "awk" in part)
        # Instead of a cluster: what kubectl would send is looked at in another test.
        script = 'kubectl() { cat >/dev/null <"${5:-/dev/null}"; }\n' + block
        done = subprocess.run(["bash", "-euc", script], cwd=directory, capture_output=True, text=True, check=True)
    finally:
        os.umask(previous)
    return directory, done.stdout


def test_the_parts_of_a_file_fit_into_secrets_and_are_all_of_it(parts):
    directory, told = parts
    files = sorted(directory.glob("users-*.toml"))
    assert 11 <= len(files) <= 14
    assert all(file.stat().st_size < SECRET_MAX for file in files)
    assert sum(file.read_text().count("[[users]]") for file in files) == USERS
    secrets = yaml.safe_load("credentials:\n  secrets:\n" + told)
    assert [part["name"] for part in secrets["credentials"]["secrets"]] == [file.stem for file in files]
    mounted = one(render(secrets), "Deployment")["spec"]["template"]["spec"]["volumes"]
    assert {f"credentials-{file.stem}" for file in files} <= {part["name"] for part in mounted}


def test_what_the_readme_shares_is_of_the_secrets_that_it_makes():
    section = read(PAGES[1]).partition("## Tokens that replicas share")[2].partition("\n## ")[0]
    (example,) = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    made = {
        (secret, key)
        for secret, files in re.findall(r"create secret generic (\S+)((?: --from-file=\S+)+)", section)
        for key in re.findall(r"--from-file=(\S+)", files)
    }
    values = yaml.safe_load(example)
    assert render(values)
    shared = yaml.safe_load((CHART / "values.yaml").read_text())["shared"]
    sources = [shared[name] | values["shared"][name] for name in ("passwordSecret", "nameKeySecret")]
    used = {(source["name"], source["key"]) for source in sources}
    assert used | {(key["secretName"], key["key"]) for key in values["shared"]["keys"]} == made


@pytest.mark.skipif(not BROKER, reason="TOKEN_BROKER_BINARY names no broker")
def test_the_broker_takes_the_parts(parts):
    directory, _ = parts
    config = directory / "config.toml"
    config.write_text('credentials_files = ["users-*.toml"]\n[vault]\nbase_url = "https://vault.example.org"\n')
    done = check(config)
    assert f"in order, {USERS} users, 0 warnings" in done.stdout, done.stderr


@pytest.mark.skipif(not KUBECTL, reason="TOKEN_BROKER_KUBECTL names no kubectl")
def test_kubectl_makes_a_secret_of_a_part(parts):
    directory, _ = parts
    words = "--namespace token-broker create secret generic token-broker-users-00 --from-file=users-00.toml"
    done = subprocess.run(
        [KUBECTL, *words.split(), "--dry-run=client", "--output=yaml"], cwd=directory, capture_output=True, text=True, check=True
    )
    secret = yaml.load(done.stdout, yaml.CSafeLoader)
    assert (secret["kind"], list(secret["data"])) == ("Secret", ["users-00.toml"])


def test_the_manifests_head_has_the_names_that_cert_manager_would_be_given():
    issuer = {"tls": {"secretName": "", "certManager": {"enabled": True, "issuerRef": {"name": "a"}}}}
    values = yaml.safe_load((CHART / "values-plain.yaml").read_text()) | issuer | {"fullnameOverride": "token-broker"}
    names = one(render(values), "Certificate")["spec"]["dnsNames"]
    head = read("deploy/kubernetes/token-broker.yaml").partition("\n---\n")[0]
    listed = re.findall(
        r"(?<=\s)token-broker(?:-headless)?(?:\.[-.a-z]+)?(?=\s|$)", head.partition("since callers ask")[2].partition("Then")[0]
    )
    assert sorted(listed) == sorted(name.replace(".broker-ns", ".token-broker") for name in names)


@pytest.mark.skipif(not KUBECTL, reason="TOKEN_BROKER_KUBECTL names no kubectl")
def test_the_manifests_head_makes_the_keys_that_are_read(tmp_path):
    head = dict(texts())["the manifests' head"]
    (command,) = [line for line in head.splitlines() if "token-broker-tls" in line]
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (tmp_path / name).write_text("PEM")
    arguments = [*command.split()[1:], "--dry-run=client", "--output=yaml"]
    done = subprocess.run([KUBECTL, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
    secret = yaml.load(done.stdout, yaml.CSafeLoader)
    assert secret["type"] == "kubernetes.io/tls"
    # The broker's own, those of `helm test`, and those that the runbook asks for.
    read_by_test = one(render(), "Pod")["spec"]["volumes"][0]["secret"]["items"][0]["key"]
    asked_for = re.findall(r"get secret token-broker-tls -o jsonpath='\{\.data\.(.*?)\}'", shell("docs/runbook.md"))
    assert {"tls.crt", "tls.key", read_by_test} | {key.replace("\\", "") for key in asked_for} == set(secret["data"])
    assert asked_for


def test_the_callers_token_is_in_the_same_place_everywhere():
    callers = read("docs/callers.md")
    place = re.search(r"mountPath: (\S+)", callers)[1] + "/" + re.search(r"path: (\w+)\n", callers)[1]
    named = {path for _, text in texts() for path in re.findall(r"--token-file (/\S+)", text)}
    assert named == {place}
    assert f"`{place}`" in callers


def test_callers_are_told_which_label_gets_them_in():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    ((label, value),) = values["networkPolicy"]["callers"][0]["podSelector"]["matchLabels"].items()
    assert f'{label}: "{value}"' in read("docs/callers.md")
    assert f'{label}: "{value}"' in notes()
