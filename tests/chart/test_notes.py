"""templates/NOTES.txt: what to do next."""

import re

import pytest

from rendering import VARIANTS, find, notes, render


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_every_variant_says_the_four_things(variant):
    told = notes(variant)
    for word in (
        "1. Add users",
        "2. Let callers in",
        "3. See whether it is ready",
        "4. Be told",
        "[[users]]",
        ":50051",
        "--merchant-id",
    ):
        assert word in told
    # What a template did not know would show.
    assert "<no value>" not in told
    assert "nil" not in told


def test_each_secret_has_its_command():
    told = notes("reviewed")
    for secret in ("cards-credentials", "payments-credentials"):
        assert f"create secret generic {secret} --from-file=users.toml" in told
    assert "Secret tb-token-broker-loans: made by External Secrets from safe" in told


def test_how_to_call_it_fits_the_values():
    assert "--endpoint https://tb-token-broker" in notes()
    assert "--token-file" in notes()
    assert "--certificate-file" in notes("spiffe")
    assert "--endpoint http://tb-token-broker" in notes("open")
    assert "--ca-file" not in notes("open")
    assert "--caller ID" in notes()
    assert "--caller ID" not in notes("open")
    assert "dns:///tb-token-broker-headless" in notes()


def test_an_operator_is_told_how_to_see_users():
    assert "-- /token-broker users --state held" in notes()
    assert "(each replica for itself)" in notes()
    assert "(each replica for itself)" not in notes("shared")
    assert "/token-broker users" not in notes(values={"operator": {"enabled": False}})


def test_a_trial_is_warned_of():
    whole = notes(values={"auth": {"enforce": False}})
    assert "WARNING: auth.enforce is off" in whole
    assert "WHOEVER REACHES THAT PORT GETS EVERY USER'S TOKEN" in whole
    entry = {"id": "cards.example.org", "merchants": ["*"], "trial": True}
    assert "WARNING: 1 of `callers` is on trial" in notes(values={"callers": [entry]})
    assert "WARNING: 2 of `callers` are on trial" in notes(values={"callers": [entry, entry | {"id": "a.example.org"}]})
    assert "on trial" not in notes()


@pytest.mark.parametrize("values", [{}, {"healthTest": {"enabled": False}}, {"service": {"enabled": False}}])
@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_what_is_named_is_there(variant, values):
    documents, told = render(values, variant), notes(variant, values)
    assert ("helm test" in told) == bool(find(documents, "Pod"))
    assert ("rollout status" in told) != ("helm test" in told)
    named = set(re.findall(r"(?:///?|^ +)([-a-z]+)\.broker-ns\.svc", told, re.MULTILINE))
    services = {part["metadata"]["name"] for part in find(documents, "Service")}
    assert named == services


def test_without_a_service_it_says_so():
    told = notes(values={"service": {"enabled": False}, "headlessService": {"enabled": False}})
    assert "of its pods, and has no name: service.enabled and headlessService.enabled are off.\n" in told
    assert ".svc." not in told


def test_an_open_one_is_warned_about():
    assert "WHOEVER REACHES THAT PORT GETS EVERY USER'S TOKEN, IN PLAINTEXT." in notes("open")
    assert "nothing keeps anybody out" in notes("open", {"networkPolicy": {"enabled": False}})
    assert "WARNING" not in notes()


def test_those_who_share_are_told_of_the_keys_and_of_the_server():
    told = notes("shared")
    assert "through rediss://broker@valkey.valkey.svc.cluster.local:6380/1" in told
    assert (
        "token-broker-shared (password), token-broker-shared (names), token-broker-shared-keys (2), token-broker-shared-keys (1)"
        in told
    )
    assert "share" not in notes()


def test_the_alerts_that_matter_are_named():
    assert "Set monitoring.rules.enabled" in notes()
    assert "Nothing scrapes the broker yet" in notes()
    watched = notes("ha", {"monitoring": {"podMonitor": {"enabled": True}, "rules": {"enabled": True}}})
    assert "The alerts are in the PrometheusRule tb-token-broker" in watched
    assert "Nothing scrapes" not in watched
