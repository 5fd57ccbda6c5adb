#!/usr/bin/env python3
"""The figures of docs/rollback.md: how long a bad release stays, how many users meet it, what the
old release is asked meanwhile.

Every row is a number of random streams of requests that `proxyctl judge --replay` decides: the
daemon's own code with its defaults. Writes docs/detection.csv, docs/detection.svg and the tables
between the markers in docs/rollback.md.

    cargo build --release --bins && scripts/rollback_figures.py [--runs 40]
"""

import argparse
import json
import math
import os
import random
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent.parent
HEADER = "t_ms,new_ok,new_fail,old_ok,old_fail,rescued_ok,rescued_fail"
TICKS = 4  # a second
BEFORE = 600  # seconds on the old release
BASE = 0.001  # share of its requests that fail
SAFE = 0.7  # share of the requests that may be asked twice
HORIZONS = (15, 60, 300, 1800)  # seconds that are watched, each if the one before did not suffice
RATES = (10, 100, 1000)
SHARES = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0)


def poisson(rng, mean):
    if mean > 30:
        return max(0, round(rng.gauss(mean, math.sqrt(mean))))
    limit, product, count = math.exp(-mean), rng.random(), 0
    while product > limit:
        product *= rng.random()
        count += 1
    return count


def binomial(rng, count, share):
    if share >= 1:
        return count
    if share <= 0 or count == 0:
        return 0
    if count * share > 50 and count * (1 - share) > 50:
        spread = math.sqrt(count * share * (1 - share))
        return min(count, max(0, round(rng.gauss(count * share, spread))))
    at, found = 0, 0
    while True:
        at += int(math.log(1 - rng.random()) / math.log(1 - share)) + 1
        if at > count:
            return found
        found += 1


