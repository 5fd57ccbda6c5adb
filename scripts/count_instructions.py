#!/usr/bin/env python3
"""Instructions of one request, counted by valgrind's callgrind: what a busy machine cannot blur.

    cargo build --release --bins && scripts/count_instructions.py [--other BIN] [CASE...]

cutover runs with one worker in front of nginx, over HTTP/1.1 on kept connections. A run with 2,500
requests and one with 500 are compared, so that the start is not counted. User space only; the
kernel's part is the same in all cases.

    other        the program named with --other, such as an older build, with the plain file
    plain        one site, one service, nothing else
    filters      the same; another site of the file uses every kind of step and guard
    routes-10    10 routes by path; the last one is asked for
    routes-10000 10,000 of them
    hosts-10000  10,000 more sites
"""

import argparse
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import bench_peers
from bench_pairs import FEW, FILTERS, MANY, config, routes, sites
from bench_peers import PROXY_CORE, ROOT, Program, Site, free_ports, load, origin

# Under valgrind a start takes long.
bench_peers.PATIENCE = 120.0

CONNECTIONS = 4
FEWER, MORE = 500, 2_500
# Seconds between the first request and the end: background work is the same in both runs.
LIFE = 20


def cases(chosen):
    cutover = chosen.bin / "cutover"
    return {
        "other": (chosen.other, "", "", ""),
        "plain": (cutover, "", "", ""),
        "filters": (cutover, "", FILTERS, ""),
        f"routes-{FEW}": (cutover, routes(FEW), "", f"/r{FEW - 1}"),
        f"routes-{MANY}": (cutover, routes(MANY), "", f"/r{MANY - 1}"),
        f"hosts-{MANY}": (cutover, "", sites(MANY), ""),
    }


def instructions(binary, of_site, after, prefix, requests):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        folder.chmod(0o755)  # The origin's worker may run as another user.
        origin_port, http, ops = free_ports(3)
        site = Site(folder, origin_port, None, None, binary)
        path = config(folder / "edge", http, ops, origin_port, of_site, after, "off")
        counted = folder / "callgrind.out"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={counted}", str(binary)]
        command += ["run", "--config", str(path)]
        server = Program("origin", origin(site), 1, folder / "origin.log")
        edge = Program("edge", command, PROXY_CORE, folder / "edge.log", {"CUTOVER_THREADS": "1"})
        with server, edge:
            server.wait_listening(origin_port)
            edge.wait_listening(http)
            begun = time.monotonic()
            url = f"http://127.0.0.1:{http}{prefix}/1k"
            told = load(["h2load", "--h1", "-n", str(requests), "-c", str(CONNECTIONS), "-t", "1", url])
            if f"{requests} succeeded" not in told:
                raise SystemExit(told)
            time.sleep(max(0.0, LIFE - (time.monotonic() - begun)))
            edge.process.send_signal(signal.SIGTERM)
            edge.process.wait(60)
        return int(re.search(r"^summary: (\d+)", counted.read_text(), re.M).group(1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", help="all of them without one")
    parser.add_argument("--bin", type=Path, default=ROOT / "target/release")
    parser.add_argument("--other", type=Path)
    chosen = parser.parse_args()
    known = cases(chosen)
    if not chosen.other:
        del known["other"]
    unknown = set(chosen.case) - set(known)
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}")
    for name in chosen.case or known:
        fewer, more = (instructions(*known[name], requests) for requests in (FEWER, MORE))
        print(f"{name}: {(more - fewer) / (MORE - FEWER):,.0f} instructions per request", flush=True)


if __name__ == "__main__":
    main()
