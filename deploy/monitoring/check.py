"""Checks what promtool can't: that alerts, their tests, the dashboard and the runbook agree with each other.

With `--metrics FILE` (`-` for standard input), a page of a broker's /metrics, also that every metric and label that a rule or
the dashboard names is there. What is at fault is printed, a line each; the exit code is then 1.

`--dashboard-rules` prints the dashboard's queries as a rules file instead, so that promtool can judge them.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
SEVERITIES = {"critical", "warning"}
ANNOTATIONS = {"summary", "description", "runbook_url"}
# What a scrape adds to whatever a program exposes.
TARGET_LABELS = {"namespace", "job", "instance", "pod", "container", "service", "endpoint", "node"}
# Of the alerts themselves, which Prometheus exposes; the dashboard marks them.
BUILT_IN = {"ALERTS": {"alertname", "alertstate", "severity"}}
# What a page may lack, since there is nothing to say: series with all of their labels, or labels alone. `--all` forgives nothing.
SOMETIMES = {
    "token_broker_caller_calls_total": {"caller", "code"},
    # Before the first call, and where nobody is configured.
    **{f"token_broker_call_duration_seconds_{part}": {"outcome", "le"} for part in ("bucket", "count")},
    **{f"token_broker_sign_in_duration_seconds_{part}": {"result", "le"} for part in ("bucket", "count")},
    "token_broker_sign_ins_total": {"merchant_id", "result"},
    "token_broker_users": {"merchant_id"},
    "token_broker_cached_tokens": {"merchant_id"},
    "token_broker_dry_users": {"merchant_id"},
    # Where there is no shared tier.
    "token_broker_shared_up": set(),
    "token_broker_shared_operation_duration_seconds_bucket": {"operation", "le"},
    # While there is nothing to tell.
    "token_broker_held_users": {"merchant_id", "reason"},
    "token_broker_failing_users": {"merchant_id", "reason"},
    "token_broker_merchant_wait_seconds": {"merchant_id"},
    "token_broker_certificate_not_after_timestamp_seconds": {"certificate"},
}
# Suffixes of the series of one family, by its type.
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("", "_sum", "_count"), "info": ("_info",)}

STRING = r'"(?:[^"\\]|\\.)*"' + r"|'(?:[^'\\]|\\.)*'"
NAME = r"[A-Za-z_:][A-Za-z0-9_:]*"
GROUPING = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\(([^()]*)\)")
SELECTOR = re.compile(rf"({NAME})\s*\{{((?:{STRING}|[^{{}}\"'])*)\}}")
MATCHER = re.compile(rf"({NAME})\s*(?:=~|!~|!=|=)\s*(?:{STRING})")
MADE_LABEL = re.compile(rf'label_(?:replace|join)\s*\(.*?,\s*"({NAME})"\s*,\s*"', re.DOTALL)
KEYWORDS = {"and", "or", "unless", "offset", "bool", "by", "without", "on", "ignoring", "group_left", "group_right", "inf", "nan"}


class Exposition:
    """What a broker exposes: each series' name, with the labels it was seen with; none seen says nothing of labels."""

    def __init__(self, text: str, forgiving: bool) -> None:
        self.labels: dict[str, set[str]] = {name: set(labels) for name, labels in SOMETIMES.items()} if forgiving else {}
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                _, _, family, kind = line.split(maxsplit=3)
                for name in self._series(family, kind):
                    self.labels.setdefault(name, set())
            elif line and not line.startswith("#"):
                sample = re.match(rf"({NAME})(?:\{{((?:{STRING}|[^{{}}\"'])*)\}})?\s", line)
                if sample:
                    found = self.labels.setdefault(sample[1], set())
                    found.update(re.findall(rf"({NAME})\s*=\s*(?:{STRING})", sample[2] or ""))
                    found.add("")

    @staticmethod
    def _series(family: str, kind: str) -> Iterator[str]:
        if kind == "counter":
            # OpenMetrics names the family without the suffix.
            yield family if family.endswith("_total") else family + "_total"
        else:
            yield from (family + suffix for suffix in SUFFIXES.get(kind, ("",)))

    def faults(self, query: str) -> Iterator[str]:
        """What a query names that is not exposed."""
        series, groupings = parts(query)
        known = {**self.labels, **BUILT_IN}
        may_group = TARGET_LABELS | set(MADE_LABEL.findall(query))
        all_seen = True
        for name, matched in series:
            labels = known.get(name)
            if labels is None:
                yield f"no broker exposes {name}"
                continue
            may_group |= labels
            all_seen &= bool(labels)
            for label in matched - labels - TARGET_LABELS if labels else ():
                yield f"{name} has no label {label}"
        if all_seen and series:
            yield from (f"nothing in it has the label {label}" for label in groupings - may_group)


