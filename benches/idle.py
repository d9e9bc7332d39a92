"""Connections that say that they speak HTTP/2 and then nothing, in plaintext or over TLS."""

import contextlib
import socket
import ssl

# The preface, and a SETTINGS frame without any.
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
TIMEOUT_SECONDS = 10


def context(directory):
    """TLS with a client's certificate, of certificates.py."""
    found = ssl.create_default_context(cafile=directory / "ca.crt")
    found.load_cert_chain(directory / "client.crt", directory / "client.key")
    found.set_alpn_protocols(["h2"])
    return found


def connect(server, tls=None):
    """Opens one; it has been served once it got the server's SETTINGS."""
    host, port = server.address.split(":")
    connection = socket.create_connection((host, int(port)), timeout=TIMEOUT_SECONDS)
    if tls is not None:
        connection = tls.wrap_socket(connection, server_hostname=host)
    connection.sendall(HELLO)
    connection.recv(1)
    return connection


@contextlib.contextmanager
def connections(server, count, tls=None):
    """So many of them, until the end of the block."""
    opened = [connect(server, tls) for _ in range(count)]
    try:
        yield opened
    finally:
        for connection in opened:
            connection.close()
