#!/usr/bin/env python3
"""A WebSocket upstream: `ws_server.py PORT`. Prints `ready` when it listens.

Echoes every message. Texts that are commands:

    subprotocol         answers the negotiated subprotocol
    header NAME         answers that header of the handshake request
    close CODE REASON   closes with that code
    abort               ends the TCP connection without a close frame
"""

import asyncio
import contextlib
import sys

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosedError


async def answer(socket):
    # A client that leaves without a close frame is a case of the tests, not an error.
    with contextlib.suppress(ConnectionClosedError):
        await converse(socket)


async def converse(socket):
    async for message in socket:
        command, _, rest = message.partition(" ") if isinstance(message, str) else ("", "", "")
        if command == "subprotocol":
            await socket.send(socket.subprotocol or "")
        elif command == "header":
            await socket.send(socket.request.headers.get(rest, ""))
        elif command == "close":
            code, _, reason = rest.partition(" ")
            await socket.close(int(code), reason)
        elif command == "abort":
            socket.transport.abort()
        else:
            await socket.send(message)


def choose(_connection, offered):
    """Takes `v1.chat` if it is offered, and clients that offer nothing."""
    return "v1.chat" if "v1.chat" in offered else None


async def main():
    port = int(sys.argv[1])
    async with serve(answer, "127.0.0.1", port, max_size=None, select_subprotocol=choose):
        print("ready", flush=True)
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main())
