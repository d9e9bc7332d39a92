"""Both sources over TLS: files that are replaced under them."""

import asyncio
import os
import shutil
import threading
import time

import pytest

from broker import Broker, Certificates, Tasks, Threads, openssl, play
from token_broker_client import ConfigurationError, TokenBrokerError, _channel, _files, _reader
from token_broker_client._options import check

both = pytest.mark.parametrize("make", [Threads, Tasks], ids=lambda make: make.name)


@pytest.fixture
def certificates(tmp_path):
    return Certificates(tmp_path)


@both
def test_the_token_file_is_read_for_each_call(make, certificates):
    file = certificates.at("token")
    file.write_text("the first\n".replace(" ", "-"))

    async def scenario(source):
        await source.token("m", "1")
        file.write_text("the-second")
        await source.token("m", "2")
        assert [metadata["authorization"] for metadata in broker.metadata] == ["Bearer the-first", "Bearer the-second"]
        file.unlink()
        with pytest.raises(ConfigurationError, match="token_file: "):
            await source.token("m", "3")

    with Broker(certificates.server()) as broker:
        play(scenario, make, broker.url, ca_file=certificates.at("ca.crt"), token_file=file)


@both
def test_a_pair_is_taken_once_it_is_whole(make, certificates, monkeypatch):
    monkeypatch.setattr(_channel, "FILES_EVERY", 0.0)
    certificate, key = certificates.at("used.crt"), certificates.at("used.key")
    first, second = certificates.make("first"), certificates.make("second")
    shutil.copy(first[0], certificate)
    shutil.copy(first[1], key)

    async def scenario(source):
        await source.token("m", "1")
        shutil.copy(second[0], certificate)
        await source.token("m", "2")
        key.write_text("nonsense")
        await source.token("m", "3")
        key.unlink()
        await source.token("m", "4")
        shutil.copy(second[1], key)
        await source.token("m", "5")
        assert [peer[0].decode() for peer in broker.peers] == ["first"] * 4 + ["second"]
        assert len(source.source._engine._links._links) == 1, "the former is closed"

    with Broker(certificates.server(asks_clients=True)) as broker:
        files = {"ca_file": certificates.at("ca.crt"), "certificate_file": certificate, "key_file": key}
        play(scenario, make, broker.url, **files)


@both
def test_a_call_under_way_goes_on_as_its_channel_is_replaced(make, certificates, monkeypatch):
    monkeypatch.setattr(_channel, "FILES_EVERY", 0.0)
    pair = certificates.make("first")

    async def scenario(source):
        broker.go.clear()
        asking = asyncio.create_task(source.token("m", "1"))
        await broker.has_come()
        other = asyncio.create_task(source.token("m", "2"))
        certificates.make("first")
        await broker.has_come()
        broker.go.set()
        assert await asking and await other and source.source.counts().failures == 0

    with Broker(certificates.server(asks_clients=True)) as broker:
        files = {"ca_file": certificates.at("ca.crt"), "certificate_file": pair[0], "key_file": pair[1]}
        play(scenario, make, broker.url, **files)


@both
def test_a_broker_of_another_ca_is_refused(make, certificates, tmp_path):
    other = tmp_path / "other"
    other.mkdir()

    async def scenario(source):
        with pytest.raises(TokenBrokerError) as refused:
            await source.token()
        assert refused.value.code == "UNAVAILABLE" and broker.requests == []

    with Broker(certificates.server()) as broker:
        play(scenario, make, broker.url, ca_file=Certificates(other).at("ca.crt"))


@both
def test_a_file_that_hangs_costs_one_thread_and_no_call_its_channel(make, certificates, monkeypatch):
    monkeypatch.setattr(_channel, "FILES_EVERY", 0.0)
    monkeypatch.setattr(_reader, "READ_TIMEOUT", 0.2)
    ca = certificates.at("used.crt")
    shutil.copy(certificates.at("ca.crt"), ca)

    async def scenario(source):
        await source.token("m", "0")
        pipe, fresh = certificates.at("pipe"), certificates.at("fresh")
        os.mkfifo(pipe)
        os.link(pipe, fresh)
        os.replace(fresh, ca)
        for number in range(1, 20):
            assert (await source.token("m", str(number))).token_id == f"token-{number}"
        assert readers() == 1
        # As soon as it can be read again, it is.
        fresh.write_bytes(certificates.at("ca.crt").read_bytes() + b"\n")
        os.replace(fresh, ca)
        await let_go(pipe)
        await source.token("m", "20")
        assert source.source._engine._links.materials.ca == ca.read_bytes()

    with Broker(certificates.server()) as broker:
        play(scenario, make, broker.url, ca_file=ca)


