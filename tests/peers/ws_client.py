#!/usr/bin/env python3
"""WebSockets through the proxy: `ws_client.py URL [--ca FILE] [--echo-only]`.

URL is ws:// or wss:// and leads to `ws_server.py`. With `--echo-only` any echo server will do.
Prints one JSON line; exit code 0 if every check passed.

The client is asyncio's: the threaded one of the same package can deadlock over TLS.
"""

import argparse
import asyncio
import os
import ssl

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from peer import Checks, equal, expect

# Longest a check may take, in seconds.
PATIENCE = 30

# Lengths at which the header of a frame changes its form (RFC 6455 section 5.2), and big ones.
SIZES = [0, 1, 125, 126, 65_535, 65_536, 1 << 20, 5 << 20]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--ca", help="trusted certificate (PEM) for wss://")
    parser.add_argument("--echo-only", action="store_true")
    arguments = parser.parse_args()
    options = {"max_size": None, "open_timeout": 10, "close_timeout": 10, "proxy": None}
    if arguments.url.startswith("wss:"):
        options["ssl"] = ssl.create_default_context(cafile=arguments.ca)

    def open_socket(**more):
        return connect(arguments.url, **({"compression": None} | options | more))

    checks = Checks("websocket")

    def run(name, check):
        checks.run(name, lambda: asyncio.run(asyncio.wait_for(check(open_socket), PATIENCE)))

    run("text", text)
    run("binary", binary)
    run("fragments", fragments)
    run("many_in_order", many_in_order)
    run("ping", ping)
    run("permessage_deflate", deflate)
    run("client_close_code", client_close)
    if not arguments.echo_only:
        run("server_close_code", server_close)
        run("server_abort_is_seen", server_abort)
        run("subprotocol", subprotocol)
        run("handshake_headers", handshake_headers)
    checks.finish()


async def text(open_socket):
    async with open_socket() as socket:
        for message in ["", "hello", "grüße, 世界", "x" * 100_000]:
            await socket.send(message)
            equal(await socket.recv(), message, "echo")


async def binary(open_socket):
    async with open_socket() as socket:
        for size in SIZES:
            message = os.urandom(size)
            await socket.send(message)
            expect(await socket.recv() == message, f"{size} bytes did not come back as sent")


async def fragments(open_socket):
    parts = ["one ", "two ", "three"]
    async with open_socket() as socket:
        await socket.send(iter(parts))
        equal(await socket.recv(), "".join(parts), "echo of a fragmented message")


async def many_in_order(open_socket):
    async with open_socket() as socket:
        for number in range(1_000):
            await socket.send(str(number))
        for number in range(1_000):
            equal(await socket.recv(), str(number), "order")


async def ping(open_socket):
    async with open_socket() as socket:
        await (await socket.ping(b"payload"))


async def deflate(open_socket):
    async with open_socket(compression="deflate") as socket:
        message = "compressible " * 10_000
        await socket.send(message)
        equal(await socket.recv(), message, "echo")


async def client_close(open_socket):
    for code, reason in [(1000, "done"), (1001, ""), (4001, "of our own")]:
        async with open_socket() as socket:
            await socket.send("hello")
            await socket.recv()
            await socket.close(code, reason)
            equal(socket.close_code, code, "close code that came back")


async def server_close(open_socket):
    for code, reason in [(1000, ""), (1011, "broken"), (1012, "restart"), (4999, "ours")]:
        async with open_socket() as socket:
            await socket.send(f"close {code} {reason}")
            closed = await end_of(socket)
            equal((closed.rcvd.code, closed.rcvd.reason), (code, reason), "close")


async def server_abort(open_socket):
    async with open_socket() as socket:
        await socket.send("abort")
        equal((await end_of(socket)).rcvd, None, "close frame")


async def end_of(socket):
    try:
        message = await socket.recv()
    except ConnectionClosed as closed:
        return closed
    raise AssertionError(f"{message!r} instead of the end of the connection")


async def subprotocol(open_socket):
    async with open_socket(subprotocols=["v2.chat", "v1.chat"]) as socket:
        equal(socket.subprotocol, "v1.chat", "subprotocol seen by the client")
        await socket.send("subprotocol")
        equal(await socket.recv(), "v1.chat", "subprotocol seen by the server")


async def handshake_headers(open_socket):
    headers = {"X-Test": "kept"}
    async with open_socket(additional_headers=headers, origin="https://example.com") as socket:
        for name, value in [("X-Test", "kept"), ("Origin", "https://example.com")]:
            await socket.send(f"header {name}")
            equal(await socket.recv(), value, name)


if __name__ == "__main__":
    main()
