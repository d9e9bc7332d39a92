"""A vault in Python that grants every sign-in, for measurements that sign in once: nothing has to be built for it."""

import http.server
import json
import threading

from harness import LOOPBACK

# As vault.rs.
ACCESS_TOKEN = "t" * 212
REPLY = {"access_token": ACCESS_TOKEN, "token_type": "bearer", "expires_in": 86_400, "scope": "read write"}


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers each request alike."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        body = json.dumps(REPLY).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Says nothing."""


class Granter:
    """Serves on a thread until the end of the block; `address` is where."""

    def __enter__(self):
        self.server = http.server.ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self.address = f"{LOOPBACK}:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
