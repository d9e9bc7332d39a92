"""Objects that an operator's API takes, held strictly to its schema: an unknown field would be dropped without a word."""

import functools

import jsonschema
import pytest
from cloudcoil.models.cert_manager.v1 import Certificate
from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule, ServiceMonitor

from rendering import VARIANTS, find, render

TEXT = {"type": "string", "minLength": 1}


def record(required, **properties):
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": required}


# No package has this one: what external-secrets.io/v1 says of the fields that the chart can write.
REMOTE = record(
    ["key"],
    key=TEXT,
    property=TEXT,
    version=TEXT,
    metadataPolicy={"enum": ["None", "Fetch"]},
    conversionStrategy={"enum": ["Default", "Unicode"]},
    decodingStrategy={"enum": ["Auto", "Base64", "Base64URL", "None"]},
)
EXTERNAL_SECRET = record(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "external-secrets.io/v1"},
    kind={"const": "ExternalSecret"},
    metadata=record(["name"], name=TEXT, namespace=TEXT, labels={"type": "object"}),
    spec=record(
        ["secretStoreRef", "target"],
        refreshInterval={"type": "string", "pattern": "^([0-9]+(h|m|s))+$"},
        secretStoreRef=record(["name"], name=TEXT, kind={"enum": ["SecretStore", "ClusterSecretStore"]}),
        target=record(
            ["name"],
            name=TEXT,
            creationPolicy={"enum": ["Owner", "Orphan", "Merge", "None"]},
            deletionPolicy={"enum": ["Delete", "Merge", "Retain"]},
        ),
        data={"type": "array", "items": record(["secretKey", "remoteRef"], secretKey=TEXT, remoteRef=REMOTE)},
        dataFrom={"type": "array", "items": record(["extract"], extract=REMOTE)},
    ),
)


def strict(schema):
    """The same schema, where objects that list their keys take no others."""
    if isinstance(schema, dict):
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
        for part in schema.values():
            strict(part)
    elif isinstance(schema, list):
        for part in schema:
            strict(part)
    return schema


@functools.cache
def validator(kind):
    models = {
        "Certificate": Certificate,
        "PodMonitor": PodMonitor,
        "PrometheusRule": PrometheusRule,
        "ServiceMonitor": ServiceMonitor,
    }
    schema = EXTERNAL_SECRET if kind == "ExternalSecret" else strict(models[kind].model_json_schema())
    return jsonschema.Draft202012Validator(schema)


def faults(part):
    return [f"{error.json_path}: {error.message}" for error in validator(part["kind"]).iter_errors(part)]


def custom(documents):
    return [part for part in documents if part["apiVersion"].partition("/")[0].count(".") and "k8s.io" not in part["apiVersion"]]


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_no_field_is_unknown_or_of_another_type(variant):
    for part in custom(render(variant=variant)):
        assert faults(part) == [], part["kind"]


def test_each_kind_is_among_them():
    kinds = {part["kind"] for variant in VARIANTS for part in custom(render(variant=variant))}
    assert kinds == {"Certificate", "ExternalSecret", "PodMonitor", "PrometheusRule", "ServiceMonitor"}


@pytest.mark.parametrize(
    ("variant", "kind", "place"),
    [
        ("reviewed", "Certificate", ("privateKey",)),
        ("reviewed", "ExternalSecret", ("data", 0, "remoteRef")),
        ("reviewed", "ServiceMonitor", ("endpoints", 0)),
        ("everything", "PodMonitor", ("podMetricsEndpoints", 0)),
        ("reviewed", "PrometheusRule", ("groups", 0, "rules", 0)),
    ],
)
def test_a_typing_error_would_be_found(variant, kind, place):
    part = find(render(variant=variant), kind)[0]
    inner = part["spec"]
    for key in place:
        inner = inner[key]
    inner["typingError"] = "x"
    try:
        assert len(faults(part)) >= 1
    finally:
        del inner["typingError"]
