"""What a client makes of replicas that go away."""

import signal
import threading
import time
from datetime import UTC, datetime

from adapters import good, whole
from cluster import PORT, SILENT, number
from stage import GRACE_SECONDS, answered, check, eventually

# Of each caller: as many are asked for in turn, whose tokens are renewed meanwhile …
STEADY_USERS = 10
# … and as many at once for the first time as each replica goes, so that calls are under way there.
BATCH = 10
REPLICAS = 3
USERS = STEADY_USERS + REPLICAS * BATCH
# Of these so much has passed when it goes.
DELAY, UNDER_WAY_SECONDS = "600ms", 0.3
PAUSE_SECONDS = 0.02
# A call is tried four times within some seconds.
SLOWEST_SECONDS = 10
# News takes its time: longer than a caller that heeds the broker's health needs.
DNS_SECONDS = 1.5
LEAVES_SECONDS = 1.0
# They ask replicas every 5 s how they are, and one that ends answers its calls until then.
POLLING = ("rust", "node")


def outage(stage):
    """While every broker is away a good token is handed out to its end; then the error says that nobody answers."""
    stage.here.vault_settings(lifetime="9s")
    stage.replicas()
    stage.open()
    got = {}
    stage.each(lambda caller: got.update({str(caller): caller.token()}))
    (pod,) = stage.pods
    pod.process.kill()
    pod.process.wait()

    def part(caller):
        ends = time.monotonic() + got[str(caller)]["expires_in_seconds"]
        while time.monotonic() < ends - 0.5:
            token = caller.token()
            check(token["token_id"] == got[str(caller)]["token_id"], "another token")
            time.sleep(0.1)
        time.sleep(max(0, ends - time.monotonic()) + GRACE_SECONDS)
        check(caller.cached() is None, "a token that has ended")
        error = caller.no_token()
        check(error["kind"] == "broker" and error["reason"] is None and error["is_temporary"], f"{error}")
        check(error["code"] in ("UNAVAILABLE", "DEADLINE_EXCEEDED"), f"{error}")

    stage.each(part)
    fresh = stage.start()
    stage.pods.append(fresh)
    stage.publish([fresh])
    stage.each(
        lambda caller: eventually(30, lambda: answered(caller.begin_token()) is None, "a token of the broker that is back")
    )


def silence(stage):
    """A name server that says nothing: who asks is told so in time."""
    stage.each(lambda caller: caller.adapter.done("open", endpoints=[f"http://{SILENT}:{PORT}"], timeout_seconds=3))

    def part(caller):
        began = time.monotonic()
        error = caller.no_token()
        took = time.monotonic() - began
        check(error["code"] in ("UNAVAILABLE", "DEADLINE_EXCEEDED") and error["is_temporary"] and not error["reason"], f"{error}")
        check(took < 3.7, f"it took {took:.1f} s")

    stage.each(part)


def drain(stage):
    """Three replicas are replaced one by one, as a rollout does it: no ask fails, and none goes to one that ends."""
    _replace(stage, signal.SIGTERM)


def hard_kill(stage):
    """The same, without a word: no ask fails."""
    _replace(stage, signal.SIGKILL)


def _replace(stage, how):
    stage.here.vault_settings(lifetime="6s", delay=DELAY)
    stage.replicas(REPLICAS)
    stage.open()
    replaced, told, batches = threading.Event(), {}, {caller: [] for caller in stage.callers}

    def asks(caller):
        turn, slowest, asked = 0, 0.0, 0
        while not replaced.is_set():
            began = time.monotonic()
            answer = whole(caller.begin_token(turn % STEADY_USERS))
            took = time.monotonic() - began
            check("ok" in answer, f"ask {asked}: {answer.get('error')}")
            slowest, asked, turn = max(slowest, took), asked + 1, turn + 1
            time.sleep(PAUSE_SECONDS)
        check(slowest < SLOWEST_SECONDS, f"the slowest took {slowest:.1f} s")

    def replaces():
        try:
            time.sleep(2)
            for turn, old in enumerate(list(stage.pods[:REPLICAS])):
                fresh = stage.start()
                stage.pods.append(fresh)
                alive = [pod for pod in stage.pods if pod.process.poll() is None]
                stage.publish(alive)
                time.sleep(1)
                for caller in stage.callers:
                    users = range(STEADY_USERS + turn * BATCH, STEADY_USERS + (turn + 1) * BATCH)
                    batches[caller] += [caller.begin_token(user) for user in users]
                time.sleep(UNDER_WAY_SECONDS)
                if how == signal.SIGTERM:
                    told[old] = datetime.now(UTC)
                old.process.send_signal(how)
                time.sleep(DNS_SECONDS)
                stage.publish([pod for pod in alive if pod is not old])
                old.process.wait(20)
                time.sleep(2)
        finally:
            replaced.set()

    replacing = threading.Thread(target=replaces)
    replacing.start()
    stage.each(asks)
    replacing.join()
    stage.each(lambda caller: [good(future, "a token asked for as a replica went") for future in batches[caller]])
    for pod, said in told.items():
        stage.each(lambda caller, pod=pod, said=said: _has_left(caller, pod, said))


def _has_left(caller, pod, said):
    """One that has said that it ends gets no more calls, although DNS still has it."""
    if str(caller) in POLLING:
        return
    own = {number(user)[-4:] for user in caller.users}
    times = [
        datetime.fromisoformat(line["timestamp"]) for line in pod.audited("decision") if (line.get("number") or "")[-4:] in own
    ]
    late = [time for time in times if (time - said).total_seconds() > LEAVES_SECONDS]
    check(not late, f"{len(late)} calls went to {pod} while it ended")
