"""templates/configmap.yaml: the broker's configuration."""

import tomllib

import pytest

from rendering import VARIANTS, one, render


def config(values=None, variant="service-accounts"):
    name = one(render(values, variant), "Deployment")["metadata"]["name"]
    return tomllib.loads(one(render(values, variant), "ConfigMap", name)["data"]["config.toml"])


def test_the_ordinary_one_says_all_of_this():
    assert config() == {
        "credentials_files": ["/etc/token-broker/credentials/users/*.toml"],
        "state_directory": "/var/lib/token-broker/state",
        "grpc": {
            "listen": "0.0.0.0:50051",
            "health_listen": "0.0.0.0:50052",
            "lame_duck": "5s",
            "drain": "20s",
            "call_timeout": "30s",
            "max_connection_age": "30m",
            "tls": {"certificate_file": "/etc/token-broker/tls/tls.crt", "key_file": "/etc/token-broker/tls/tls.key"},
        },
        "admin": {"listen": "0.0.0.0:9090"},
        "operator": {"socket": "/run/token-broker/operator.sock"},
        "log": {"format": "json", "level": "info"},
        "vault": {
            "base_url": "https://api.vault.sandbox.testessential.net",
            "timeout": "10s",
            "max_concurrent_sign_ins": 64,
            "min_sign_in_interval": "5s",
            "refusal_hold": "24h",
            "renewal": "ahead",
            "sign_out": False,
            "assumed_lifetime": "5m",
            "idle_after": "1h",
            "caller_sign_ins_per_minute": 120_000,
            "caller_forced_sign_ins_per_minute": 12_000,
        },
        "auth": {
            "allow_unauthenticated": False,
            "service_accounts": {
                "issuer": "https://kubernetes.default.svc.cluster.local",
                "audience": "token-broker",
                "token_review": False,
                "ca_file": "/etc/token-broker/api-server/ca.crt",
                "token_file": "/etc/token-broker/api-server/token",
            },
        },
        "callers": [{"id": "system:serviceaccount:cards:cards", "merchants": ["bece038f-2e46-49f4-b25e-89cd38d6dc16"]}],
    }


def test_every_other_value_arrives():
    told = config(variant="everything")
    assert told["grpc"] == {
        "listen": "[::]:50051",
        "health_listen": "[::]:50052",
        "lame_duck": "0s",
        "drain": "600s",
        "call_timeout": "1m",
        "max_connection_age": "1day",
        "tls": {
            "certificate_file": "/etc/token-broker/tls/tls.crt",
            "key_file": "/etc/token-broker/tls/tls.key",
            "client_ca_file": "/etc/token-broker/client-ca/ca.crt",
        },
    }
    assert told["admin"] == {"listen": "[::]:9090"}
    assert told["log"] == {"format": "text", "level": "debug"}
    assert told["audit"] == {"file": "/var/log/token-broker/audit.jsonl", "hits": "summed"}
    assert told["vault"] == {
        "base_url": "https://vault.example.org",
        "ca_file": "/etc/token-broker/vault-ca/vault.pem",
        "headers": {"X-Version": "1.2", "X-Quoted": 'a "b" <c> \\d'},
        "timeout": "1s 500ms",
        "max_concurrent_sign_ins": 10000,
        "min_sign_in_interval": "1s",
        "refusal_hold": "30days",
        "renewal": "ahead",
        "sign_out": True,
        "assumed_lifetime": "1h 30m",
        "idle_after": "2h",
        "caller_sign_ins_per_minute": 10_000_000,
        "caller_forced_sign_ins_per_minute": 1,
    }
    assert "service_accounts" not in told["auth"]


def test_what_replicas_share_is_off_unless_it_is_set():
    assert "shared" not in config()
    keys = "/etc/token-broker/shared-keys/token-broker-shared-keys"
    assert config(variant="shared")["shared"] == {
        "url": "rediss://broker@valkey.valkey.svc.cluster.local:6380/1",
        "password_file": "/etc/token-broker/shared-password/password",
        "ca_file": "/etc/token-broker/shared-ca/ca.crt",
        "name_key_file": "/etc/token-broker/shared-names/names",
        # In their order: the first seals.
        "keys": [{"id": 2, "file": f"{keys}/2"}, {"id": 1, "file": f"{keys}/1"}],
    }
    bare = {"url": "rediss://valkey", "passwordSecret": {"name": ""}, "ca": {"configMapName": ""}}
    most = [{"id": 4_294_967_295, "secretName": "a", "key": "b"}]
    assert config({"shared": bare | {"keys": most}}, "shared")["shared"] == {
        "url": "rediss://valkey",
        "name_key_file": "/etc/token-broker/shared-names/names",
        "keys": [{"id": 4_294_967_295, "file": "/etc/token-broker/shared-keys/a/b"}],
    }


def test_holds_are_kept_in_a_directory_of_the_brokers_own():
    assert config()["state_directory"] == "/var/lib/token-broker/state"
    assert "state_directory" not in config({"state": {"enabled": False}})


