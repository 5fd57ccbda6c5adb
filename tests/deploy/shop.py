"""A small shop over PostgreSQL, for the tests that deploy it.

GET /        its version
GET /healthz whether the database answers
POST /orders inserts the body as a row, and answers its id once that is committed
GET /ws      a WebSocket; each text message is such a row, and its id the answer

It ends on SIGTERM once it has answered what it took.
"""

import base64
import hashlib
import http.server
import os
import queue
import signal
import subprocess
import threading
import time

VERSION = os.environ.get("VERSION", "v0")


class Database:
    """psql at the end of a pipe, for one statement at a time."""

    def __init__(self):
        self.psql = None

    def ask(self, statement):
        if self.psql is None or self.psql.poll() is not None:
            self.psql = subprocess.Popen(
                ["psql", "-XqAt", "-v", "ON_ERROR_STOP=0"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, bufsize=1, start_new_session=True,
            )
        self.psql.stdin.write(statement + ";\n\\echo end-of-answer\n")
        self.psql.stdin.flush()
        lines = []
        for line in self.psql.stdout:
            if line == "end-of-answer\n":
                return lines
            lines.append(line.rstrip("\n"))
        raise OSError("psql has ended: " + " ".join(lines))


POOL = queue.Queue()
for _ in range(4):
    POOL.put(Database())


def ask(statement):
    database = POOL.get()
    try:
        return database.ask(statement)
    finally:
        POOL.put(database)


def order(note):
    """The id of a new row, or why there is none."""
    answer = ask("insert into orders (note) values ('%s') returning id" % note.replace("'", "''"))
    if len(answer) == 1 and answer[0].isdigit():
        return answer[0]
    raise OSError(" ".join(answer))


class Work:
    """What was taken and is not answered yet."""

    count = 0
    lock = threading.Lock()

    def __enter__(self):
        with Work.lock:
            Work.count += 1

    def __exit__(self, *_):
        with Work.lock:
            Work.count -= 1


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        with Work():
            if self.path == "/ws":
                self.web_socket()
            elif self.path == "/healthz":
                self.answer(lambda: ask("select 'ok'")[0])
            else:
                self.answer(lambda: VERSION)

    def do_POST(self):
        with Work():
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            self.answer(lambda: order(body))

    def answer(self, make):
        try:
            status, body = 200, make()
        except OSError as error:
            status, body = 500, str(error)
        body = (body + "\n").encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def web_socket(self):
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.send_header("Sec-WebSocket-Accept", accept)
        self.end_headers()
        self.close_connection = True
        while True:
            head = self.rfile.read(2)
            if len(head) < 2:
                return
            kind, length = head[0] & 15, head[1] & 127
            if length == 126:
                length = int.from_bytes(self.rfile.read(2), "big")
            mask = self.rfile.read(4)
            payload = bytes(byte ^ mask[n % 4] for n, byte in enumerate(self.rfile.read(length)))
            if kind == 8:
                self.frame(8, payload[:2])
                return
            if kind == 9:
                self.frame(10, payload)
            if kind == 1:
                self.frame(1, order(payload.decode()).encode())

    def frame(self, kind, payload):
        self.wfile.write(bytes([128 | kind, len(payload)]) + payload)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main():
    server = Server(("", int(os.environ.get("PORT", "3000"))), Handler)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stop.wait()
    server.shutdown()
    server.server_close()
    while Work.count:
        time.sleep(0.01)
    os._exit(0)


main()
