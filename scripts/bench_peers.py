#!/usr/bin/env python3
"""cutover beside Debian's nginx, haproxy and caddy, on one origin, in interleaved rounds.

Each proxy has one worker on core 0; the origin (nginx) and the load are on core 1. What is
compared is CPU time of the proxy for one request, because throughput on a shared machine says
more about the machine. Every figure is the median over the rounds; the ratio is to nginx.

    scripts/setup.sh && cargo build --release --bins
    scripts/bench_peers.py [--rounds 3] [--seconds 5] [--only h1,tls-h2] [--proxies cutover,nginx]

Load goes to 127.0.0.1 alone. Only processes started here are ended.
"""
import argparse
import os
import re
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TICK = os.sysconf("SC_CLK_TCK")
ORIGIN = 19000
PORTS = {"cutover": 19100, "nginx": 19200, "haproxy": 19300, "caddy": 19400}
CASES = {
    "h1": ("keep-alive h1, 1 KiB", ["wrk", "-t1", "-c64", "{d}", "--latency", "http://127.0.0.1:{p}/1k"]),
    "tls-h1": ("keep-alive h1 over TLS, 1 KiB", ["wrk", "-t1", "-c64", "{d}", "--latency", "https://127.0.0.1:{s}/1k"]),
    "tls-h2": ("h2 over TLS, 16 x 8 streams, 1 KiB", ["h2load", "-t1", "-c16", "-m8", "{D}", "https://127.0.0.1:{s}/1k"]),
    "tls-new": ("new TLS connection for each request", ["hey", "-z", "{t}s", "-c", "16", "-disable-keepalive", "-host", "localhost", "https://127.0.0.1:{s}/1k"]),
    "1m": ("keep-alive h1, 1 MiB", ["wrk", "-t1", "-c16", "{d}", "--latency", "http://127.0.0.1:{p}/1m"]),
}
IDLE = {"idle": "idle connection, plain", "idle-tls": "idle connection, TLS"}


def write(path, text):
    with open(path, "w") as file:
        file.write(text)
    return path


def pinned(core, command):
    return ["taskset", "-c", str(core), *command]


class Process:
    def __init__(self, name, command, folder, core, environment=None):
        self.name = name
        log = open(os.path.join(folder, f"{name}.log"), "w")
        self.child = subprocess.Popen(
            pinned(core, command), cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
        )

    def tree(self):
        pids, found = [self.child.pid], []
        while pids:
            pid = pids.pop()
            found.append(pid)
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    with open(f"/proc/{pid}/task/{task}/children") as file:
                        pids += [int(child) for child in file.read().split()]
            except OSError:
                pass
        return found

    def cpu_seconds(self):
        total = 0
        for pid in self.tree():
            try:
                with open(f"/proc/{pid}/stat") as file:
                    fields = file.read().rsplit(")", 1)[1].split()
                total += int(fields[11]) + int(fields[12])
            except OSError:
                pass
        return total / TICK

    def pss_kib(self):
        total = 0
        for pid in self.tree():
            try:
                with open(f"/proc/{pid}/smaps_rollup") as file:
                    total += int(re.search(r"^Pss:\s+(\d+)", file.read(), re.M).group(1))
            except OSError:
                pass
        return total

    def end(self):
        self.child.terminate()
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


def wait_for(port):
    """Until somebody listens."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"nothing listens on {port}")


def nginx_config(folder, servers, name):
    return write(os.path.join(folder, f"{name}.conf"), f"""
daemon off; worker_processes 1; error_log stderr error; pid {folder}/{name}.pid;
events {{ worker_connections 8000; }}
http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 600s;
  client_body_temp_path {folder}/{name}-b; proxy_temp_path {folder}/{name}-p;
  fastcgi_temp_path {folder}/{name}-f; uwsgi_temp_path {folder}/{name}-u; scgi_temp_path {folder}/{name}-s;
  {servers} }}
