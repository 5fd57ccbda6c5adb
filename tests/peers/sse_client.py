#!/usr/bin/env python3
"""Server-sent events through the proxy, un-buffered: `sse_client.py URL --origin-port PORT`.

The script is the upstream as well: it listens on PORT, where the proxy sends the requests for
URL. It sends event i + 1 only after its own client has seen event i, so a proxy that holds
back bytes fails whatever its speed. Both framings are tried: chunked, and until the end of the
connection. Prints one JSON line; exit code 0 if every check passed.
"""

import argparse
import http.client
import http.server
import ssl
import threading
import time
import urllib.parse

from peer import Checks, equal, expect, wait_until

EVENTS = 20
PATIENCE = 5.0


class Upstream(http.server.BaseHTTPRequestHandler):
    """`/...?framing=chunked|close`: lockstep events; anything else: 200, for probes."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    seen = threading.Semaphore(0)
    held_back = []
    left = threading.Event()

    def do_GET(self):
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        framing = query.get("framing", [""])[0]
        self.send_response(200)
        if not framing:
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_header("Content-Type", "text/event-stream")
        chunked = framing == "chunked"
        self.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Connection", "close")))
        self.end_headers()
        self.close_connection = not chunked
        endless = "endless" in query
        number = 0
        while endless or number < EVENTS:
            event = f"id: {number}\ndata: event {number}\n\n".encode()
            try:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event) if chunked else event)
            except OSError:
                self.left.set()
                return
            if endless:
                time.sleep(0.02)
            elif not self.seen.acquire(timeout=PATIENCE):
                self.held_back.append(number)
                break
            number += 1
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *arguments):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--origin-port", type=int, required=True)
    parser.add_argument("--ca", help="trusted certificate (PEM) for https://")
    arguments = parser.parse_args()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", arguments.origin_port), Upstream)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()

    checks = Checks("sse")
    checks.run("proxy_reaches_the_origin", wait_until, "the proxy reaches this origin",
               lambda: reachable(arguments))
    delays = []
    checks.run("chunked_unbuffered", lockstep, arguments, "chunked", delays)
    checks.run("until_close_unbuffered", lockstep, arguments, "close", delays)
    checks.run("client_that_leaves_is_noticed", leave, arguments)
    checks.finish(max_delay_ms=round(max(delays, default=0) * 1000, 2))


def request(arguments, query):
    parts = urllib.parse.urlsplit(arguments.url)
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=arguments.ca)
        connection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=PATIENCE * 2, context=context
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE * 2)
    connection.request("GET", f"{parts.path or '/'}?{query}", headers={"Accept": "text/event-stream"})
    return connection, connection.getresponse()


def reachable(arguments):
    try:
        connection, answer = request(arguments, "probe=1")
    except OSError:
        return False
    connection.close()
    return answer.status == 200


def lockstep(arguments, framing, delays):
    connection, answer = request(arguments, f"framing={framing}")
    equal(answer.status, 200, "status")
    equal(answer.headers.get_content_type(), "text/event-stream", "content type")
    for number in range(EVENTS):
        start = time.monotonic()
        lines = [answer.readline() for _ in range(3)]
        wanted = [f"id: {number}\n".encode(), f"data: event {number}\n".encode(), b"\n"]
        equal(lines, wanted, "event")
        delays.append(time.monotonic() - start)
        expect(not Upstream.held_back, f"events held back: {Upstream.held_back}")
        Upstream.seen.release()
    equal(answer.read(), b"", "rest of the stream")
    connection.close()


def leave(arguments):
    Upstream.left.clear()
    connection, answer = request(arguments, "framing=chunked&endless=1")
    answer.readline()
    answer.close()
    connection.close()
    expect(Upstream.left.wait(PATIENCE * 2), "the upstream still sends to nobody")


if __name__ == "__main__":
    main()
