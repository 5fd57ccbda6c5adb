"""Echo through the proxy with the `websockets` client: text, binary, large, close code.

ws_client.py URL  prints "ok" and exits 0, or says what differed and exits 1.
"""
import asyncio
import sys

import websockets


async def main(url: str) -> None:
    async with websockets.connect(url, max_size=None) as socket:
        for message in ["hello", "ünïcode", b"\x00\xff" * 10, "x" * 1_000_000, b"y" * 3_000_000]:
            await socket.send(message)
            answer = await asyncio.wait_for(socket.recv(), 20)
            assert answer == message, f"{len(answer)} came back for {len(message)}"
        for number in range(200):
            await socket.send(str(number))
        for number in range(200):
            assert await asyncio.wait_for(socket.recv(), 20) == str(number)
        await socket.close(code=4001, reason="done")
        assert socket.close_code == 4001, socket.close_code
    print("ok")


asyncio.run(main(sys.argv[1]))
