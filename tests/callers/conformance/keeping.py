"""What a client keeps: tokens, and the errors that it was told."""

import time

from cluster import MERCHANT, control, number
from stage import GRACE_SECONDS, answered, check, eventually, is_alive

# At once, as a busy service asks.
CROWD = 100


def memory(stage):
    """Asked for a hundred times at once: one call, and the token never shows."""
    stage.replicas()
    stage.open()

    def part(caller):
        check(caller.cached() is None, "a token that nobody asked for")
        tokens = caller.tokens(CROWD) + caller.tokens(CROWD)
        check(len({token["token_id"] for token in tokens}) == 1, "several tokens")
        check(caller.cached() == tokens[0]["token_id"], "it is not in memory")
        shown, whole_number = tokens[0]["shown"], number(caller.users[0])
        check(tokens[0]["access_token"] not in shown, "the token is shown")
        check(whole_number not in shown and whole_number[-4:] in shown, f"the number is not masked: {shown}")
        check(is_alive(tokens[0]), "the vault does not know the token")
        caller.adapter.done("warm", users=[[MERCHANT, number(user)] for user in caller.users[1:4]])
        check(all(caller.cached(user) for user in (1, 2, 3)), "not all are warm")
        counts = caller.adapter.done("counts")
        check(counts == {"users": 4, "calls": 4, "failures": 0, "complaints": 0}, f"{counts}")
        check(len(stage.calls(caller)) == 1, "more than one call")

    stage.each(part)


def renewal(stage):
    """Renewed behind its callers, as `renew_in` says: nobody waits, no token has ended, and few calls are made."""
    control("settings", {"lifetime": "6s"})
    stage.replicas()
    stage.open()
    lasts, longest_wait = 16, 1.0

    def part(caller):
        caller.token()
        least_left, ends = {}, time.monotonic() + lasts
        while time.monotonic() < ends:
            began = time.monotonic()
            token = caller.token()
            took = time.monotonic() - began
            check(took < longest_wait, f"waited {took:.2f} s")
            least_left[token["token_id"]] = token["expires_in_seconds"]
            time.sleep(0.05)
        renewals, calls = len(least_left) - 1, len(stage.calls(caller))
        # They are renewed before the broker's margin, a tenth of their lives; but one whose renewal brought the same once more.
        late = [left for left in list(least_left.values())[:-1] if left < 0.3]
        check(len(late) <= renewals / 2, f"{len(late)} of {renewals} tokens were renewed as they ended")
        check(2 <= renewals <= 6, f"{renewals} renewals in {lasts} s")
        check(calls <= 12, f"{calls} calls for {renewals} renewals")

    stage.each(part)


def deadline(stage):
    """A caller in a hurry learns so in time; the call goes on, and brings the token to whoever waits."""
    stage.replicas()
    stage.open()
    faults = [{"kind": "truth", "after": "3s", "number": number(caller.users[0])} for caller in stage.callers]
    control("faults", faults)

    def part(caller):
        began = time.monotonic()
        hurried, patient = caller.begin_token(timeout_seconds=1), caller.begin_token()
        error = answered(hurried)
        took = time.monotonic() - began
        check(error and error["code"] == "DEADLINE_EXCEEDED" and error["is_temporary"], f"{error}")
        check(0.9 <= took < 2, f"it took {took:.2f} s")
        error = answered(patient)
        check(error is None, f"who waits gets {error}")
        check(caller.cached(), "it is not in memory")
        check(len(stage.calls(caller)) == len(stage.sign_ins(caller)) == 1, "more than one call or sign-in")

    stage.each(part)


def refusal(stage):
    """What no repeat helps against is said once, whole, and asked no more for a while."""
    stage.replicas(wrong={caller.users[0] for caller in stage.callers})
    stage.open()

    def part(caller):
        error = caller.no_token()
        check((error["code"], error["reason"]) == ("FAILED_PRECONDITION", "CREDENTIALS_REJECTED"), f"{error}")
        check(error["held_until"] and error["request_id"] and not error["is_temporary"], f"{error}")
        check(error["reason"] in error["text"] and number(caller.users[0]) not in error["text"], error["text"])
        again = [answered(future) for future in [caller.begin_token() for _ in range(CROWD)]]
        check(all(error and error["reason"] == "CREDENTIALS_REJECTED" for error in again), f"{again[0]}")
        check(len(stage.calls(caller)) == 1, "it was asked again")

        error = caller.no_token("+12025550123")
        check((error["code"], error["reason"]) == ("NOT_FOUND", "USER_NOT_CONFIGURED"), f"{error}")
        error = caller.no_token("12")
        check((error["code"], error["reason"]) == ("INVALID_ARGUMENT", "INVALID_REQUEST"), f"{error}")
        fields = [field["field"] for field in error["fields"]]
        check(fields == ["number"] and error["fields"][0]["description"], f"{error}")

    stage.each(part)


def pushback(stage):
    """A short wait that the broker names is sat out within the call; a long one is told at once, and kept."""
    stage.replicas()
    stage.open()
    busy = {"kind": "reply", "status": 503, "body": "busy"}

    def part(caller):
        control("faults", [busy | {"number": number(caller.users[0])}])
        began = time.monotonic()
        caller.token()
        took = time.monotonic() - began
        calls = len(stage.calls(caller))
        check(calls == 2, f"{calls} calls, after {took:.1f} s")

        control("faults", [busy | {"number": number(caller.users[1]), "headers": {"retry-after": "40"}}])
        began = time.monotonic()
        error = caller.no_token(1)
        took = time.monotonic() - began
        check((error["code"], error["reason"]) == ("UNAVAILABLE", "VAULT_UNAVAILABLE"), f"{error}")
        check(error["is_temporary"] and 5 < error["retry_after_seconds"] <= 60 and took < 2, f"{error} after {took:.1f} s")
        for _ in range(CROWD):
            check(caller.no_token(1)["reason"] == "VAULT_UNAVAILABLE", "another error")
        check(len(stage.calls(caller, 1)) == 1, "it was asked again")

    # Many failures at once are an outage to the broker.
    stage.each(part, at_once=False)


def vault_outage(stage):
    """While the vault is away a good token is handed out to its end, and then the error says why; few calls are made."""
    control("settings", {"lifetime": "9s"})
    stage.replicas()
    stage.open()
    got = {}
    stage.each(lambda caller: got.update({str(caller): caller.token()}))
    control("settings", {"always": {"kind": "html", "status": 502}})

    def part(caller):
        ends = time.monotonic() + got[str(caller)]["expires_in_seconds"]
        while time.monotonic() < ends - 1:
            caller.token()
            time.sleep(0.1)
        time.sleep(max(0, ends - time.monotonic()) + GRACE_SECONDS)
        check(caller.cached() is None, "a token that has ended")
        error = caller.no_token()
        check((error["code"], error["reason"]) == ("UNAVAILABLE", "VAULT_UNAVAILABLE"), f"{error}")
        check(error["is_temporary"] and error["retry_after_seconds"] > 0, f"{error}")
        calls = len(stage.calls(caller))
        check(calls <= 20, f"{calls} calls")
        for _ in range(CROWD):
            check(caller.no_token()["reason"] == "VAULT_UNAVAILABLE", "another error")
        more = len(stage.calls(caller)) - calls
        check(more <= 1, f"{more} calls more, within its pause")

    stage.each(part)
    control("settings", {"always": None, "lifetime": "5m"})
    # The broker looks after a vault that was away once in ten seconds, and the wait that it named is kept.
    stage.each(lambda caller: eventually(40, lambda: answered(caller.begin_token()) is None, "a token once the vault is back"))
