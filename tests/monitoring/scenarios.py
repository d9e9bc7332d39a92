"""The faults, one by one: what is done, and which alerts fire and resolve."""

import base64
import signal
import subprocess

from callers import MERCHANT, number
from certificates import authority, certificate
from common import PASSWORD, PATIENCE, SCALE, Failed, alert, free_port, pause, wait_until
from programs import Broker
from stage import Stage

BAD_GATEWAY = {"kind": "html", "status": 502}


def nothing_is_wrong(stage: Stage) -> None:
    """A quiet day: hits, callers' mistakes, one replica restarted after the other, a user added, one refusal made good."""
    vault = stage.vault()
    brokers = [stage.broker(vault, users=5) for _ in range(2)]
    stage.scrape(*brokers)
    callers = stage.callers(brokers, 8, 0.1)
    pause(8)
    for broker in brokers:
        broker.kill(signal.SIGTERM)
        broker.process.wait(PATIENCE)
        broker.start()
        pause(3)
    for broker in brokers:
        broker.users[MERCHANT, number(5)] = {"password": PASSWORD}
        broker.configure()
    pause(8)
    vault.next({"kind": "reply", "status": 503, "body": "busy"})
    for broker in brokers:
        broker.ask(MERCHANT, number(5))
    pause(4)
    callers.stop()


def no_replica_is_ready(stage: Stage) -> None:
    """One doesn't answer the scrape, and the other drains."""
    vault = stage.vault()
    brokers = [stage.broker(vault), stage.broker(vault, lame_duck="30s")]
    stage.scrape(*brokers)
    brokers[0].kill(signal.SIGSTOP)
    brokers[1].kill(signal.SIGTERM)
    wait_until("the second to drain", lambda: "\ntoken_broker_ready 0\n" in brokers[1].page())
    # Before it has drained.
    stage.fire(alert("NotReady"), patience=20)
    brokers[0].kill(signal.SIGCONT)
    stage.resolve()


def the_vault_fails_and_nobody_has_a_token(stage: Stage) -> None:
    vault = stage.vault()
    broker = stage.broker(vault, users=6)
    stage.scrape(broker)
    vault.always(BAD_GATEWAY)
    stage.callers([broker], 6, 0.1)
    stage.may_fire(alert("SignInsFailing"))
    reason = {"reason": "VAULT_UNAVAILABLE"}
    stage.fire(alert("VaultDown"), alert("CallsFailing", **reason), alert("TokensDry", merchant_id=MERCHANT))
    vault.always(None)
    stage.resolve(60)


def the_vault_is_back_and_nobody_asks(stage: Stage) -> None:
    """Then the broker can't know."""
    vault = stage.vault()
    broker = stage.broker(vault, users=6)
    stage.scrape(broker)
    vault.always(BAD_GATEWAY)
    callers = stage.callers([broker], 6, 0.1)
    stage.may_fire(alert("SignInsFailing"), alert("CallsFailing"), alert("TokensDry"))
    stage.fire(alert("VaultDown"))
    callers.stop()
    vault.always(None)
    stage.resolve()
    if "\ntoken_broker_vault_up 0\n" not in broker.page():
        raise Failed("somebody has asked the vault")


def the_vault_fails_and_callers_have_tokens(stage: Stage) -> None:
    """They notice nothing, so nothing says that they do. New `attempt`s make all tokens due."""
    vault = stage.vault(users=30)
    broker = stage.broker(vault, users=30)
    stage.scrape(broker)
    for user in stage.users(30):
        broker.ask(*user)
    stage.callers([broker], 30, 0.2)
    pause(2)
    vault.always(BAD_GATEWAY)
    broker.set_users(attempt=1)
    broker.configure()
    stage.may_fire(alert("SignInsFailing"))
    stage.fire(alert("RenewalsFailing"), alert("VaultDown"))
    vault.always(None)
    stage.resolve(60)


def a_third_of_the_sign_ins_fails(stage: Stage) -> None:
    """Tokens live so shortly that there are enough sign-ins, and that some don't get the next one in time."""
    vault = stage.vault(users=30, lifetime="10s")
    broker = stage.broker(vault, users=30)
    stage.scrape(broker)
    busy = {"kind": "reply", "status": 503, "body": "busy"}
    vault.next(*([busy, {"kind": "truth", "times": 2}] * 300))
    stage.callers([broker], 30, 0.1)
    stage.may_fire(alert("TokensDry"), alert("CallsFailing"))
    stage.fire(alert("SignInsFailing", merchant_id=MERCHANT))
    vault.forget()
    stage.resolve()


