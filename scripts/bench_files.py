#!/usr/bin/env python3
"""cutover's static files beside nginx and caddy, and its compression beside both.

    scripts/bench_files.py [--rounds 5] [--seconds 5] [--only CASE,...] [--proxies NAME,...]

As bench_peers.py, of which it is made: one worker each, the server on one core and the load on
another, interleaved rounds, medians and ratios to nginx. The files are in the page cache. nginx sends
them with sendfile and without a cache of open files; for the compression cases the same file is
compressed anew for each request, with the level that is each one's default in its class (gzip 5,
zstd 3, brotli 4). nginx has no zstd and, as Debian builds it, no brotli; caddy 2.6 has no brotli.
"""

import argparse
import os
import random
import resource
import sys
import tempfile
from pathlib import Path

import bench_peers as peers
from bench_peers import LOAD_CORE, PROXY_CORE, Program, Site, free_ports, wrk

CASES = {
    "1k": ("a file of 1 KiB, 64 connections", "/1k.bin", 64, None, None),
    "100k": ("a file of 100 KiB, 64 connections", "/100k.bin", 64, None, None),
    "10m": ("a file of 10 MiB, 8 connections", "/10m.bin", 8, None, None),
    "gzip": ("100 KiB of text as gzip, 16 connections", "/100k.txt", 16, "gzip", None),
    "zstd": ("100 KiB of text as zstd, 16 connections", "/100k.txt", 16, "zstd", {"nginx"}),
    "br": ("100 KiB of text as brotli, 16 connections", "/100k.txt", 16, "br", {"nginx", "caddy"}),
}


def write_files(folder):
    """Bytes that do not compress, and text that does about as well as a page."""
    files = folder / "files"
    files.mkdir()
    rng = random.Random(1)
    for name, size in [("1k", 1 << 10), ("100k", 100 << 10), ("10m", 10 << 20)]:
        (files / f"{name}.bin").write_bytes(rng.randbytes(size))
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(2000)]
    text = ""
    while len(text) < 100 << 10:
        text += f"<p class=\"{rng.choice(words)}\">{' '.join(rng.choices(words, k=12))}</p>\n"
    (files / "100k.txt").write_text(text[: 100 << 10])
    return files


def nginx(site, files):
    path = site.write(
        "nginx.conf",
        f"""worker_processes 1; pid {site.folder}/nginx.pid;
events {{ worker_connections 16000; }}
http {{
{peers.nginx_base(site, "nginx")}
sendfile on; tcp_nopush on; etag on;
types {{ text/plain txt; }}
gzip on; gzip_comp_level 5; gzip_types text/plain; gzip_min_length 512;
server {{ listen 127.0.0.1:{site.http}; root {files}; }}
}}
""",
    )
    return peers.nginx_command(path), {}


def caddy(site, files):
    path = site.write(
        "Caddyfile",
        f"""{{
  admin off
  auto_https off
}}
http://localhost:{site.http} {{
  root * {files}
  encode zstd gzip
  file_server
}}
""",
    )
    home = {"GOMAXPROCS": "1", "XDG_DATA_HOME": str(site.folder), "XDG_CONFIG_HOME": str(site.folder)}
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(path)], home


def cutover(site, files):
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
hosts = ["localhost"]
redirect = false
tls = "off"
root = "{files}"
encode = true
files = true
""",
    )
    return [str(site.cutover), "run", "--config", str(path)], {"CUTOVER_THREADS": "1"}


SERVERS = {"nginx": nginx, "caddy": caddy, "cutover": cutover}


def one(case, server, site, files, seconds):
    site.http, site.https, site.spare = free_ports(3)
    command, env = SERVERS[server](site, files)
    _, path, connections, coding, _ = CASES[case]
    fields = [f"Accept-Encoding: {coding}"] if coding else []
    with Program(server, command, PROXY_CORE, site.folder / f"{server}.log", env) as program:
        program.wait_listening(site.http)
        url = f"http://localhost:{site.http}{path}"
        return peers.measure_load(program, wrk, url, seconds, connections, *fields)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of load per measurement")
    parser.add_argument("--only", type=peers.names(CASES), default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--proxies", type=peers.names(SERVERS), default=list(SERVERS))
    parser.add_argument("--cutover", type=Path, default=peers.ROOT / "target/release/cutover")
    arguments = parser.parse_args()
    if "cutover" in arguments.proxies and not arguments.cutover.exists():
        parser.error(f"{arguments.cutover} is not there: cargo build --release")
    if len(os.sched_getaffinity(0)) < 2:
        parser.error("two cores are needed: one for the server, one for the load")
    return arguments


def main():
    arguments = parse_arguments()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.sched_setaffinity(0, {LOAD_CORE})
    peers.describe(arguments)
    failed = False
    with tempfile.TemporaryDirectory(prefix="bench-files-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # nginx's worker may run as another user.
        files = write_files(folder)
        site = Site(folder, 0, folder, folder, arguments.cutover)
        for case in arguments.only:
            title, _, _, _, cannot = CASES[case]
            servers = [server for server in arguments.proxies if server not in (cannot or ())]
            if not servers:
                continue
            samples = {server: [] for server in servers}
            for turn in range(arguments.rounds):
                shift = turn % len(servers)
                for server in servers[shift:] + servers[:shift]:
                    samples[server].append(one(case, server, site, files, arguments.seconds))
            peers.table(case, title, samples)
            failed |= any(s.errors for rounds in samples.values() for s in rounds)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