@both
def test_a_token_file_that_hangs_fails_calls_and_no_more(make, certificates, monkeypatch):
    monkeypatch.setattr(_reader, "READ_TIMEOUT", 0.2)
    file = certificates.at("token")
    file.write_text("the-token")

    async def scenario(source):
        held = await source.token("m", "0")
        file.unlink()
        os.mkfifo(file)
        for number in range(1, 20):
            with pytest.raises(ConfigurationError, match="token_file: can't be read in time: see"):
                await source.token("m", str(number))
        assert readers() == 1 and await source.token("m", "0") is held
        await let_go(file)

    with Broker(certificates.server()) as broker:
        play(scenario, make, broker.url, ca_file=certificates.at("ca.crt"), token_file=file)


@both
def test_a_source_whose_file_hangs_can_be_closed_at_once(make, certificates):
    file = certificates.at("pipe")
    os.mkfifo(file)

    async def scenario(source):
        asking = asyncio.create_task(source.token())
        while not readers():
            await asyncio.sleep(0)
        began = time.monotonic()
        await source.close()
        with pytest.raises(TokenBrokerError, match="is closed"):
            await asking
        assert time.monotonic() < began + _reader.READ_TIMEOUT / 2
        await let_go(file)

    play(scenario, make, "https://127.0.0.1:1", ca_file=file)


def readers():
    """How many threads read files."""
    return len([thread for thread in threading.enumerate() if thread.name == "token-broker-files"])


async def let_go(pipe):
    """Ends the read of a pipe, so that the next test finds no thread of this one."""
    while readers():
        # To write alone would wait for who reads.
        os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))
        await asyncio.sleep(0)


@both
def test_files_that_break_what_looks_at_them_leave_the_channel(make, certificates, monkeypatch):
    monkeypatch.setattr(_channel, "FILES_EVERY", 0.0)
    ca = certificates.at("used.crt")
    shutil.copy(certificates.at("ca.crt"), ca)

    async def scenario(source):
        await source.token("m", "1")
        monkeypatch.setattr(_files, "_check", lambda options, materials: 1 / 0)
        ca.write_text("something else")
        assert (await source.token("m", "2")).token_id == "token-1"

    with Broker(certificates.server()) as broker:
        play(scenario, make, broker.url, ca_file=ca)
        with pytest.raises(ConfigurationError, match="can't be used: ZeroDivisionError: see"):
            play(lambda source: source.token(), make, broker.url, ca_file=ca)


@both
def test_a_ca_file_may_have_comments_in_any_language(make, certificates):
    ca = certificates.at("commented.crt")
    ca.write_bytes("# Zertifizierungsstelle für Karten\n".encode() + certificates.at("ca.crt").read_bytes() + b"# \xff\n")
    with Broker(certificates.server()) as broker:
        play(lambda source: source.token(), make, broker.url, ca_file=ca)
        assert len(broker.requests) == 1


def test_files_that_are_as_they_were_are_read_once_and_not_parsed(certificates, monkeypatch):
    pair = certificates.make("first")
    options = check("https://a:1", ca_file=certificates.at("ca.crt"), certificate_file=pair[0], key_file=pair[1])
    known = _files.read(options)
    reads = []
    real = _files._read
    monkeypatch.setattr(_files, "_read", lambda *named: reads.append(named) or real(*named))
    monkeypatch.setattr(_files, "_check", lambda options, materials: pytest.fail("it is known to be good"))
    assert _files.read(options, known) == known and len(reads) == 3


def test_files_that_can_not_be_used_are_named(certificates):
    pair, other = certificates.make("first"), certificates.make("second")
    ca, nonsense = certificates.at("ca.crt"), certificates.at("nonsense")
    nonsense.write_text("nonsense")
    tls = {"endpoints": "https://a:1", "ca_file": ca}
    for options, said in (
        ({**tls, "ca_file": nonsense}, "ca_file: .*nonsense holds no certificate in PEM: give"),
        ({**tls, "ca_file": "/none"}, "ca_file: /none can't be read: No such file or directory: see"),
        ({**tls, "certificate_file": pair[0], "key_file": other[1]}, "certificate_file, key_file: .* are no pair: give"),
        ({**tls, "certificate_file": pair[0], "key_file": nonsense}, "are no pair"),
        ({**tls, "certificate_file": nonsense, "key_file": pair[1]}, "are no pair"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            _files.read(check(**options))
    both = certificates.at("both.pem")
    both.write_bytes(pair[0].read_bytes() + pair[1].read_bytes())
    assert _files.read(check(**tls, certificate_file=both, key_file=both)).key == both.read_bytes()


def test_an_encrypted_key_asks_nobody_for_a_passphrase(certificates):
    certificate, key = certificates.make("first")
    locked = certificates.at("locked.key")
    openssl("ec", "-in", key, "-out", locked, "-aes256", "-passout", "pass:a-passphrase")
    with pytest.raises(ConfigurationError, match="key_file: the key is encrypted"):
        _files.read(check("https://a:1", ca_file=certificates.at("ca.crt"), certificate_file=certificate, key_file=locked))