def users_are_refused(stage: Stage) -> None:
    """Most of one merchant's, and one of another's: that is no more than a ticket."""
    vault = stage.vault(users=6)
    broker = stage.broker(vault, users=6)
    broker.users |= {("m2", number(index)): {"password": PASSWORD} for index in range(5)}
    for index in range(4):
        broker.users[MERCHANT, number(index)]["password"] = "wrong"  # noqa: S105
    broker.configure()
    broker.kill(signal.SIGHUP)
    stage.scrape(broker)
    refused = {"kind": "refusal", "error_id": 11, "error": "WRONG_LOGIN_OR_PASSWORD_EXCEPTION", "message": "no"}
    wait_until("the second merchant's users", lambda: "token_broker_configured_users 11\n" in broker.page())
    for index in range(6):
        broker.ask(MERCHANT, number(index))
    vault.next(refused)
    broker.ask("m2", number(0))
    stage.fire(
        alert("MerchantRefused", merchant_id=MERCHANT),
        alert("UsersHeld", merchant_id=MERCHANT, reason="CREDENTIALS_REJECTED"),
        alert("UsersHeld", merchant_id="m2", reason="CREDENTIALS_REJECTED"),
    )
    broker.set_users(password=PASSWORD, attempt=1)
    broker.configure()
    stage.resolve()


def users_are_throttled(stage: Stage) -> None:
    vault = stage.vault()
    broker = stage.broker(vault, users=4)
    stage.scrape(broker)
    broker.ask(MERCHANT, number(3))
    vault.next({"kind": "reply", "status": 429, "body": "slowly", "headers": {"retry-after": "12"}, "number": number(0)})
    broker.ask(MERCHANT, number(0))
    stage.fire(alert("Throttled", merchant_id=MERCHANT))
    stage.resolve()


def a_merchant_is_blocked(stage: Stage) -> None:
    vault = stage.vault()
    broker = stage.broker(vault, users=3)
    stage.scrape(broker)
    blocked = {"kind": "refusal", "error_id": 429, "error": "WAF_LOCK_NOT_IN_LIST", "message": "no"}
    vault.next(blocked | {"headers": {"retry-after": "6"}})
    broker.ask(MERCHANT, number(0))
    stage.fire(alert("MerchantBlocked", merchant_id=MERCHANT))
    stage.resolve()


def complain(broker: Broker, times: int) -> None:
    token = broker.get()
    for _ in range(times):
        token = broker.get("--timeout", "20s", "--rejected-token-id", token["token_id"])


def tokens_are_rejected_again_and_again(stage: Stage) -> None:
    vault = stage.vault()
    broker = stage.broker(vault)
    broker.configure('min_sign_in_interval = "1s"')
    broker.kill(signal.SIGHUP)
    stage.scrape(broker)
    stage.mark()
    complain(broker, 3)
    stage.fire(alert("FloorDoubling"))
    stage.resolve(3600 / SCALE + 20)


def tokens_are_rejected_twice(stage: Stage) -> None:
    """Some user signed out elsewhere."""
    vault = stage.vault()
    broker = stage.broker(vault)
    broker.configure('min_sign_in_interval = "1s"')
    broker.kill(signal.SIGHUP)
    stage.scrape(broker)
    pause(1)
    complain(broker, 2)
    if "\ntoken_broker_floor_doublings_total 2\n" not in broker.page():
        raise Failed("there were other than two doublings")
    # Until the window is full, and increase takes its ends to be worth a part of what is in it.
    pause(3600 / SCALE)


TLS = """[grpc.tls]
certificate_file = "../server.pem"
key_file = "../server.key"
client_ca_file = "../client_ca.pem"
"""
CALLER = """[[callers]]
id = "spiffe://example.org/caller"
merchants = ["*"]
"""


def over_tls(stage: Stage, server_days: int, ca_days: int) -> Broker:
    authority(stage.directory, 90, "ca")
    authority(stage.directory, ca_days, "client_ca")
    certificate(stage.directory, "ca", server_days, "server", "DNS:localhost")
    certificate(stage.directory, "client_ca", 1, "client", "URI:spiffe://example.org/caller")
    for key in stage.directory.glob("*.key"):
        key.chmod(0o600)
    broker = stage.broker(stage.vault(), grpc=TLS, tables=CALLER, tls=True)
    names = {"ca-file": "ca.pem", "certificate-file": "client.pem", "key-file": "client.key"}
    broker.get(*(part for option, name in names.items() for part in (f"--{option}", str(stage.directory / name))))
    return broker


