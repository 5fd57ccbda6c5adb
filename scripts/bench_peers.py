#!/usr/bin/env python3
"""cutover beside nginx, haproxy and caddy, in front of the same nginx origin.

    scripts/bench_peers.py [--rounds 5] [--seconds 5] [--only CASE,...] [--proxies NAME,...]

One worker each. The proxy is pinned to one core, the load generator and the origin to another, so
the machine needs two. Rounds are interleaved: every proxy runs once in a round, in an order that
rotates, and starts afresh for each measurement. The tables show medians, the ratio to nginx and
the spread (min..max). What to compare first is the processor time per request: requests per
second are also bounded by the core that the load and the origin share.

Processor time is utime + stime of the proxy's processes (10 ms ticks of /proc), memory their
proportional set size (PSS). Latency comes from the load generator, and includes the handshake
only in the case of one connection per request. All load stays on the loopback interface.
"""

import argparse
import json
import os
import platform
import re
import resource
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

PROXY_CORE, LOAD_CORE = 0, 1
TICKS = os.sysconf("SC_CLK_TCK")
ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 15.0


# --- processes -------------------------------------------------------------------------------


class Program:
    """A process of ours, pinned to a core; ends with the `with` block."""

    def __init__(self, name, command, core, log, env=None):
        self.name, self.log = name, log
        with open(log, "ab") as output:
            self.process = subprocess.Popen(
                ["taskset", "-c", str(core), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(env or {})},
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            for pid in reversed(self.tree()):
                os.kill(pid, 9)
            self.process.wait()

    def wait_listening(self, *ports):
        deadline = time.monotonic() + PATIENCE
        for port in ports:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    if self.process.poll() is not None or time.monotonic() > deadline:
                        text = Path(self.log).read_text(errors="replace")[-2000:]
                        sys.exit(f"{self.name} does not listen on port {port}:\n{text}")
                    time.sleep(0.05)

    def tree(self):
        """The process and all below it."""
        children = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    parent = int(stat_fields(entry.name)[1])
                except OSError:
                    continue
                children.setdefault(parent, []).append(int(entry.name))
        found = [self.process.pid]
        for pid in found:
            found.extend(children.get(pid, []))
        return found

    def cpu_seconds(self):
        total = 0
        for pid in self.tree():
            fields = stat_fields(pid)
            total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def pss_kib(self):
        total = 0
        for pid in self.tree():
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += int(re.search(r"^Pss:\s+(\d+) kB", rollup, re.M).group(1))
        return total


def stat_fields(pid):
    """/proc/PID/stat after the name, which may contain spaces: state is field 0."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for listener in sockets:
        listener.bind(("127.0.0.1", 0))
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


# --- configurations --------------------------------------------------------------------------


@dataclass
class Site:
    """Where a proxy listens and what it needs."""

    folder: Path
    origin: int
    cert: Path
    key: Path
    cutover: Path
    http: int = 0
    https: int = 0
    spare: int = 0

    def write(self, name, text):
        path = self.folder / name
        path.write_text(text)
        return path


def nginx_command(path):
    return ["nginx", "-c", str(path), "-e", "stderr", "-g", "daemon off;"]


def nginx_base(site, name):
    temp = "".join(
        f"{kind}_temp_path {site.folder}/{name}-{kind};\n"
        for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    )
    return f"access_log off;\nkeepalive_requests 100000000;\n{temp}"


def origin(site):
    """Two bodies: 1 KiB and 1 MiB."""
    files = site.folder / "files"
    files.mkdir(exist_ok=True)
    (files / "1k").write_bytes(b"x" * 1024)
    (files / "1m").write_bytes(b"x" * (1 << 20))
    path = site.write(
        "origin.conf",
        f"""worker_processes 1; pid {site.folder}/origin.pid;
events {{ worker_connections 16000; }}
http {{
{nginx_base(site, "origin")}
sendfile on; tcp_nopush on; open_file_cache max=10;
server {{ listen 127.0.0.1:{site.origin}; root {files}; }}
}}
""",
    )
    return nginx_command(path)


def nginx(site):
    path = site.write(
        "nginx.conf",
        f"""worker_processes 1; pid {site.folder}/nginx.pid;
events {{ worker_connections 16000; }}
http {{
{nginx_base(site, "nginx")}
proxy_max_temp_file_size 0;
upstream origin {{ server 127.0.0.1:{site.origin}; keepalive 256; keepalive_requests 100000000; }}
server {{
  listen 127.0.0.1:{site.http};
  listen 127.0.0.1:{site.https} ssl http2;
  ssl_certificate {site.cert}; ssl_certificate_key {site.key};
  ssl_protocols TLSv1.2 TLSv1.3;
  location / {{
    proxy_pass http://origin;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Host $http_host;
    proxy_set_header X-Forwarded-Port $server_port;
    proxy_set_header X-Real-IP $remote_addr;
    proxy_set_header X-Request-Id $request_id;
  }}
}}
}}
""",
    )
    return nginx_command(path), {}


def haproxy(site):
    bundle = site.write("haproxy.pem", site.cert.read_text() + site.key.read_text())
    path = site.write(
        "haproxy.cfg",
        f"""global
  nbthread 1
  maxconn 8000
defaults
  mode http
  option forwardfor
  http-reuse always
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout http-keep-alive 300s
frontend front
  bind 127.0.0.1:{site.http}
  bind 127.0.0.1:{site.https} ssl crt {bundle} alpn h2,http/1.1
  http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
  http-request set-header X-Forwarded-Proto http unless {{ ssl_fc }}
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request set-header X-Forwarded-Port %[dst_port]
  http-request set-header X-Real-IP %[src]
  http-request set-header X-Request-Id %[uuid()]
  default_backend origin
backend origin
  server origin 127.0.0.1:{site.origin}
""",
    )
    return ["haproxy", "-db", "-f", str(path)], {}


def caddy(site):
    path = site.write(
        "Caddyfile",
        f"""{{
  admin off
  auto_https off
  servers {{
    protocols h1 h2
  }}
}}
http://localhost:{site.http}, http://127.0.0.1:{site.http} {{
  reverse_proxy 127.0.0.1:{site.origin}
}}
https://localhost:{site.https} {{
  tls {site.cert} {site.key}
  reverse_proxy 127.0.0.1:{site.origin}
}}
""",
    )
    home = {"GOMAXPROCS": "1", "XDG_DATA_HOME": str(site.folder), "XDG_CONFIG_HOME": str(site.folder)}
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(path)], home


def cutover(site):
    path = site.write(
        "cutover.toml",
        f"""state_dir = "{site.folder}/state"