""")


def start_all(folder, names, running):
    for port in [ORIGIN, *(PORTS[name] for name in names)]:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                sys.exit(f"port {port} is taken, perhaps by an earlier run")
    cert, key = os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-days", "30", "-keyout", key, "-out", cert], check=True, capture_output=True)
    with open(cert) as c, open(key) as k:
        both = write(os.path.join(folder, "both.pem"), c.read() + k.read())
    os.makedirs(os.path.join(folder, "www"))
    write(os.path.join(folder, "www", "1k"), "x" * 1024)
    write(os.path.join(folder, "www", "1m"), "x" * (1 << 20))
    running["origin"] = Process("origin", ["nginx", "-c", nginx_config(
        folder, f"sendfile on; server {{ listen 127.0.0.1:{ORIGIN} backlog=4096; root {folder}/www; }}", "origin")],
        folder, 1)
    wait_for(ORIGIN)
    for name in names:
        plain, tls = PORTS[name], PORTS[name] + 1
        environment = {}
        if name == "nginx":
            command = ["nginx", "-c", nginx_config(folder, f"""
  upstream origin {{ server 127.0.0.1:{ORIGIN}; keepalive 128; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{plain} backlog=4096; listen 127.0.0.1:{tls} ssl http2 backlog=4096;
    ssl_certificate {cert}; ssl_certificate_key {key}; ssl_session_cache off; http2_max_requests 100000000;
    location / {{ proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}""", "nginx")]
        elif name == "haproxy":
            command = ["haproxy", "-db", "-f", write(os.path.join(folder, "haproxy.cfg"), f"""
global
  nbthread 1
  maxconn 8000
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 60s
  timeout http-keep-alive 600s
  http-reuse always
frontend edge
  bind 127.0.0.1:{plain}
  bind 127.0.0.1:{tls} ssl crt {both} alpn h2,http/1.1
  default_backend origin
backend origin
  server o 127.0.0.1:{ORIGIN}
""")]
        elif name == "caddy":
            environment = {"GOMAXPROCS": "1", "HOME": folder}
            command = ["caddy", "run", "--adapter", "caddyfile", "--config", write(os.path.join(folder, "Caddyfile"), f"""
{{
  admin off
  auto_https off
}}
http://127.0.0.1:{plain} {{
  reverse_proxy 127.0.0.1:{ORIGIN}
}}
https://127.0.0.1:{tls}, https://localhost:{tls} {{
  tls {cert} {key}
  reverse_proxy 127.0.0.1:{ORIGIN}
}}
""")]
        else:
            environment = {"CUTOVER_THREADS": "1"}
            command = [os.path.join(ROOT, "target/release/cutover"), "run", "--config", write(os.path.join(folder, "cutover.toml"), f"""