def test_an_operators_socket_is_where_the_commands_look_for_it():
    assert config()["operator"] == {"socket": "/run/token-broker/operator.sock"}
    assert "operator" not in config({"operator": {"enabled": False}})


def test_tokens_are_ended_at_the_vault_only_if_that_is_asked_for():
    assert config()["vault"]["sign_out"] is False
    assert config({"vault": {"signOut": True}})["vault"]["sign_out"] is True


def test_hits_are_summed_on_standard_output_too():
    assert config({"audit": {"hits": "summed"}})["audit"] == {"hits": "summed"}


def test_each_credentials_secret_has_a_pattern_of_its_own():
    assert config(variant="reviewed")["credentials_files"] == [
        f"/etc/token-broker/credentials/{name}/*.toml" for name in ("cards", "payments", "loans", "savings")
    ]


def test_callers_are_written_as_they_were_given():
    assert config(variant="reviewed")["callers"] == [
        {"id": "system:serviceaccount:*:cards", "merchants": ["*"]},
        {
            "id": "spiffe://example.org/ns/*/sa/cards",
            "merchants": ["bece038f-2e46-49f4-b25e-89cd38d6dc16"],
            "numbers": ["+447871239999"],
        },
        {"id": "*.example.org", "merchants": []},
    ]


def test_no_numbers_at_all_is_not_every_number():
    callers = [{"id": "cards.example.org", "merchants": ["*"], "numbers": []}]
    assert config({"callers": callers})["callers"][0]["numbers"] == []


def test_a_policy_is_on_trial_only_where_that_is_spelled_out():
    assert config({"auth": {"enforce": False}})["auth"]["enforce"] is False
    callers = [{"id": "cards.example.org", "merchants": [], "trial": tried} for tried in (True, False)]
    assert [entry.get("trial") for entry in config({"callers": callers})["callers"]] == [True, None]
    for variant in VARIANTS:
        told = config(variant=variant)
        assert "enforce" not in told["auth"]
        assert not any("trial" in entry for entry in told.get("callers", []))


def test_where_callers_are_not_asked_that_is_spelled_out():
    assert config(variant="open")["auth"] == {"allow_unauthenticated": True}
    assert "tls" not in config(variant="open")["grpc"]


def test_the_spiffe_volume_has_the_callers_cas_too():
    assert config(variant="spiffe")["grpc"]["tls"]["client_ca_file"] == "/etc/token-broker/tls/ca.crt"
    other = config({"tls": {"clientCa": {"secretName": "other", "key": "a.pem"}}}, "spiffe")
    assert other["grpc"]["tls"]["client_ca_file"] == "/etc/token-broker/client-ca/a.pem"


def test_keys_from_a_file_need_no_token():
    assert config(variant="offline-keys")["auth"]["service_accounts"] == {
        "issuer": "https://kubernetes.default.svc.cluster.local",
        "audience": "token-broker",
        "jwks_file": "/etc/token-broker/jwks/jwks.json",
        "token_review": False,
    }
    reviewed = {"auth": {"serviceAccounts": {"tokenReview": True}}, "serviceAccount": {"name": "given"}}
    accounts = config(reviewed, "offline-keys")["auth"]["service_accounts"]
    assert accounts["token_review"] is True
    assert accounts["jwks_file"] == "/etc/token-broker/jwks/jwks.json"
    assert {"ca_file", "token_file"} <= set(accounts)


def test_a_migration_has_several_issuers_with_one_set_of_keys_or_one_each():
    def accounts(values, variant):
        return config({"auth": {"serviceAccounts": values}}, variant)["auth"]["service_accounts"]

    issuers = ["https://old.example.org", "https://new.example.org"]
    asked = accounts({"issuer": issuers}, "service-accounts")
    assert asked["issuer"] == issuers
    assert "jwks_file" not in asked
    assert accounts({"issuer": issuers}, "offline-keys")["jwks_file"] == "/etc/token-broker/jwks/jwks.json"
    keys = {"key": ["old.json", "new.json"]}
    assert accounts({"issuer": issuers, "jwksConfigMap": keys}, "offline-keys")["jwks_file"] == [
        "/etc/token-broker/jwks/old.json",
        "/etc/token-broker/jwks/new.json",
    ]


def test_without_admin_there_is_no_such_table():
    assert "admin" not in config(variant="offline-keys")
    assert config(variant="offline-keys")["vault"]["renewal"] == "at_expiry"


def test_traces_and_labels_are_written_where_they_are_set():
    told = config(variant="traces")
    assert told["traces"] == {"endpoint": "http://otel-collector.observability:4317", "sample_ratio": 0.01}
    assert told["admin"]["label_callers"] is True
    assert config({"admin": {"labelCallers": False}})["admin"]["label_callers"] is False
    assert told["admin"]["rpc_metrics"] is True
    assert "rpc_metrics" not in config()["admin"]
    assert "traces" not in config()


@pytest.mark.parametrize("ratio", [0, 1, 0.25])
def test_a_ratio_is_a_number_with_a_point(ratio):
    told = config({"traces": {"sampleRatio": ratio}}, "traces")["traces"]["sample_ratio"]
    assert isinstance(told, float)
    assert told == ratio
