#!/usr/bin/env python3
"""The evidence tests of src/switch/evidence by their definition, slowly: one likelihood ratio for
each start and each alternative. Writes the streams that the Rust tests are compared with:

    python3 tests/golden/reference.py

Needs nothing but Python 3. Each file: a comment with the settings, then one line a tick.
"""

import math
import os
import random

ALPHA_SLOW = 3e-5
K = 8
EVERY = 15.0
BAD_SECONDS = 5
Q_FAST = 0.9
TICK = 0.25


class EProcess:
    def __init__(self, limit, horizon):
        low = math.log(1.3 * limit)
        high = math.log(max(0.95, min(0.99, 2 * limit)))
        rates = [min(0.99, math.exp(low + (high - low) * j / (K - 1))) for j in range(K)]
        self.failure = [math.log(q / limit) for q in rates]
        self.success = [math.log((1 - q) / (1 - limit)) for q in rates]
        count = max(1, math.ceil(horizon / EVERY))
        rest = 0.5 / max(1, count - 1)
        self.waiting = [(EVERY * s, (0.5 if count > 1 else 1.0) if s == 0 else rest) for s in range(count)]
        first = self.waiting[0][1]
        self.clip = (math.log(1 / ALPHA_SLOW) + math.log(K) - math.log(first)) / BAD_SECONDS
        self.running = []  # [weight, log-likelihood ratio of each alternative]
        self.current = [0.0] * K  # of the current part of a second, not clipped yet
        self.second = None

    def settle(self):
        for start in self.running:
            for j in range(K):
                start[1][j] += min(self.current[j], self.clip)
        self.current = [0.0] * K

    def tick(self, end, requests, failures):
        begun = end - 1e-9
        while self.waiting and self.waiting[0][0] < begun:
            self.settle()
            self.running.append([self.waiting.pop(0)[1], [0.0] * K])
        if self.second != int(begun):
            self.settle()
            self.second = int(begun)
        for j in range(K):
            self.current[j] += failures * self.failure[j] + (requests - failures) * self.success[j]
        logs = [
            math.log(weight / K) + ratios[j] + min(self.current[j], self.clip)
            for weight, ratios in self.running
            for j in range(K)
        ]
        top = max(logs)
        return top + math.log(math.fsum(math.exp(value - top) for value in logs))


def poisson(rng, mean):
    """Knuth's product of uniforms, in parts that do not underflow."""
    count = 0
    while mean > 0:
        part = min(mean, 30.0)
        mean -= part
        limit, product = math.exp(-part), rng.random()
        while product > limit:
            count += 1
            product *= rng.random()
    return count


STREAMS = {
    # name: (requests a second, limit, horizon in s, ticks, failure rate at a time)
    "sudden_5_percent": (50, 0.005, 300, 1200, lambda t: 0.001 if t < 100 else 0.05),
    "sudden_outage": (5, 0.0173, 300, 400, lambda t: 0.01 if t < 40 else 1.0),
    "healthy_busy": (500, 0.01, 300, 1200, lambda t: 0.008),
    "healthy_idle": (1, 0.005, 1800, 1200, lambda t: 0.001),
    "no_traffic": (0.05, 0.10, 300, 400, lambda t: 0.5),
    "all_fail_at_once": (200, 0.005, 1800, 200, lambda t: 1.0),
    "half_fails": (10, 0.02, 1800, 400, lambda t: 0.5),
    "one_to_three_percent": (200, 0.0172, 300, 1200, lambda t: 0.03),
    "at_the_limit": (100, 0.02, 300, 1200, lambda t: 0.02),
    "burst_then_well": (100, 0.005, 300, 800, lambda t: 0.8 if 10 < t < 13 else 0.0005),
    "short_bursts": (100, 0.005, 300, 1200, lambda t: 0.2 if int(t) % 20 == 0 else 0.0),
    "slow_rise": (80, 0.005, 600, 1600, lambda t: min(0.06, t / 6000)),
    "high_limit": (20, 0.45, 300, 800, lambda t: 0.3 if t < 60 else 0.9),
    "one_start": (20, 0.01, 10, 40, lambda t: 0.3),
}


def main():
    folder = os.path.dirname(os.path.abspath(__file__))
    for seed, (name, (rate, limit, horizon, ticks, profile)) in enumerate(STREAMS.items()):
        rng = random.Random(20261100 + seed)
        process = EProcess(limit, horizon)
        failure = math.log(Q_FAST / limit)
        success = math.log((1 - Q_FAST) / (1 - limit))
        value = 0.0
        with open(os.path.join(folder, name + ".csv"), "w") as out:
            out.write(f"# limit={limit} horizon={horizon}\nt,n,fail,log_e,w\n")
            for at in range(ticks):
                requests = poisson(rng, rate * TICK)
                failures = sum(rng.random() < profile(at * TICK) for _ in range(requests))
                end = (at + 1) * TICK
                evidence = process.tick(end, requests, failures)
                value = max(0.0, value + failures * failure + (requests - failures) * success)
                out.write(f"{end},{requests},{failures},{evidence:.12f},{value:.12f}\n")


if __name__ == "__main__":
    main()
