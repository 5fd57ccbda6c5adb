#!/usr/bin/env python3
"""WebSockets through the proxy: `ws_client.py URL [--ca FILE] [--echo-only]`.

URL is ws:// or wss:// and leads to `ws_server.py`. With `--echo-only` any echo server will do.
Prints one JSON line; exit code 0 if every check passed.
"""

import argparse
import os
import ssl

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from peer import Checks, equal, expect

# Lengths at which the header of a frame changes its form (RFC 6455 section 5.2), and big ones.
SIZES = [0, 1, 125, 126, 65_535, 65_536, 1 << 20, 5 << 20]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--ca", help="trusted certificate (PEM) for wss://")
    parser.add_argument("--echo-only", action="store_true")
    arguments = parser.parse_args()
    context = None
    if arguments.url.startswith("wss:"):
        context = ssl.create_default_context(cafile=arguments.ca)

    def open_socket(**options):
        options.setdefault("compression", None)
        return connect(
            arguments.url, ssl=context, max_size=None, open_timeout=10, close_timeout=10, **options
        )

    checks = Checks("websocket")
    checks.run("text", text, open_socket)
    checks.run("binary", binary, open_socket)
    checks.run("fragments", fragments, open_socket)
    checks.run("many_in_order", many_in_order, open_socket)
    checks.run("ping", ping, open_socket)
    checks.run("permessage_deflate", deflate, open_socket)
    checks.run("client_close_code", client_close, open_socket)
    if not arguments.echo_only:
        checks.run("server_close_code", server_close, open_socket)
        checks.run("server_abort_is_seen", server_abort, open_socket)
        checks.run("subprotocol", subprotocol, open_socket)
        checks.run("handshake_headers", handshake_headers, open_socket)
    checks.finish()


def text(open_socket):
    with open_socket() as socket:
        for message in ["", "hello", "grüße, 世界", "x" * 100_000]:
            socket.send(message)
            equal(socket.recv(timeout=10), message, "echo")


def binary(open_socket):
    with open_socket() as socket:
        for size in SIZES:
            message = os.urandom(size)
            socket.send(message)
            expect(socket.recv(timeout=30) == message, f"{size} bytes did not come back as sent")


def fragments(open_socket):
    parts = ["one ", "two ", "three"]
    with open_socket() as socket:
        socket.send(iter(parts))
        equal(socket.recv(timeout=10), "".join(parts), "echo of a fragmented message")


def many_in_order(open_socket):
    with open_socket() as socket:
        for number in range(1_000):
            socket.send(str(number))
        for number in range(1_000):
            equal(socket.recv(timeout=10), str(number), "order")


def ping(open_socket):
    with open_socket() as socket:
        expect(socket.ping(b"payload").wait(10), "no pong within 10 s")


def deflate(open_socket):
    with open_socket(compression="deflate") as socket:
        message = "compressible " * 10_000
        socket.send(message)
        equal(socket.recv(timeout=10), message, "echo")


def client_close(open_socket):
    for code, reason in [(1000, "done"), (1001, ""), (4001, "of our own")]:
        with open_socket() as socket:
            socket.send("hello")
            socket.recv(timeout=10)
            socket.close(code, reason)
            equal(socket.close_code, code, "close code that came back")


def server_close(open_socket):
    for code, reason in [(1000, ""), (1011, "broken"), (1012, "restart"), (4999, "ours")]:
        with open_socket() as socket:
            socket.send(f"close {code} {reason}")
            try:
                socket.recv(timeout=10)
            except ConnectionClosed as closed:
                equal((closed.rcvd.code, closed.rcvd.reason), (code, reason), "close")
            else:
                raise AssertionError("the server's close did not arrive")


def server_abort(open_socket):
    with open_socket() as socket:
        socket.send("abort")
        try:
            socket.recv(timeout=10)
        except ConnectionClosed as closed:
            equal(closed.rcvd, None, "close frame")
        else:
            raise AssertionError("the end of the connection did not arrive")


def subprotocol(open_socket):
    with open_socket(subprotocols=["v2.chat", "v1.chat"]) as socket:
        equal(socket.subprotocol, "v1.chat", "subprotocol seen by the client")
        socket.send("subprotocol")
        equal(socket.recv(timeout=10), "v1.chat", "subprotocol seen by the server")


def handshake_headers(open_socket):
    with open_socket(additional_headers={"X-Test": "kept"}, origin="https://example.com") as socket:
        for name, value in [("X-Test", "kept"), ("Origin", "https://example.com")]:
            socket.send(f"header {name}")
            equal(socket.recv(timeout=10), value, name)


if __name__ == "__main__":
    main()