def parts(query: str) -> tuple[list[tuple[str, set[str]]], set[str]]:
    """The series that a query names, each with the labels that it is selected by, and the labels that it is grouped by."""
    groupings = {label.strip() for _, labels in GROUPING.findall(query) for label in labels.split(",") if label.strip()}
    series = [(name, set(MATCHER.findall(matchers))) for name, matchers in SELECTOR.findall(query)]
    bare = GROUPING.sub(" ", SELECTOR.sub(" ", query))
    bare = re.sub(STRING, " ", bare)
    # Ranges and offsets, which hold units and Grafana's variables.
    bare = re.sub(r"\[[^\]]*\]|\boffset\s+\S+", " ", bare)
    for found in re.finditer(rf"(?<![\w.$])({NAME})(?![\w:]|\s*\()", bare):
        if found[1].lower() not in KEYWORDS:
            series.append((found[1], set()))
    return series, groupings


def slug(heading: str) -> str:
    """The anchor that a Markdown heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def alerts_of(rules: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule}


def check_alerts(alerts: dict[str, dict[str, Any]], anchors: set[str]) -> Iterator[str]:
    bases = set()
    for name, alert in alerts.items():
        if alert.get("labels", {}).get("severity") not in SEVERITIES:
            yield f"{name}: severity is not one of {sorted(SEVERITIES)}"
        annotations = alert.get("annotations", {})
        if set(annotations) != ANNOTATIONS:
            yield f"{name}: its annotations are not {sorted(ANNOTATIONS)}"
        base, _, anchor = annotations.get("runbook_url", "").partition("#")
        bases.add(base)
        if anchor != name.lower():
            yield f"{name}: runbook_url does not end with #{name.lower()}"
        if anchor not in anchors:
            yield f"{name}: the runbook has no heading for #{anchor}"
    if len(bases) > 1:
        yield f"runbook_url begins in {len(bases)} ways, so that no one replacement fits all: {sorted(bases)}"
    for anchor in sorted(anchors - {name.lower() for name in alerts}):
        if anchor.startswith("tokenbroker"):
            yield f"the runbook has a heading #{anchor}, and there is no such alert"


def check_tests(alerts: dict[str, dict[str, Any]], tests: dict[str, Any]) -> Iterator[str]:
    fires, silent = set(), set()
    for test in tests["tests"]:
        for asked in test.get("alert_rule_test", []):
            name, expected = asked["alertname"], asked.get("exp_alerts") or []
            if name not in alerts:
                yield f"rules_test.yaml: there is no alert {name}"
            if not expected and any(related(alerts.get(name, {}), series["series"]) for series in test["input_series"]):
                silent.add(name)
            for alert in expected:
                fires.add(name)
                if set(alert.get("exp_annotations", {})) != ANNOTATIONS:
                    yield f"rules_test.yaml: a test of {name} does not say which annotations it gets"
    for name in alerts:
        if name not in fires:
            yield f"{name}: no test has it fire"
        if name not in silent:
            yield f"{name}: no test that has a series of its expression has it not fire"


def related(alert: dict[str, Any], series: str) -> bool:
    """Whether a test's series is one that the alert looks at: without any, not to fire is no feat."""
    return series.partition("{")[0] in {name for name, _ in parts(alert.get("expr", ""))[0]}