state_dir = "{folder}/state"
[listen]
http = ["127.0.0.1:{plain}"]
https = ["127.0.0.1:{tls}"]
ops = "127.0.0.1:{plain + 2}"
admin = "{folder}/run/admin.sock"
[timeouts]
keep_alive = "600s"
[log.access]
enabled = false
[[site]]
hosts = ["localhost", "127.0.0.1"]
default = true
redirect = false
tls = {{ cert = "{cert}", key = "{key}" }}
upstream = ["127.0.0.1:{ORIGIN}"]
""")]
        running[name] = Process(name, command, folder, 0, environment)
        wait_for(plain)
        wait_for(tls)


def milliseconds(text):
    number, unit = re.match(r"([\d.]+)(us|ms|s)", text).groups()
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


def measure(process, case, seconds):
    _, command = CASES[case]
    port = PORTS[process.name]
    values = {"p": port, "s": port + 1, "d": f"-d{seconds}s", "D": f"--duration={seconds}", "t": seconds}
    before = process.cpu_seconds()
    said = subprocess.run(pinned(1, [part.format(**values) for part in command]),
                          capture_output=True, text=True, timeout=seconds + 60).stdout
    cpu = process.cpu_seconds() - before
    if command[0] == "wrk":
        count = int(re.search(r"(\d+) requests in", said).group(1))
        rate = float(re.search(r"Requests/sec:\s+([\d.]+)", said).group(1))
        p50 = milliseconds(re.search(r"^\s+50%\s+(\S+)", said, re.M).group(1))
        p99 = milliseconds(re.search(r"^\s+99%\s+(\S+)", said, re.M).group(1))
        failed = re.search(r"Socket errors.*|Non-2xx.*", said)
    elif command[0] == "hey":  # its client keeps no sessions: every handshake is a full one
        count = int(re.search(r"\[200\]\s+(\d+) responses", said).group(1))
        rate = float(re.search(r"Requests/sec:\s+([\d.]+)", said).group(1))
        p50, p99 = (float(re.search(rf"{share}%+ in ([\d.]+) secs", said).group(1)) * 1000 for share in (50, 99))
        failed = re.search(r"Error distribution.*", said)
    else:
        count = int(re.search(r"(\d+) succeeded", said).group(1))
        rate = float(re.search(r"finished in [\d.]+m?s, ([\d.]+) req/s", said).group(1))
        mean = re.search(r"time for request:\s+\S+\s+\S+\s+(\S+)", said).group(1)
        p50, p99 = milliseconds(mean), float("nan")
        failed = re.search(r"[1-9]\d* failed", said)
    if failed:
        print(f"  {process.name} {case}: {failed.group(0)}", file=sys.stderr)
    return {"cpu": cpu / max(count, 1) * 1e6, "rate": rate, "p50": p50, "p99": p99}


def idle(process, tls, count):
    port = PORTS[process.name] + (1 if tls else 0)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    request = b"GET /1k HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    held = []

    def one():
        connection = socket.create_connection(("127.0.0.1", port), 10)
        if tls:
            connection = context.wrap_socket(connection, server_hostname="localhost")
        connection.sendall(request)
        got = b""
        while len(got) < 1024 or b"\r\n\r\n" not in got:
            got += connection.recv(65536)
        return connection

    for _ in range(20):
        held.append(one())
    before = process.pss_kib()
    for _ in range(count):
        held.append(one())
    grown = process.pss_kib() - before
    for connection in held:
        connection.close()
    return grown / count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=2000, help="idle connections")
    parser.add_argument("--only", default=",".join([*CASES, *IDLE]))
    parser.add_argument("--proxies", default=",".join(PORTS))
    arguments = parser.parse_args()
    names, only = arguments.proxies.split(","), arguments.only.split(",")
    import resource
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    folder = tempfile.mkdtemp(prefix="bench-peers-")
    os.chmod(folder, 0o755)
    os.environ["PATH"] += ":/usr/sbin"
    running, results = {}, {}
    try:
        start_all(folder, names, running)
        proxies = [running[name] for name in names]
        for case in (case for case in CASES if case in only):
            for process in proxies:
                measure(process, case, 1)  # warm
            for turn in range(arguments.rounds):
                for process in proxies:
                    runs = results.setdefault((case, process.name), [])
                    runs.append(measure(process, case, arguments.seconds))
                print(f"  {case}: round {turn + 1} of {arguments.rounds}", file=sys.stderr)
        for case in (case for case in IDLE if case in only):
            for process in proxies:
                kib = idle(process, case == "idle-tls", arguments.connections)
                results[(case, process.name)] = [{"kib": kib}]
                time.sleep(1)
    finally:
        for process in running.values():
            process.end()
        shutil.rmtree(folder, ignore_errors=True)

    def median(case, name, what):
        return statistics.median(run[what] for run in results[(case, name)])

    print("| case | proxy | CPU µs/request (min–max) | ratio | requests/s | p50 ms | p99 ms |")
    print("|---|---|---|---|---|---|---|")
    for case, (title, _) in CASES.items():
        for name in names:
            if (case, name) not in results:
                continue
            runs = [run["cpu"] for run in results[(case, name)]]
            base = median(case, "nginx", "cpu") if (case, "nginx") in results else float("nan")
            print(f"| {title} | {name} | {median(case, name, 'cpu'):.1f} ({min(runs):.1f}–{max(runs):.1f}) "
                  f"| {median(case, name, 'cpu') / base:.2f} | {median(case, name, 'rate'):.0f} "
                  f"| {median(case, name, 'p50'):.2f} | {median(case, name, 'p99'):.2f} |".replace("nan", "–"))
    for case, title in IDLE.items():
        for name in names:
            if (case, name) in results:
                print(f"| {title} | {name} | {results[(case, name)][0]['kib']:.1f} KiB | | | | |")


main()
