"""A gRPC server and client without generated code.

grpc_peer.py serve PORT     serves until it is ended; prints "ready"
grpc_peer.py call ADDRESS   unary, streams, bidi, an error without a body; prints "ok"
"""
import sys
import threading
from concurrent import futures

import grpc

NAME = "test.Echo"


def unary(request, context):
    if request == b"fail":
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked")
    context.set_trailing_metadata((("x-trailer", "kept"),))
    return request


def server_stream(request, _context):
    for number in range(int(request)):
        yield str(number).encode()


def client_stream(requests, _context):
    return str(sum(len(request) for request in requests)).encode()


def bidi(requests, _context):
    yield from requests


def serve(port: str) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(16))
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


def call(address: str) -> None:
    channel = grpc.insecure_channel(address)
    echo = channel.unary_unary(f"/{NAME}/Unary")
    answer, details = echo.with_call(b"hello", timeout=20)
    assert answer == b"hello", answer
    assert dict(details.trailing_metadata())["x-trailer"] == "kept"
    large = b"z" * 1_000_000
    assert echo(large, timeout=20) == large
    items = list(channel.unary_stream(f"/{NAME}/ServerStream")(b"500", timeout=20))
    assert items == [str(number).encode() for number in range(500)]
    total = channel.stream_unary(f"/{NAME}/ClientStream")(iter([b"ab"] * 300), timeout=20)
    assert total == b"600", total

    # Each message is sent only after the answer to the one before: nothing may be held back.
    turn = threading.Semaphore(1)

    def messages():
        for number in range(50):
            turn.acquire()
            yield str(number).encode()

    seen = []
    for item in channel.stream_stream(f"/{NAME}/Bidi")(messages(), timeout=20):
        seen.append(item)
        turn.release()
    assert seen == [str(number).encode() for number in range(50)]
    try:
        echo(b"fail", timeout=20)
        raise AssertionError("an error was expected")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
        assert error.details() == "as asked", error.details()
    print("ok")


serve(sys.argv[2]) if sys.argv[1] == "serve" else call(sys.argv[2])