def certificates_end_soon(stage: Stage) -> None:
    broker = over_tls(stage, 3, 20)
    stage.scrape(broker)
    stage.fire(alert("CertificateEnding", certificate="server"), alert("CertificateEnding", certificate="client_ca"))
    authority(stage.directory, 90, "client_ca")
    certificate(stage.directory, "ca", 90, "server", "DNS:localhost")
    stage.resolve()


def a_certificate_ends_today(stage: Stage) -> None:
    broker = over_tls(stage, 1, 90)
    stage.scrape(broker)
    stage.fire(alert("CertificateEndsToday", certificate="server"), alert("CertificateEnding", certificate="server"))
    certificate(stage.directory, "ca", 90, "server", "DNS:localhost")
    stage.resolve()


def the_configuration_is_at_fault(stage: Stage) -> None:
    broker = stage.broker(stage.vault())
    stage.scrape(broker)
    broker.configure("nonsense = 1")
    stage.fire(alert("ConfigurationFaulty"))
    broker.configure()
    stage.resolve()


def the_policy_is_on_trial(stage: Stage) -> None:
    broker = over_tls(stage, 90, 90)
    stage.scrape(broker)
    broker.tables = f"[auth]\nenforce = false\n{CALLER}"
    broker.configure()
    stage.fire(alert("PolicyOnTrial"))
    broker.tables = CALLER
    broker.configure()
    stage.resolve()


def the_audit_trail_has_no_room(stage: Stage) -> None:
    broker = stage.broker(stage.vault(), tables='[audit]\nfile = "/dev/full"\n')
    stage.scrape(broker)
    broker.ask(MERCHANT, number(0))
    stage.fire(alert("AuditLinesLost"))
    stage.resolve()


def holds_can_not_be_kept(stage: Stage) -> None:
    """Others may write there, so it is not used; the next start finds it mended."""
    state = stage.directory / "state"
    state.mkdir()
    state.chmod(0o777)
    broker = stage.broker(stage.vault(), top=f'state_directory = "{state}"')
    stage.scrape(broker)
    stage.fire(alert("HoldsNotKept"))
    state.chmod(0o700)
    broker.restart()
    stage.resolve()


def the_shared_tier_is_away(stage: Stage) -> None:
    """Callers get their tokens all the same."""
    keys = [stage.directory / name for name in ("names", "key")]
    for byte, key in enumerate(keys):
        key.write_text(base64.b64encode(bytes([byte]) * 32).decode())
        key.chmod(0o600)
    port = free_port()
    seals = f'keys = [{{ id = 1, file = "{keys[1]}" }}]'
    table = f'shared = {{ url = "redis://127.0.0.1:{port}", name_key_file = "{keys[0]}", {seals} }}'
    broker = stage.broker(stage.vault(), top=table)
    stage.scrape(broker)
    stage.fire(alert("SharedTierDown"))
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(stage.directory)]
    stage.started(subprocess.Popen(command, stdout=subprocess.DEVNULL))
    stage.resolve()


def replicas_have_other_users(stage: Stage) -> None:
    vault = stage.vault()
    brokers = [stage.broker(vault, users=2), stage.broker(vault, users=0)]
    stage.scrape(*brokers)
    stage.fire(alert("ReplicasDisagree", what="token_broker_configured_users"))
    brokers[1].users = brokers[0].users
    brokers[1].configure()
    stage.resolve()


def one_replica_is_cut_off_from_the_vault(stage: Stage) -> None:
    """The other hears from it all the time: tokens live shortly. At last nobody asks the one that is cut off."""
    vault = stage.vault(lifetime="4s")
    brokers = [stage.broker(None, users=8), stage.broker(vault, users=8)]
    stage.scrape(*brokers)
    stage.callers(brokers[1:], 8, 0.1)
    callers = stage.callers(brokers[:1], 8, 0.1)
    stage.may_fire(alert("CallsFailing"), alert("TokensDry"), alert("SignInsFailing"))
    stage.fire(alert("ReplicasDisagree", what="token_broker_vault_up"))
    callers.stop()
    stage.resolve()


