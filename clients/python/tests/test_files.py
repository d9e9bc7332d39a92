"""Both sources over TLS: files that are replaced under them."""

import asyncio
import shutil

import pytest

from broker import Broker, Certificates, Tasks, Threads, openssl, play
from token_broker_client import ConfigurationError, TokenBrokerError, _channel, _files
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