def panels_of(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def check_dashboard(dashboard: dict[str, Any]) -> Iterator[str]:
    seen: set[int] = set()
    for panel in panels_of(dashboard):
        what = f"dashboard, panel {panel['title']!r}"
        if panel["id"] in seen:
            yield f"{what}: its id {panel['id']} is another's too"
        seen.add(panel["id"])
        if panel["type"] == "row":
            continue
        if not panel.get("description"):
            yield f"{what}: has no description"
        unit = panel["fieldConfig"]["defaults"].get("unit") or panel["options"].get("yAxis", {}).get("unit")
        if not unit:
            yield f"{what}: has no unit"
        for part in [panel, *panel["targets"]]:
            if part["datasource"]["uid"] != "${datasource}":
                yield f"{what}: its data source is not the variable"


def queries_of(alerts: dict[str, dict[str, Any]], dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield from ((name, alert["expr"]) for name, alert in alerts.items())
    for panel in panels_of(dashboard):
        yield from ((f"dashboard, panel {panel['title']!r}", target["expr"]) for target in panel.get("targets", []))
    for variable in dashboard["templating"]["list"]:
        asked = re.fullmatch(r"label_values\((.*),\s*(\w+)\)", variable.get("definition", ""))
        if asked:
            yield f"dashboard, variable {variable['name']}", f"count by ({asked[2]}) ({asked[1]})"
    yield from (("dashboard, annotations", each["expr"]) for each in dashboard["annotations"]["list"] if "expr" in each)


def dashboard_rules(dashboard: dict[str, Any]) -> str:
    """The dashboard's queries as recording rules, with something in the place of Grafana's variables."""
    queries = (re.sub(r"\$__\w+", "5m", query) for _, query in queries_of({}, dashboard))
    rules = [{"record": f"dashboard:query:{number}", "expr": query} for number, query in enumerate(queries)]
    return yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]})


def faults(arguments: argparse.Namespace) -> Iterable[str]:
    alerts = alerts_of(yaml.safe_load(arguments.rules.read_text()))
    dashboard = json.loads(arguments.dashboard.read_text())
    # A # in a block of code is a comment.
    runbook = re.sub(r"^```.*?^```$", "", arguments.runbook.read_text(), flags=re.MULTILINE | re.DOTALL)
    anchors = {slug(heading) for heading in re.findall(r"^#+ (.+)$", runbook, re.MULTILINE)}
    yield from check_alerts(alerts, anchors)
    yield from check_tests(alerts, yaml.safe_load(arguments.tests.read_text()))
    yield from check_dashboard(dashboard)
    if arguments.metrics:
        text = sys.stdin.read() if arguments.metrics == "-" else Path(arguments.metrics).read_text()
        exposition = Exposition(text, forgiving=not arguments.all)
        for where, query in queries_of(alerts, dashboard):
            yield from (f"{where}: {fault}" for fault in exposition.faults(query))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metrics", metavar="FILE", help="a page of /metrics in text; - for standard input")
    parser.add_argument("--all", action="store_true", help="also require what a broker exposes only at times")
    parser.add_argument("--rules", type=Path, default=HERE / "rules.yaml")
    parser.add_argument("--tests", type=Path, default=HERE / "rules_test.yaml")
    parser.add_argument("--dashboard", type=Path, default=HERE / "dashboard.json")
    parser.add_argument("--runbook", type=Path, default=HERE.parents[1] / "docs" / "runbook.md")
    parser.add_argument("--dashboard-rules", action="store_true", help="print the dashboard's queries as a rules file")
    arguments = parser.parse_args()
    if arguments.dashboard_rules:
        print(dashboard_rules(json.loads(arguments.dashboard.read_text())), end="")
        return 0
    found = list(dict.fromkeys(faults(arguments)))
    for fault in found:
        print(fault, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
