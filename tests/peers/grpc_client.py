#!/usr/bin/env python3
"""gRPC through the proxy: `grpc_client.py HOST:PORT [--ca FILE] [--authority NAME]`.

The proxy leads to `grpc_server.py`. With `--ca` the connection is TLS, else h2c by prior
knowledge. Prints one JSON line; exit code 0 if every check passed.
"""

import argparse
import os
import queue

import grpc

from peer import Checks, equal, expect

TIMEOUT = 15
MIB = 1 << 20


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--ca", help="trusted certificate (PEM); makes it TLS")
    parser.add_argument("--authority", help="name to send and to verify instead of the target's")
    arguments = parser.parse_args()
    options = [("grpc.enable_http_proxy", 0)]
    if arguments.authority:
        options.append(("grpc.default_authority", arguments.authority))
        if arguments.ca:
            options.append(("grpc.ssl_target_name_override", arguments.authority))
    if arguments.ca:
        with open(arguments.ca, "rb") as file:
            credentials = grpc.ssl_channel_credentials(file.read())
        channel = grpc.secure_channel(arguments.target, credentials, options)
    else:
        channel = grpc.insecure_channel(arguments.target, options)

    checks = Checks("grpc")
    with channel:
        checks.run("unary", unary, channel)
        checks.run("metadata_and_trailers", metadata, channel)
        checks.run("large_message", large_message, channel)
        checks.run("server_stream", server_stream, channel)
        checks.run("client_stream", client_stream, channel)
        checks.run("bidi_interleaved", bidi_interleaved, channel)
        checks.run("trailers_only_error", trailers_only_error, channel)
        checks.run("error_after_message", error_after_message, channel)
        checks.run("deadline", deadline, channel)
        checks.run("many_at_once", many_at_once, channel)
    checks.finish()


def unary(channel):
    call = channel.unary_unary("/test.Echo/Unary")
    for message in [b"", b"hello"]:
        equal(call(message, timeout=TIMEOUT), message, "echo")


def metadata(channel):
    call = channel.unary_unary("/test.Echo/Unary")
    _, done = call.with_call(b"x", timeout=TIMEOUT, metadata=(("x-sent", "value"),))
    equal(dict(done.initial_metadata()).get("x-seen"), "value", "request metadata")
    equal(dict(done.trailing_metadata()).get("x-trailer-bin"), b"\x00\xff\x01", "binary trailer")
    equal(done.code(), grpc.StatusCode.OK, "status")


def large_message(channel):
    message = os.urandom(MIB)
    answer = channel.unary_unary("/test.Echo/Unary")(message, timeout=TIMEOUT)
    expect(answer == message, "1 MiB did not come back as sent")


def server_stream(channel):
    answers = list(channel.unary_stream("/test.Echo/ServerStream")(b"500", timeout=TIMEOUT))
    equal(answers, [str(number).encode() for number in range(500)], "stream")


def client_stream(channel):
    messages = [b"x" * 10_000] * 200
    answer = channel.stream_unary("/test.Echo/ClientStream")(iter(messages), timeout=TIMEOUT)
    equal(answer, b"200 2000000", "count and bytes at the server")


def bidi_interleaved(channel):
    # Message n + 1 is sent only after the echo of n: a proxy that buffers would hang here.
    outbox = queue.SimpleQueue()
    answers = channel.stream_stream("/test.Echo/Bidi")(iter(outbox.get, None), timeout=TIMEOUT)
    for number in range(100):
        outbox.put(str(number).encode())
        equal(next(answers), str(number).encode(), "echo")
    outbox.put(None)
    equal(list(answers), [], "rest of the stream")


def trailers_only_error(channel):
    try:
        channel.unary_unary("/test.Echo/Fail")(b"", timeout=TIMEOUT)
    except grpc.RpcError as error:
        equal(error.code(), grpc.StatusCode.FAILED_PRECONDITION, "status")
        equal(error.details(), "details: 100 % «kept»", "details")
        equal(dict(error.trailing_metadata()).get("x-why"), "asked-for", "trailer")
    else:
        raise AssertionError("no error arrived")


def error_after_message(channel):
    answers = channel.unary_stream("/test.Echo/FailMidway")(b"", timeout=TIMEOUT)
    equal(next(answers), b"first", "message before the error")
    try:
        next(answers)
    except grpc.RpcError as error:
        equal(error.code(), grpc.StatusCode.RESOURCE_EXHAUSTED, "status")
        equal(error.details(), "after one message", "details")
    else:
        raise AssertionError("no error arrived")


def deadline(channel):
    try:
        channel.unary_unary("/test.Echo/Hang")(b"", timeout=0.3)
    except grpc.RpcError as error:
        equal(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED, "status")
    else:
        raise AssertionError("the deadline passed unnoticed")


def many_at_once(channel):
    call = channel.unary_unary("/test.Echo/Unary")
    calls = [(str(n).encode(), call.future(str(n).encode(), timeout=TIMEOUT)) for n in range(200)]
    for message, future in calls:
        equal(future.result(), message, "echo")


if __name__ == "__main__":
    main()
