"""Reads an event stream and checks that events come one by one, not in a heap at the end.

sse_client.py HOST:PORT COUNT EVERY_MS  prints "ok"
"""
import http.client
import sys
import time

address, count, every_ms = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
connection = http.client.HTTPConnection(address, timeout=20)
connection.request("GET", f"/sse?n={count}&every_ms={every_ms}", headers={"Accept": "text/event-stream"})
response = connection.getresponse()
assert response.status == 200, response.status
assert response.getheader("Content-Type") == "text/event-stream"
times = []
while len(times) < count:
    line = response.readline()
    assert line, f"the stream ended after {len(times)} events"
    if line.startswith(b"data:"):
        assert line == f"data: event {len(times)}\n".encode(), line
        times.append(time.monotonic())
# Had they been held back, all would have come at once.
spread = times[-1] - times[0]
assert spread > 0.5 * every_ms / 1000 * (count - 1), f"all events within {spread:.3f} s"
print("ok")