def two_versions_run(stage: Stage) -> None:
    broker = stage.broker(stage.vault())
    other = stage.recorded(broker.page())
    other.change(r'(?<=build_info\{version=")[^"]+', "9.9.9")
    stage.scrape(broker, other)
    stage.fire(alert("VersionsDiffer"), patience=3600 / SCALE + 20)
    other.stop()
    stage.resolve()


def calls_are_turned_away(stage: Stage) -> None:
    """More wait for sign-ins than may."""
    vault = stage.vault()
    vault.always({"kind": "hang"})
    broker = stage.broker(vault)
    broker.configure('timeout = "2m"')
    broker.kill(signal.SIGHUP)
    stage.scrape(broker)
    wait_until("the reload", lambda: "token_broker_configuration_generation 2\n" in broker.page())
    stage.may_fire(alert("CallsFailing", reason="BROKER_OVERLOADED"), alert("TokensDry"))
    stage.mark()
    end = stage.child("crowd", broker.endpoint, "24576")
    stage.fire(alert("Overloaded", what="calls turned away in 2 minutes"), patience=60)
    stage.mark()
    end()
    stage.resolve()


def something_breaks_inside(stage: Stage) -> None:
    broker = stage.broker(stage.vault())
    broken = stage.recorded(broker.page())
    stage.scrape(broken)
    broken.change(r'(?<=outcome="broken"\} )0$', "1")
    stage.fire(alert("InternalErrors"))
    stage.resolve()


def a_sign_in_breaks_inside(stage: Stage) -> None:
    """A series that begins with its first event."""
    broker = stage.broker(stage.vault())
    broken = stage.recorded(broker.page())
    stage.scrape(broken)
    # The alert can tell a first event from a first scrape only where there has been a broker for as long as it looks back.
    pause(900 / SCALE)
    broken.page += '# TYPE token_broker_sign_ins_total counter\ntoken_broker_sign_ins_total{merchant_id="m1",result="broken"} 1\n'
    stage.fire(alert("InternalErrors"))
    stage.resolve()


def renewals_stand_still(stage: Stage) -> None:
    broker = stage.broker(stage.vault())
    stuck = stage.recorded(broker.page())
    stage.scrape(stuck)
    stuck.change(r"(?<=^token_broker_renewals_overdue )0$", "7")
    stage.fire(alert("RenewalsOverdue"))
    stuck.change(r"(?<=^token_broker_renewals_overdue )7$", "0")
    stage.resolve()


def a_replica_crashes_again_and_again(stage: Stage) -> None:
    broker = stage.broker(stage.vault())
    stage.scrape(broker)
    stage.mark()
    for _ in range(4):
        broker.restart()
        pause(1.5)
    stage.fire(alert("Restarting"))
    stage.resolve(1800 / SCALE + 20)


def hits_take_long(stage: Stage) -> None:
    """The broker hardly gets to run, and its pauses fall into calls. Between calls they would not count: see the runbook."""
    broker = stage.broker(stage.vault())
    stage.scrape(broker)
    end = stage.child("slow", broker.endpoint, str(broker.process.pid))
    stage.fire(alert("HitsSlow"), patience=60)
    stage.mark()
    end()
    stage.resolve()


# Those first that take longest.
SCENARIOS = [
    tokens_are_rejected_again_and_again,
    two_versions_run,
    tokens_are_rejected_twice,
    a_replica_crashes_again_and_again,
    a_sign_in_breaks_inside,
    the_vault_fails_and_callers_have_tokens,
    the_vault_fails_and_nobody_has_a_token,
    the_vault_is_back_and_nobody_asks,
    a_third_of_the_sign_ins_fails,
    nothing_is_wrong,
    no_replica_is_ready,
    users_are_refused,
    users_are_throttled,
    a_merchant_is_blocked,
    certificates_end_soon,
    a_certificate_ends_today,
    the_configuration_is_at_fault,
    the_policy_is_on_trial,
    the_audit_trail_has_no_room,
    holds_can_not_be_kept,
    the_shared_tier_is_away,
    replicas_have_other_users,
    one_replica_is_cut_off_from_the_vault,
    something_breaks_inside,
    renewals_stand_still,
    calls_are_turned_away,
    hits_take_long,
]
# These keep the machine so busy that others' times would suffer: one after the other, when most are done.
HEAVY = {calls_are_turned_away, hits_take_long}
