"""What a source refuses to be made of."""

import pytest

from token_broker_client import ConfigurationError, TokenBrokerError, TokenSource, aio
from token_broker_client._options import Endpoint, check

TLS = {"endpoints": "https://a:1", "ca_file": "ca"}


@pytest.mark.parametrize("kind", [TokenSource, aio.TokenSource])
@pytest.mark.parametrize(
    ("options", "option", "said"),
    [
        ({"endpoints": []}, "endpoints", "there is none"),
        ({"endpoints": ""}, "endpoints", "neither http:// nor https://"),
        ({"endpoints": "127.0.0.1:50051"}, "endpoints", "neither"),
        ({"endpoints": "ftp://a:1"}, "endpoints", "neither"),
        ({"endpoints": "http://"}, "endpoints", "no host"),
        ({"endpoints": "http://:50051"}, "endpoints", "no host"),
        ({"endpoints": "http://a b:1"}, "endpoints", "no host"),
        ({"endpoints": "http://bröker:1"}, "endpoints", "no host"),
        ({"endpoints": "http://[::1:50051"}, "endpoints", "not a URL"),
        ({"endpoints": "http://a:0"}, "endpoints", "port that can't be"),
        ({"endpoints": "http://a:65536"}, "endpoints", "port that can't be"),
        ({"endpoints": "http://a:b"}, "endpoints", "port that can't be"),
        ({"endpoints": "http://a:-1"}, "endpoints", "port that can't be"),
        ({"endpoints": "http://a:1/path"}, "endpoints", "more than"),
        ({"endpoints": "http://a:1?q"}, "endpoints", "more than"),
        ({"endpoints": "http://user:hidden@a:1"}, "endpoints", "more than"),
        ({"endpoints": ["http://a:1", "https://b:1"], "ca_file": "ca"}, "endpoints", "some are http://"),
        ({"endpoints": "http://a:1", "ca_file": "ca"}, "ca_file", "plaintext"),
        ({"endpoints": "http://a:1", "token_file": "t"}, "token_file", "plaintext"),
        ({"endpoints": "http://a:1", "certificate_file": "c", "key_file": "k"}, "certificate_file", "plaintext"),
        ({"endpoints": "https://a:1"}, "ca_file", "missing"),
        ({**TLS, "certificate_file": "c"}, "key_file", "missing"),
        ({**TLS, "key_file": "k"}, "certificate_file", "missing"),
        ({**TLS, "token_file": "t", "certificate_file": "c", "key_file": "k"}, "token_file", "together"),
        ({**TLS, "token_file": ""}, "token_file", "empty"),
        ({**TLS, "timeout": 0}, "timeout", "is "),
        ({**TLS, "timeout": -1}, "timeout", "is "),
        ({**TLS, "timeout": float("nan")}, "timeout", "is "),
    ],
)
def test_a_refusal_names_option_fault_and_remedy(kind, options, option, said):
    with pytest.raises(ConfigurationError) as refused:
        kind(**options)
    error = refused.value
    named, fault, remedy = str(error).split(": ", 2)
    assert (named, error.code, error.reason, error.is_permanent) == (option, None, None, True)
    assert said in fault and remedy and "hidden" not in str(error)
    assert isinstance(error, TokenBrokerError) and isinstance(error, ValueError)


def test_what_it_takes():
    made = check(
        ["https://A.example.org.", "https://[::1]:50051/", "https://a.example.org.", "HTTPS://b:2"], ca_file="ca", timeout=1e9
    )
    assert made.endpoints == (Endpoint("a.example.org.", 443), Endpoint("::1", 50051), Endpoint("b", 2))
    assert [one.target for one in made.endpoints] == ["dns:///a.example.org.:443", "ipv6:%5B::1%5D:50051", "dns:///b:2"]
    assert [one.authority for one in made.endpoints] == ["a.example.org:443", "[::1]:50051", "b:2"]
    assert (made.timeout, made.use_proxy, made.wait(None), made.wait(1e9), made.wait(-1)) == (600, False, 600, 600, 0)
    assert check("http://a:1").call_time == pytest.approx(29.9)
    assert check("http://a:1", timeout=0.5).call_time == pytest.approx(0.45)


def test_nothing_is_begun_by_making_one():
    source = TokenSource("http://127.0.0.1:1")
    assert source._engine._thread is None and source.counts() == (0, 0, 0, 0)
    assert repr(source) == "TokenSource('127.0.0.1:1')"
    source.close()
