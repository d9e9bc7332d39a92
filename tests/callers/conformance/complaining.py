"""What a client does about tokens that the vault's API answers with 401."""

import subprocess

import cluster
from cluster import MERCHANT, PORT, control, number
from stage import AlwaysUnauthorized, Counter, check, is_alive

REPLICAS = 3


def complaints(stage):
    """Three replicas, each with a dead token: a good one after four asks at most, since all dead ones are named."""
    stage.replicas(REPLICAS)
    stage.open()

    def prepare(caller):
        for user in (0, 1):
            for pod in stage.pods:
                command = [stage.here.programs["broker"], "get", "--endpoint", f"http://{pod.address}:{PORT}"]
                command += ["--merchant-id", MERCHANT, "--number", number(caller.users[user])]
                done = subprocess.run(command, capture_output=True, env=cluster.plain_environment(), timeout=30)
                check(done.returncode == 0, f"{pod} has no token")

    stage.each(prepare)
    control("revoke", {"all": True})

    def part(caller):
        dead = []
        while not is_alive(token := caller.token()):
            check(token["token_id"] not in dead, "a dead token came back")
            check(caller.rejected(token), "the complaint is no news")
            check(not caller.rejected(token), "the same complaint is news again")
            check(caller.cached() != token["token_id"], "it is still in memory")
            dead.append(token["token_id"])
            check(len(dead) <= REPLICAS, f"{len(dead)} dead tokens")
        check(caller.cached() == token["token_id"], "the good one is not kept")

        # The same by the helper, which asks the vault's API twice at most.
        for _ in range(REPLICAS + 1):
            answer = caller.use(user=1)
            if "ok" in answer:
                break
            check(answer["error"]["kind"] == "rejected", f"{answer}")
        check(answer.get("ok", {}).get("status") == 200, f"{answer}")

    stage.each(part)


def insists(stage):
    """A token that comes back although it was complained of is the vault's last word: it is used, and complained of no more."""
    control("settings", {"mode": "same-token"})
    stage.replicas()
    stage.open()

    def part(caller):
        token = caller.token()
        check(caller.rejected(token), "the complaint is no news")
        again = caller.token()
        check(again["token_id"] == token["token_id"], "the vault gave another")
        caller.rejected(again)
        caller.tokens(50)
        calls = len(stage.calls(caller))
        check(calls == 2, f"{calls} calls")

    stage.each(part)


def second_401(stage):
    """An API that takes no token at all is asked twice, and then the caller learns so."""
    stage.replicas()
    stage.open()
    apis = {str(caller): Counter(("127.0.0.1", 0), AlwaysUnauthorized) for caller in stage.callers}

    def part(caller):
        api = apis[str(caller)]
        answer = caller.use(api.url)
        check(answer.get("error", {}).get("kind") == "rejected", f"{answer}")
        check(len(api.seen) == len(set(api.seen)) == 2, f"{len(api.seen)} requests, {len(set(api.seen))} tokens")
        sign_ins = len(stage.sign_ins(caller))
        check(sign_ins == 2, f"{sign_ins} sign-ins")

    stage.each(part)
    for api in apis.values():
        api.close()
