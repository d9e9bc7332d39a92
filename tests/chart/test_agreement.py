"""What the broker refuses, the chart refuses: or a deployed release would end in a crash loop with its pods' next start.

The ranges come from the broker's own words, and are held against files/ranges.yaml and the schema. Other values both judge.
"""

import json
import os
import re

import pytest
import yaml

from rendering import BASE, CHART, NAMESPACE, ROOT, VARIANTS, helm, render
from test_broker import NO_SERVER, check, lay_out, pair

__all__ = ["pair"]

BROKER = os.environ.get("TOKEN_BROKER_BINARY")
RANGES = yaml.safe_load((CHART / "files" / "ranges.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "day": 86_400_000, "days": 86_400_000}
# Every unit that the schema has.
EVERY_UNIT = {
    unit
    for part in re.search(r"\((.*?)\)", SCHEMA["definitions"]["duration"]["pattern"])[1].split("|")
    for unit in {part.replace("?", ""), part.replace("s?", "")}
}

needs_broker = pytest.mark.skipif(not BROKER, reason="TOKEN_BROKER_BINARY names no broker")


def millis(text):
    return sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+) *([a-z]+)", text))


def nested(value, given):
    """{"a": {"b": given}} for "a.b"."""
    for key in reversed(value.split(".")):
        given = {key: given}
    return given


def place(schema, value):
    for key in value.split("."):
        schema = schema.get("items", schema)["properties"][key]
    return schema


def variant_of(key):
    """The values that are good but for one: those with the table that it is in."""
    return "shared" if key.startswith("shared.") else BASE


def taken(values, variant=BASE):
    """Whether the chart renders with these values."""
    return helm("template", "tb", CHART, "--namespace", NAMESPACE, files=VARIANTS[variant], values=values).returncode == 0


def toml(value):
    """As TOML has it, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(part)}" for key, part in value.items()) + "}"
    return json.dumps(value)


@pytest.fixture(scope="module")
def judge(tmp_path_factory, pair):
    """The broker's word on a configuration that is good but for one key, with another value: exit code and text."""
    paths = {
        variant: lay_out(render(variant=variant), tmp_path_factory.mktemp("agreement"), pair) for variant in (BASE, "shared")
    }
    texts = {variant: path.read_text() for variant, path in paths.items()}

    def judge(key, value):
        path, good = paths[variant_of(key)], texts[variant_of(key)]
        table, _, name = key.rpartition(".")
        lines, inside, put = [], False, False
        for line in good.splitlines():
            if line.startswith("["):
                # Of several, the first.
                inside = line.strip() in {f"[{table}]", f"[[{table}]]"} and not put
                lines.append(line)
                if inside:
                    lines.append(f"{name} = {toml(value)}")
                    put = True
            elif not (inside and line.split(" = ")[0] == name):
                lines.append(line)
        assert put, f"no [{table}]"
        path.write_text("\n".join(lines) + "\n")
        done = check(path)
        # There is no server that replicas would share: that it can't be reached is said last.
        return done.returncode in {0, NO_SERVER}, done.stderr

    return judge


@needs_broker
@pytest.mark.parametrize("value", RANGES["durations"] | RANGES["seconds"])
def test_durations_have_the_brokers_range(value, judge):
    range_ = (RANGES["durations"] | RANGES["seconds"])[value]
    good, told = judge(range_["key"], "5000weeks")
    assert not good
    least, most = re.search(rf"{re.escape(range_['key'])}: is out of range: give a duration from (.*?) to (.*)", told).groups()
    unit = 1 if value in RANGES["durations"] else 1000
    read = millis if unit == 1 else int
    assert (millis(least), millis(most)) == (read(range_["least"]) * unit, read(range_["most"]) * unit)


@needs_broker
@pytest.mark.parametrize("value", RANGES["numbers"])
def test_numbers_have_the_brokers_range(value, judge):
    range_ = RANGES["numbers"][value]
    good, told = judge(range_["key"], 10**12)
    assert not good
    assert f"{range_['key']}: is out of range: give a number from {range_['least']} to {range_['most']}" in told


@pytest.mark.parametrize("value", RANGES["numbers"] | RANGES["seconds"])
def test_the_schema_has_the_tables_numbers(value):
    range_ = (RANGES["numbers"] | RANGES["seconds"])[value]
    schema = place(SCHEMA, value)
    assert (schema["minimum"], schema["maximum"]) == (range_["least"], range_["most"])


@pytest.mark.parametrize("value", RANGES["durations"])
def test_rendering_keeps_to_the_table(value):
    least, most = (millis(RANGES["durations"][value][end]) for end in ("least", "most"))
    for good in (f"{least}ms", f"{most}ms", RANGES["durations"][value]["most"]):
        assert taken(nested(value, good)), good
    for bad in [f"{most + 1}ms", *([f"{least - 1}ms"] if least else []), "99h 9999999999weeks"]:
        done = helm("template", "tb", CHART, files=VARIANTS[BASE], values=nested(value, bad))
        assert f"{value} is {bad}, which the broker refuses: give a duration from" in done.stderr


def test_no_range_of_the_brokers_is_missing():
    """Each limit of the configuration that has a range is in the table, but for those that the chart has no value for."""
    source = (ROOT / "src" / "config" / "limits.rs").read_text()
    ranged = set(re.findall(r"/// `([a-z_.]+)`:(?:(?!///\s`|const)[\s\S])*?const [A-Z_]+: Limits<", source))
    table = {range_["key"] for kind in ("durations", "seconds", "numbers") for range_ in RANGES[kind].values()}
    assert ranged - table == {"users.attempt"}
    assert table <= ranged


@needs_broker
@pytest.mark.parametrize("unit", sorted(EVERY_UNIT))
def test_each_unit_is_the_same_to_both(unit, judge):
    for number in (1, 2, 30, 720, 60_000):
        text = f"{number}{unit}"
        assert taken({"vault": {"refusalHold": text}}) == judge("vault.refusal_hold", text)[0], text


def test_as_many_sealing_keys_as_the_broker_takes():
    source = (ROOT / "src" / "config" / "limits.rs").read_text()
    most = int(re.search(r"const SEALING_KEYS: usize = (\d+);", source)[1])
    assert place(SCHEMA, "shared.keys")["maxItems"] == most


def test_reserved_headers_are_the_brokers():
    source = (ROOT / "src" / "config" / "vault_table.rs").read_text()
    listed = re.search(r"RESERVED_HEADERS: \[HeaderName; \d+\] = \[(.*?)\];", source, re.DOTALL)[1]
    names = {name.lower().replace("_", "-") for name in re.findall(r"header::([A-Z_]+)", listed)}
    names |= set(re.findall(r'from_static\("(.*?)"\)', listed))
    assert names == set(RANGES["reservedHeaders"])


MERCHANT = "bece038f-2e46-49f4-b25e-89cd38d6dc16"
LONG = "a" * 64
# Values of which the two must not differ: by the chart's name, the broker's key.
EITHER = {
    ("vault.headers", "vault.headers"): [
        *(
            {name: "x"}
            for name in ("Content-Type", "content-type", "X-Merchant-ID", "Host", "X-Version", "x version", "", "a:b", "ä")
        ),
        *({"X-A": text} for text in ("1.2", "", " a", "a ", "a b", "a\tb", "ä", "a\nb", "x" * 4096, "x" * 4097, '"\\')),
        {"X-A": "1", "x-a": "2"},
        {f"X-{number}": "1" for number in range(32)},
        {f"X-{number}": "1" for number in range(33)},
    ],
    ("vault.baseUrl", "vault.base_url"): [
        "https://vault.example.org",
        "https://vault.example.org:8443/v1/",
        "https://my_vault",
        "https://vault.example.org.",
        "https://192.0.2.1",
        "https://[2001:db8::1]:8443",
        "http://localhost:8080",
        "http://127.0.0.1",
        *("https://127.1", "http://127.1", "https://a..b", "https://-a", "https://a b", "https://a/b?c", "https://a/../b"),
        *(
            "https://a//b",
            "https://a:0",
            "https://a:65536",
            "https://u@a",
            "ftp://a",
            "a",
            "https://",
            "http://vault.example.org",
        ),
        *("https://a/%20", "https://1.2.3", "https://a/.b", "https://a/b.", f"https://{LONG}", "https://a/...", "https://a#b"),
    ],
    ("auth.serviceAccounts.audience", "auth.service_accounts.audience"): [
        *("token-broker", "https://token-broker.example.org", "a b", "a\u200bb", "k3s", "kubernetes.default.svc"),
        *(
            "https://kubernetes.default.svc.cluster.local",
            "https://kubernetes.default",
            "kubernetes.svc.default.svc",
            "kubernetes",
        ),
    ],
    ("callers.0.id", "callers.id"): [
        *("spiffe://example.org/a", "spiffe://example.org/ns/*/sa/cards", "spiffe://example.org", "spiffe://example.org/"),
        *("spiffe://*/a", "spiffe://Example.org/a", "spiffe://example.org/a//b", "spiffe://example.org/..", "spiffe://a..b/c"),
        *("spiffe://example.org/...", "spiffe://example.org/a*", "spiffe://.a/b", "spiffe://example.org/%2F", "spiffe://a:1/b"),
        *("system:serviceaccount:cards:cards", "system:serviceaccount:*:cards.v2", "system:serviceaccount:cards"),
        *("system:serviceaccount:Cards:cards", "system:serviceaccount:a.b:c", "system:serviceaccount:-a:b"),
        *("system:serviceaccount:a:b..c", f"system:serviceaccount:{LONG}:a", "system:serviceaccount:a:b:c"),
        *("cards.example.org", "*.example.org", "cards.*.example.org", "Cards.example.org", "*", "*.*", "-a.b", "a-.b"),
        *("a..b", "a.b.", f"{LONG}.b", "localhost", "a_b", "a.*", "*a.b"),
    ],
    ("callers.0.merchants", "callers.merchants"): [
        *(
            [MERCHANT],
            ["*"],
            [],
            ["*", MERCHANT],
            ["*", "*"],
            ["a*"],
            ["a b"],
            [""],
            ["x" * 128],
            ["x" * 129],
            ["ä"],
            [MERCHANT, "b"],
        ),
    ],
    ("callers.0.numbers", "callers.numbers"): [
        *([], ["+447871239999"], ["447871239999"], ["+0447871239"], ["+4478"], ["+44787123999912"], ["+4478712399991234"]),
    ],
    ("shared.url", "shared.url"): [
        *("rediss://valkey.example.org", "rediss://valkey.example.org:6380/", "rediss://broker@valkey.example.org./7"),
        *("rediss://192.0.2.1:1", "rediss://a.b-c_d~9@[2001:db8::1]:6379/15", "rediss://localhost", "rediss://my_valkey"),
        *("redis://127.0.0.1:6379/", "redis://localhost/3", "redis://[::1]", "redis://broker@127.0.0.2"),
        *("redis://valkey.example.org", "redis://192.0.2.1", "rediss://127.1", "rediss://a..b", "rediss://a b", "rediss://a,b"),
        *(
            "rediss://broker:word@valkey",
            "rediss://@valkey",
            "rediss://a%20b@valkey",
            "rediss://a@b@c",
            "rediss://",
            "rediss:///",
        ),
        *("rediss://valkey:0", "rediss://valkey:+1", "rediss://valkey:65536", "rediss://valkey:"),
        *("rediss://valkey/x", "rediss://valkey/-1", "rediss://valkey/1/", "rediss://valkey/99999999999", "rediss://valkey?a=1"),
        *("valkey:6379", "http://127.0.0.1", "https://valkey", "rediss+sentinel://valkey", "rediss://valkey#a"),
    ],
    ("vault.renewal", "vault.renewal"): ["ahead", "sometimes"],
    ("auth.serviceAccounts.issuer", "auth.service_accounts.issuer"): [
        *("https://a", ["https://a", "https://b"], "", [], ["a", "a"], [str(number) for number in range(9)]),
    ],
}


def values_of(value, given):
    if value.startswith("callers.0."):
        caller = {"id": "cards.example.org", "merchants": [MERCHANT]} | {value.rpartition(".")[2]: given}
        return {"callers": [caller]}
    values = nested(value, given)
    if value == "vault.renewal":
        values["replicaCount"] = 1
    if value == "shared.url":
        # In plaintext a CA has no effect: a warning of the broker's.
        values["shared"]["ca"] = {"configMapName": "valkey-ca" if given.startswith("rediss") else ""}
    return values


@needs_broker
@pytest.mark.parametrize(("value", "key"), EITHER)
def test_one_refuses_what_the_other_does(value, key, judge):
    judged = {True: [], False: []}
    for given in EITHER[value, key]:
        good = taken(values_of(value, given), variant_of(key))
        by_broker, told = judge(key, given)
        assert good == by_broker, f"{given!r}: the chart {good}, the broker {by_broker} {told}"
        judged[good].append(given)
    # Either verdict is tried.
    assert judged[True]
    assert judged[False]


def test_the_headers_that_were_deployed_once_are_refused_with_the_remedy():
    done = helm("template", "tb", CHART, files=VARIANTS[BASE], values={"vault": {"headers": {"Content-Type": "text/plain"}}})
    assert 'vault.headers has "Content-Type", which the broker sets itself: remove it' in done.stderr


def test_what_takes_a_restart_is_what_the_broker_says():
    """The checksum on the pod template has the keys of the broker's own list, and TLS, which it refuses to set or remove."""
    source = (ROOT / "src" / "app" / "reconfigure.rs").read_text()
    body = source[source.index("fn say_what_takes_a_restart") :].partition("\n    }\n")[0]
    keys = set(re.findall(r'\("([a-z_.]+)",', body))
    template = (CHART / "templates" / "_config.tpl").read_text()
    checksum = template[template.index('define "token-broker.restarts"') :].partition("{{- end }}")[0]
    listed = {key for names in re.findall(r'^ +"(.*?)" ', checksum, re.MULTILINE) for key in names.split(", ")}
    assert listed == keys | {"grpc.tls"}
