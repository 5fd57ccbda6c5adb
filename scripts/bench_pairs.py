#!/usr/bin/env python3
"""What one thing costs: two cutovers in front of one origin, one with it and one without, asked in
turns. Processor time per request of each pair of turns is compared, so what else the machine does
weighs on both.

    cargo build --release --bins && scripts/bench_pairs.py CASE [--rounds 20]

    verdict  a release that is judged, beside `rollback.mode = "off"`
    routes   10,000 routes by path in the site that is asked, beside 10; the last of them is asked for
    hosts    10,000 sites, beside 10
    filters  other sites of the file use every kind of step and guard, beside none; the site that is
             asked uses none
    build    the program named with --other, beside this one
"""

import argparse
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median, quantiles

from bench_peers import Program, Site, ROOT, free_ports, origin, wrk

CONNECTIONS = 32
FEW, MANY = 10, 10_000

FILTERS = """
[[site]]
hosts = ["guarded.example"]
tls = "off"
service = "origin"
encode = true
security_headers = true
body_limit = "1MiB"

[site.access]
allow = ["127.0.0.0/8"]
[site.concurrency]
requests = 50
[site.rate_limit]
requests = 600
window = "1m"
[site.cors]
origins = ["https://app.example.com"]
[site.basic_auth.users]
alice = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2E$M3ZGbUcJsMtmPpEkZqGMvFZkcRQCWHyf2ZqJ9bqTdw4"
[site.request_header]
set = { X-A = "{host}" }
[site.response_header]
set = { X-B = "{request_id}" }
[site.rewrite]
strip_prefix = "/api"
"""


def routes(count):
    return "".join(
        f'[[site.route]]\npath = "/r{n}/*"\nservice = "origin"\nrewrite = {{ strip_prefix = "/r{n}" }}\n' for n in range(count)
    )


def sites(count):
    return "".join(f'[[site]]\nhosts = ["h{n}.example"]\ntls = "off"\nservice = "origin"\n' for n in range(count))


def case(name, chosen):
    """For each side: its name, its program, what its site has, what follows it, the rollback mode."""
    cutover = chosen.bin / "cutover"
    plain = ("without", cutover, "", "", "off")
    return {
        "verdict": (plain, ("with", cutover, "", "", "enforce")),
        "routes": (
            (f"{FEW}", cutover, routes(FEW), "", "off"),
            (f"{MANY}", cutover, routes(MANY), "", "off"),
        ),
        "hosts": ((f"{FEW}", cutover, "", sites(FEW), "off"), (f"{MANY}", cutover, "", sites(MANY), "off")),
        "filters": (plain, ("with", cutover, "", FILTERS, "off")),
        "build": (("other", chosen.other, "", "", "off"), ("this", cutover, "", "", "off")),
    }[name]


def config(folder, http, ops, origin_port, of_site, after, mode):
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
{of_site}{after}
[service.origin]
blue = ["127.0.0.1:{origin_port}"]
green = ["127.0.0.1:{origin_port}"]
health = {{ path = "/1k" }}
switch = {{ observe = "30m" }}
"""
    )
    return path


def turn(program, url, seconds):
    before = program.cpu_seconds()
    requests, *_, errors = wrk(url, seconds, CONNECTIONS)
    if errors:
        raise SystemExit(f"{program.name}: {errors} errors")
    return (program.cpu_seconds() - before) / requests * 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=["verdict", "routes", "hosts", "filters", "build"])
    parser.add_argument("--rounds", type=int, default=20, help="pairs of turns")
    parser.add_argument("--seconds", type=int, default=3, help="of each turn")
    parser.add_argument("--bin", type=Path, default=ROOT / "target/release")
    parser.add_argument("--other", type=Path, help="the program of case `build`")
    chosen = parser.parse_args()
    if (chosen.case == "build") != bool(chosen.other):
        parser.error("--other belongs to the case `build`")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        folder = Path(folder)
        folder.chmod(0o755)  # The origin's worker may run as another user.
        ports = free_ports(5)
        site = Site(folder, ports[0], None, None, chosen.bin / "cutover")
        server = stack.enter_context(Program("origin", origin(site), 1, folder / "origin.log"))
        server.wait_listening(ports[0])
        programs = []
        for side, http, ops in zip(case(chosen.case, chosen), ports[1:3], ports[3:5]):
            name, binary, of_site, after, mode = side
            path = config(folder / name, http, ops, ports[0], of_site, after, mode)
            count = of_site.count("[[site.route]]")
            url = f"http://127.0.0.1:{http}" + (f"/r{count - 1}" if count else "") + "/1k"
            command = [str(binary), "run", "--config", str(path)]
            env = {"CUTOVER_THREADS": "1"}
            program = stack.enter_context(Program(name, command, 0, folder / f"{name}.log", env))
            program.wait_listening(http)
            wrk(url, 3, CONNECTIONS)
            if chosen.case == "verdict":
                admin = f"{folder / name}/run/admin.sock"
                subprocess.run(
                    [chosen.bin / "proxyctl", "--addr", admin, "switch", "green", "--no-wait"],
                    check=True, stdout=subprocess.DEVNULL,
                )
                wrk(url, 1, CONNECTIONS)
            programs.append((program, url))
        base, more = (program.name for program, _ in programs)
        pairs = []
        for number in range(chosen.rounds):
            order = programs if number % 2 == 0 else programs[::-1]
            costs = {program.name: turn(program, url, chosen.seconds) for program, url in order}
            pairs.append((costs[base], costs[more]))
            print(f"{number + 1}: {base} {pairs[-1][0]:.2f} µs, {more} {pairs[-1][1]:.2f} µs", flush=True)
    ratios = sorted(b / a for a, b in pairs)
    low, _, high = quantiles(ratios, n=4)
    print(
        f"CPU per request: {base} {median(a for a, _ in pairs):.2f} µs, "
        f"{more} {median(b for _, b in pairs):.2f} µs; "
        f"ratio {median(ratios):.4f} (middle half {low:.4f} to {high:.4f})"
    )


if __name__ == "__main__":
    main()
