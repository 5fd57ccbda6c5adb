#!/usr/bin/env python3
"""What the verdict costs: two cutovers in front of one origin, one that judges the release it
serves and one with `rollback.mode = "off"`, asked in turns. Processor time per request of each
pair of turns is compared, so what else the machine does weighs on both.

    cargo build --release --bins && scripts/bench_verdict.py [--rounds 20]
"""

import argparse
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median, quantiles

from bench_peers import Program, Site, ROOT, free_ports, origin, wrk

CONNECTIONS = 32


def config(folder, mode, http, ops, origin_port):
    folder.mkdir()
    path = folder / "cutover.toml"
    path.write_text(
        f"""state_dir = "{folder}/state"
shutdown_grace = "1s"
[listen]
http = ["127.0.0.1:{http}"]
https = []
ops = "127.0.0.1:{ops}"
admin = "{folder}/run/admin.sock"
[log.access]
enabled = false
[rollback]
mode = "{mode}"
[[site]]
default = true
tls = "off"
service = "origin"
[service.origin]
blue = ["127.0.0.1:{origin_port}"]
green = ["127.0.0.1:{origin_port}"]
health = {{ path = "/1k" }}
switch = {{ observe = "30m" }}
"""
    )
    return path


def turn(program, port, seconds):
    before = program.cpu_seconds()
    requests, *_, errors = wrk(f"http://127.0.0.1:{port}/1k", seconds, CONNECTIONS)
    if errors:
        raise SystemExit(f"{program.name}: {errors} errors")
    return (program.cpu_seconds() - before) / requests * 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="pairs of turns")
    parser.add_argument("--seconds", type=int, default=3, help="of each turn")
    parser.add_argument("--bin", type=Path, default=ROOT / "target/release")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        folder = Path(folder)
        folder.chmod(0o755)  # The origin's worker may run as another user.
        ports = free_ports(5)
        site = Site(folder, ports[0], None, None, chosen.bin / "cutover")
        server = stack.enter_context(Program("origin", origin(site), 1, folder / "origin.log"))
        server.wait_listening(ports[0])
        programs = []
        for mode, http, ops in (("off", *ports[1:3]), ("enforce", *ports[3:5])):
            path = config(folder / mode, mode, http, ops, ports[0])
            command = [str(chosen.bin / "cutover"), "run", "--config", str(path)]
            env = {"CUTOVER_THREADS": "1"}
            program = stack.enter_context(Program(mode, command, 0, folder / f"{mode}.log", env))
            program.wait_listening(http)
            wrk(f"http://127.0.0.1:{http}/1k", 3, CONNECTIONS)
            admin = f"{folder / mode}/run/admin.sock"
            subprocess.run(
                [chosen.bin / "proxyctl", "--addr", admin, "switch", "green", "--no-wait"],
                check=True, stdout=subprocess.DEVNULL,
            )
            wrk(f"http://127.0.0.1:{http}/1k", 1, CONNECTIONS)
            programs.append((program, http))
        pairs = []
        for number in range(chosen.rounds):
            order = programs if number % 2 == 0 else programs[::-1]
            costs = {program.name: turn(program, port, chosen.seconds) for program, port in order}
            pairs.append((costs["off"], costs["enforce"]))
            print(f"{number + 1}: off {pairs[-1][0]:.2f} µs, on {pairs[-1][1]:.2f} µs", flush=True)
    ratios = sorted(on / off for off, on in pairs)
    low, _, high = quantiles(ratios, n=4)
    print(
        f"CPU per request: off {median(off for off, _ in pairs):.2f} µs, "
        f"on {median(on for _, on in pairs):.2f} µs; "
        f"ratio {median(ratios):.4f} (middle half {low:.4f} to {high:.4f})"
    )


if __name__ == "__main__":
    main()