shutdown_grace = "1s"
[listen]
http = ["127.0.0.1:{site.http}"]
https = ["127.0.0.1:{site.https}"]
ops = "127.0.0.1:{site.spare}"
admin = "{site.folder}/run/admin.sock"
[log.access]
enabled = false
[[site]]
hosts = ["localhost", "127.0.0.1"]
redirect = false
tls = {{ cert = "{site.cert}", key = "{site.key}" }}
service = "origin"
[service.origin]
blue = ["127.0.0.1:{site.origin}"]
""",
    )
    return [str(site.cutover), "run", "--config", str(path)], {"CUTOVER_THREADS": "1"}


PROXIES = {"nginx": nginx, "haproxy": haproxy, "caddy": caddy, "cutover": cutover}


# --- load ------------------------------------------------------------------------------------


@dataclass
class Sample:
    """One measurement; what a case does not measure stays None."""

    rps: float = None
    cpu_us: float = None
    p50_ms: float = None
    p99_ms: float = None
    pss_mib: float = None
    kib_per_connection: float = None
    errors: int = 0


def load(command):
    result = subprocess.run(
        ["taskset", "-c", str(LOAD_CORE), *command], capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}\nexit code {result.returncode}\n{result.stderr}{result.stdout}")
    return result.stdout


def milliseconds(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000}[unit]


def wrk(url, seconds, connections, *fields):
    more = [text for field in fields for text in ("-H", field)]
    out = load(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "--latency", *more, url]
    )
    requests, took = re.search(r"(\d+) requests in ([\d.]+\w+),", out).groups()
    errors = sum(int(n) for n in re.findall(r"(?:Non-2xx or 3xx responses:) (\d+)", out))
    socket_errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
    if socket_errors:
        errors += sum(int(n) for n in socket_errors.groups())
    return (
        int(requests),
        milliseconds(took) / 1000,
        milliseconds(re.search(r"^\s+50%\s+(\S+)", out, re.M).group(1)),
        milliseconds(re.search(r"^\s+99%\s+(\S+)", out, re.M).group(1)),
        errors,
    )


def h2load(url, seconds, connections):
    port = url.split(":")[2].split("/")[0]
    with tempfile.NamedTemporaryFile() as log:
        out = load(
            ["h2load", "-t1", f"-c{connections}", "-m16", f"-D{seconds}",
             f"--connect-to=127.0.0.1:{port}", f"--log-file={log.name}", url]
        )
        rows = [line.split() for line in Path(log.name).read_text().splitlines()]
    if "Application protocol: h2" not in out:
        sys.exit(f"not HTTP/2:\n{out}")
    times = sorted(int(row[2]) / 1000 for row in rows)
    failed = int(re.search(r"(\d+) failed", out).group(1)) + int(re.search(r"(\d+) 5xx", out).group(1))
    return len(times), float(seconds), percentile(times, 50), percentile(times, 99), failed


def percentile(ordered, percent):
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def hey(url, seconds, connections):
    # hey takes the Host header as the name in the handshake: without `-host` it has the port.
    out = load(
        ["hey", "-cpus", "1", "-disable-keepalive", "-host", "localhost", "-z", f"{seconds}s",
         "-c", str(connections), url]
    )
    codes = {int(code): int(n) for code, n in re.findall(r"\[(\d+)\]\s+(\d+) responses", out)}
    errors = sum(n for code, n in codes.items() if code != 200)
    errors += sum(int(n) for n in re.findall(r"^\s+\[(\d+)\]\s+\w+ \"?https", out, re.M))
    took = float(re.search(r"Total:\s+([\d.]+) secs", out).group(1))
    # Of fewer than a hundred requests hey gives no 99 %: then it is the slowest.
    slowest = re.search(r"Slowest:\s+([\d.]+) secs", out)
    quantiles = [re.search(rf"{p}% in ([\d.]+) secs", out) or slowest for p in (50, 99)]
    p50, p99 = (float(found.group(1)) * 1000 if found else 0.0 for found in quantiles)
    return sum(codes.values()), took, p50, p99, errors


def measure_load(program, generate, url, seconds, connections, *fields):
    generate(url, 1, connections, *fields)  # Warm: connections to the origin, allocator, caches.
    before = program.cpu_seconds()
    requests, took, p50, p99, errors = generate(url, seconds, connections, *fields)
    used = program.cpu_seconds() - before
    if not requests:
        sys.exit(f"{program.name}: not one request of {url} finished within {seconds} s")
    return Sample(
        rps=requests / took,
        cpu_us=used / requests * 1e6,
        p50_ms=p50,
        p99_ms=p99,
        pss_mib=program.pss_kib() / 1024,
        errors=errors,
    )


def measure_idle(program, port, tls, count):
    """Connections that made one request each and then stay open without a word."""
    context = None
    if tls:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE

    def open_one():
        connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        if context:
            connection = context.wrap_socket(connection, server_hostname="localhost")
        connection.sendall(b"GET /1k HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while b"\r\n\r\n" not in answer or len(answer.split(b"\r\n\r\n", 1)[1]) < 1024:
            chunk = connection.recv(4096)
            if not chunk:
                sys.exit(f"{program.name} closed an idle connection")
            answer += chunk
        return connection

    warm = [open_one() for _ in range(20)]
    settle(program)
    before = program.pss_kib()
    connections = [open_one() for _ in range(count)]
    settle(program)
    after = program.pss_kib()
    for connection in warm + connections:
        connection.close()
    return Sample(pss_mib=after / 1024, kib_per_connection=(after - before) / count)


def settle(program):
    """Waits until memory is still for half a second, at most 10 s."""
    deadline = time.monotonic() + 10
    last = -1
    while time.monotonic() < deadline:
        now = program.pss_kib()
        if now == last:
            return
        last = now
        time.sleep(0.5)


CASES = {
    "h1": "keep-alive, HTTP/1.1, 1 KiB, 64 connections",
    "tls-h1": "keep-alive, TLS, HTTP/1.1, 1 KiB, 64 connections",
    "tls-h2": "TLS, HTTP/2, 1 KiB, 8 connections of 16 streams",
    "tls-new": "a new TLS connection for every request, 1 KiB, 16 at a time",
    "h1-1m": "keep-alive, HTTP/1.1, 1 MiB, 16 connections",
    "tls-h1-1m": "keep-alive, TLS, HTTP/1.1, 1 MiB, 16 connections",
    "idle": "idle connections",
    "idle-tls": "idle TLS connections",
}


def measure(case, program, site, arguments):
    http, https = f"http://localhost:{site.http}", f"https://localhost:{site.https}"
    seconds = arguments.seconds
    match case:
        case "h1":
            return measure_load(program, wrk, f"{http}/1k", seconds, 64)
        case "tls-h1":
            return measure_load(program, wrk, f"{https}/1k", seconds, 64)
        case "tls-h2":
            return measure_load(program, h2load, f"{https}/1k", seconds, 8)
        case "tls-new":
            return measure_load(program, hey, f"{https}/1k", seconds, 16)
        case "h1-1m":
            return measure_load(program, wrk, f"{http}/1m", seconds, 16)
        case "tls-h1-1m":
            return measure_load(program, wrk, f"{https}/1m", seconds, 16)
        case "idle":
            return measure_idle(program, site.http, False, arguments.idle)
        case "idle-tls":
            return measure_idle(program, site.https, True, arguments.idle)


# --- report ----------------------------------------------------------------------------------

COLUMNS = [
    ("rps", "req/s", 0),
    ("cpu_us", "CPU µs/req", 1),
    ("p50_ms", "p50 ms", 2),
    ("p99_ms", "p99 ms", 2),
    ("pss_mib", "PSS MiB", 1),
    ("kib_per_connection", "KiB/connection", 2),
]


def table(case, title, samples):
    """One table; a cell is `median (ratio to nginx; min..max)`."""
    columns = [c for c in COLUMNS if getattr(next(iter(samples.values()))[0], c[0]) is not None]
    lines = [f"\n### {case}: {title}\n"]
    lines.append("| proxy | " + " | ".join(name for _, name, _ in columns) + " | errors |")
    lines.append("|---" + "|---:" * (len(columns) + 1) + "|")
    for proxy, rounds in samples.items():
        cells = []
        for key, _, digits in columns:
            values = [getattr(sample, key) for sample in rounds]
            median = statistics.median(values)
            notes = []
            if "nginx" in samples and proxy != "nginx":
                base = statistics.median(getattr(sample, key) for sample in samples["nginx"])
                notes.append(f"{median / base:.2f}×" if base else "–")
            if len(values) > 1:
                notes.append(f"{min(values):.{digits}f}..{max(values):.{digits}f}")
            cells.append(f"{median:.{digits}f}" + (f" ({'; '.join(notes)})" if notes else ""))
        errors = sum(sample.errors for sample in rounds)
        lines.append(f"| {proxy} | " + " | ".join(cells) + f" | {errors} |")
    print("\n".join(lines), flush=True)


def version(proxy, path):
    command = {
        "nginx": ["nginx", "-v"],
        "haproxy": ["haproxy", "-v"],
        "caddy": ["caddy", "version"],
        "cutover": [str(path), "version"],
    }[proxy]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    text = (result.stdout + result.stderr).strip()
    return text.splitlines()[0] if text else "?"


def describe(arguments):
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    print(f"{model.group(1) if model else platform.machine()}, {os.cpu_count()} cores, "
          f"Linux {platform.release()}, load before: {os.getloadavg()[0]:.2f}")
    for proxy in arguments.proxies:
        print(f"- {proxy}: {version(proxy, arguments.cutover)}")
    print(f"\n{arguments.rounds} interleaved rounds of {arguments.seconds} s; "
          "median (ratio to nginx; min..max)")


def names(known):
    def parse(text):
        chosen = text.split(",")
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return chosen

    return parse


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of load per measurement")
    parser.add_argument("--only", type=names(CASES), default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--proxies", type=names(PROXIES), default=list(PROXIES))
    parser.add_argument("--idle", type=int, default=2000, help="idle connections to open")
    parser.add_argument("--cutover", type=Path, default=ROOT / "target/release/cutover")
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    arguments = parser.parse_args()
    if "cutover" in arguments.proxies and not arguments.cutover.exists():
        parser.error(f"{arguments.cutover} is not there: cargo build --release, or --proxies without it")
    if len(os.sched_getaffinity(0)) < 2:
        parser.error("two cores are needed: one for the proxy, one for the load and the origin")
    return arguments


def main():
    arguments = parse_arguments()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.sched_setaffinity(0, {LOAD_CORE})
    describe(arguments)
    samples = {case: {proxy: [] for proxy in arguments.proxies} for case in arguments.only}
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # The origin's worker may run as another user.
        cert, key = certificate(folder)
        (origin_port,) = free_ports(1)
        site = Site(folder, origin_port, cert, key, arguments.cutover)
        with Program("origin", origin(site), LOAD_CORE, folder / "origin.log") as upstream:
            upstream.wait_listening(origin_port)
            for case in arguments.only:
                for turn in range(arguments.rounds):
                    shift = turn % len(arguments.proxies)
                    for proxy in arguments.proxies[shift:] + arguments.proxies[:shift]:
                        samples[case][proxy].append(one(case, proxy, site, arguments))
                table(case, CASES[case], samples[case])
    if arguments.json:
        plain = {
            case: {proxy: [asdict(s) for s in rounds] for proxy, rounds in by.items()}
            for case, by in samples.items()
        }
        arguments.json.write_text(json.dumps(plain, indent=1))
    failed = any(s.errors for by in samples.values() for rounds in by.values() for s in rounds)
    sys.exit(1 if failed else 0)


def one(case, proxy, site, arguments):
    site.http, site.https, site.spare = free_ports(3)
    command, env = PROXIES[proxy](site)
    with Program(proxy, command, PROXY_CORE, site.folder / f"{proxy}.log", env) as program:
        program.wait_listening(site.http, site.https)
        return measure(case, program, site, arguments)


def certificate(folder):
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, capture_output=True,
    )
    return cert, key


if __name__ == "__main__":
    main()
