#!/usr/bin/env python3
"""A gRPC upstream without generated code: `grpc_server.py PORT`. Prints `ready` when it listens.

Service `test.Echo`; messages are raw bytes. It also answers `grpc.health.v1.Health/Check`.
"""

import sys
import threading
from concurrent import futures

import grpc

# HealthCheckResponse with status = SERVING: field 1, varint 1.
SERVING = b"\x08\x01"


def unary(request, context):
    metadata = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-seen", metadata.get("x-sent", "")),))
    context.set_trailing_metadata((("x-trailer-bin", b"\x00\xff\x01"),))
    return request


def server_stream(request, _context):
    for number in range(int(request)):
        yield str(number).encode()


def client_stream(requests, _context):
    sizes = [len(request) for request in requests]
    return f"{len(sizes)} {sum(sizes)}".encode()


def bidi(requests, _context):
    yield from requests


def fail(request, context):
    # Before any message: the server answers with trailers only.
    context.set_trailing_metadata((("x-why", "asked-for"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "details: 100 % «kept»")


def fail_midway(request, context):
    yield b"first"
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "after one message")


def hang(request, context):
    ended = threading.Event()
    if context.add_callback(ended.set):
        ended.wait(60)
    return request


def main():
    stream, single = grpc.stream_unary_rpc_method_handler, grpc.unary_unary_rpc_method_handler
    echo = {
        "Unary": single(unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "ClientStream": stream(client_stream),
        "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
        "Fail": single(fail),
        "FailMidway": grpc.unary_stream_rpc_method_handler(fail_midway),
        "Hang": single(hang),
    }
    health = {"Check": single(lambda _request, _context: SERVING)}
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("test.Echo", echo),
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),
        )
    )
    address = f"127.0.0.1:{int(sys.argv[1])}"
    if server.add_insecure_port(address) == 0:
        sys.exit(f"cannot listen on {address}")
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