class Bucket:
    """What the old release may be asked in a second."""

    def __init__(self, full, shrinks):
        self.full, self.rate, self.shrinks = full, full, shrinks

    def asks(self, wanted):
        return min(wanted, math.ceil(self.rate / TICKS))

    def learns(self, asked, failed):
        if self.shrinks and asked >= 3 and failed >= 0.2 * asked:
            self.rate //= 2
        else:
            self.rate = min(self.rate + self.full // 10 + 1, self.full)


class Stream:
    """One switch: its lines, and what became of the requests by the tick."""

    def __init__(self, seed, rate, share, old_fails, budget):
        self.rng = random.Random(seed)
        self.rate, self.share, self.old_fails = rate, share, old_fails
        self.lines = [HEADER]
        self.harmed, self.asked = [], []
        highest = 0
        for tick in range(BEFORE * TICKS):
            count = poisson(self.rng, rate / TICKS)
            failed = binomial(self.rng, count, BASE)
            highest = max(highest, count * TICKS)
            end = (tick + 1 - BEFORE * TICKS) * 1000 // TICKS
            self.lines.append(f"{end},0,0,{count - failed},{failed},0,0")
        self.bucket = budget(highest)
        self.tick, self.suspicious = 0, False

    def until(self, seconds):
        while self.tick < seconds * TICKS:
            self.tick += 1
            count = poisson(self.rng, self.rate / TICKS)
            failed = binomial(self.rng, count, self.share)
            asked = self.bucket.asks(binomial(self.rng, failed, SAFE))
            lost = binomial(self.rng, asked, self.old_fails)
            self.bucket.learns(asked, lost)
            self.suspicious |= failed > 0
            # Replayed GETs: a quarter of the load, 5 to 50 a second.
            probe = poisson(self.rng, min(max(0.25 * self.rate, 5), 50) / TICKS) * self.suspicious
            bad = binomial(self.rng, probe, self.old_fails)
            self.harmed.append(failed - asked + lost)
            self.asked.append(asked)
            self.lines.append(
                f"{self.tick * 1000 // TICKS},{count - failed},{failed},{probe - bad},{bad},"
                f"{asked - lost},{lost}"
            )

    def decided(self, proxyctl):
        """The decision, and the number of ticks that it took."""
        for seconds in HORIZONS:
            self.until(seconds)
            with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
                file.write("\n".join(self.lines) + "\n")
                file.flush()
                done = subprocess.run(
                    [proxyctl, "judge", "--replay", file.name, "--json"],
                    capture_output=True, text=True, check=True,
                )
            verdict = json.loads(done.stdout)
            if verdict["decision"] in ("rollback", "hold"):
                return verdict["decision"], verdict["t_ms"] * TICKS // 1000
        return "kept", None


def auto(highest):
    return Bucket(max(10, highest * 5 // 4), True)


def fifth(highest):
    return Bucket(highest // 5 + 10, False)


def cell(pool, proxyctl, runs, rate, share, old_fails=BASE, budget=auto):
    def one(seed):
        stream = Stream(f"{rate} {share} {seed}", rate, share, old_fails, budget)
        decision, ticks = stream.decided(proxyctl)
        harmed, asked = sum(stream.harmed[:ticks]), stream.asked[:ticks]
        seconds = [sum(asked[at : at + TICKS]) for at in range(0, len(asked), TICKS)]
        return decision, None if ticks is None else ticks / TICKS, harmed, sum(asked), max(seconds)

    return list(pool.map(one, range(runs)))


def middle(values):
    """Median where what never happened is the longest."""
    found = median(math.inf if value is None else value for value in values)
    return found if found < math.inf else None


def seconds(value):
    if value is None:
        return "not in 30 min"
    return f"{value:.2f} s".replace(".00 s", " s") if value < 10 else f"{value:.0f} s"


def detection(pool, proxyctl, runs):
    rows = []
    for rate in RATES:
        for share in SHARES:
            found = cell(pool, proxyctl, runs, rate, share)
            delays = sorted(math.inf if delay is None else delay for _, delay, *_ in found)
            late = delays[int(0.9 * (runs - 1))]
            rows.append({
                "requests_per_second": rate, "error_rate": share, "runs": runs,
                "rolled_back": sum(what == "rollback" for what, *_ in found),
                "median_s": middle(delays),
                "nine_of_ten_s": late if late < math.inf else None,
                "users_harmed": median(harmed for _, _, harmed, *_ in found),
            })
            print(rows[-1], flush=True)
    return rows


def table(rows):
    lines = [
        "| requests/s | errors | undone | median | 9 of 10 within | users who saw an error |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['requests_per_second']} | {row['error_rate']:.0%} "
            f"| {row['rolled_back']} of {row['runs']} | {seconds(row['median_s'])} "
            f"| {seconds(row['nine_of_ten_s'])} | {row['users_harmed']:.0f} |"
        )
    return "\n".join(lines)


def budgets(pool, proxyctl, runs):
    lines = [
        "| requests/s | release | budget | decision | after | users who saw an error | asked of the old release | most in a second |",
        "|---:|---|---|---|---:|---:|---:|---:|",
    ]
    for rate in RATES:
        for share, old, name in ((1.0, BASE, "fails all"), (0.2, BASE, "fails 20 %"), (1.0, 1.0, "shared outage")):
            for budget, what in ((auto, "1.25 ×"), (fifth, "20 % + 10/s")):
                found = cell(pool, proxyctl, runs, rate, share, old, budget)
                decisions = sorted({decision for decision, *_ in found})
                harmed, asked, most = (median(row[at] for row in found) for at in (2, 3, 4))
                lines.append(
                    f"| {rate} | {name} | {what} | {', '.join(decisions)} "
                    f"| {seconds(middle([row[1] for row in found]))} "
                    f"| {harmed:.0f} | {asked:.0f} | {most:.0f} |"
                )
                print(lines[-1], flush=True)
    return "\n".join(lines)


def plot(rows):
    """Detection delay over error rate, both axes logarithmic."""
    width, height, left, top, right, bottom = 720, 430, 70, 46, 110, 56
    (x0, x1), (y0, y1) = (0.01, 1.0), (0.5, 1800.0)

    def x(value):
        return left + (width - left - right) * math.log(value / x0) / math.log(x1 / x0)

    def y(value):
        return height - bottom - (height - top - bottom) * math.log(value / y0) / math.log(y1 / y0)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="13" fill="#1f2328">',
        "<title>How long a bad release stays, by the share of its requests that fail</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{left}" y="24" font-size="15" font-weight="600">'
        "From the switch to the rollback (median)</text>",
    ]
    for value, label in ((0.01, "1 %"), (0.02, "2 %"), (0.05, "5 %"), (0.1, "10 %"), (0.2, "20 %"), (0.5, "50 %"), (1, "100 %")):
        out.append(f'<line x1="{x(value):.1f}" y1="{top}" x2="{x(value):.1f}" y2="{height - bottom}" stroke="#e5e8eb"/>')
        out.append(f'<text x="{x(value):.1f}" y="{height - bottom + 20}" text-anchor="middle">{label}</text>')
    for value, label in ((1, "1 s"), (5, "5 s"), (15, "15 s"), (60, "1 min"), (300, "5 min"), (1800, "30 min")):
        out.append(f'<line x1="{left}" y1="{y(value):.1f}" x2="{width - right}" y2="{y(value):.1f}" stroke="#e5e8eb"/>')
        out.append(f'<text x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{label}</text>')
    out.append(f'<text x="{(left + width - right) / 2:.0f}" y="{height - 12}" text-anchor="middle">requests of the new release that fail</text>')
    for rate, color in zip(RATES, ("#8250df", "#0969da", "#bc4c00")):
        points = [
            (x(row["error_rate"]), y(row["median_s"]))
            for row in rows
            if row["requests_per_second"] == rate and row["median_s"] is not None
        ]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        out += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{color}"/>' for a, b in points]
        a, b = points[0]
        out.append(f'<text x="{a + 8:.1f}" y="{b - 8:.1f}" fill="{color}">{rate} requests/s</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


def put(text, name, table_text):
    begin, end = f"<!-- {name}: scripts/rollback_figures.py -->", f"<!-- end of {name} -->"
    head, rest = text.split(begin)
    _, tail = rest.split(end)
    return f"{head}{begin}\n{table_text}\n{end}{tail}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=40, help="streams for each row")
    parser.add_argument("--proxyctl", default=str(HERE / "target/release/proxyctl"))
    chosen = parser.parse_args()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = detection(pool, chosen.proxyctl, chosen.runs)
        budget = budgets(pool, chosen.proxyctl, max(1, chosen.runs // 4))
    names = list(rows[0])
    lines = [",".join(names)] + [
        ",".join("" if row[name] is None else str(row[name]) for name in names) for row in rows
    ]
    (HERE / "docs/detection.csv").write_text("\n".join(lines) + "\n")
    (HERE / "docs/detection.svg").write_text(plot(rows))
    page = HERE / "docs/rollback.md"
    text = put(page.read_text(), "detection", table(rows))
    page.write_text(put(text, "budget", budget))


if __name__ == "__main__":
    main()
