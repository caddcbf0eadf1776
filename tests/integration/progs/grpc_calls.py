#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""A gRPC server that keeps account of its calls, one line of JSON each, and a client that makes one of every kind.
grpc_calls.py serve ADDR PORT CERT KEY
grpc_calls.py call  ADDR PORT CERT      prints "done" at the end"""
import concurrent.futures
import hashlib
import json
import struct
import sys
import time

import grpc


def sha(messages):
    """Of the body that these messages are: five bytes before each."""
    return hashlib.sha256(b"".join(b"\0" + struct.pack(">I", len(m)) + m for m in messages)).hexdigest()


def tell(path, asked, answered, status, detail=""):
    print(json.dumps({"path": path, "in": sha(asked), "out": sha(answered), "status": status, "detail": detail}), flush=True)


def unary(m, _):
    tell("/mirror.Test/Unary", [m], [m * 2], 0)
    return m * 2


def fail(m, context):
    tell("/mirror.Test/Fail", [m], [], 5, "not here")
    context.abort(grpc.StatusCode.NOT_FOUND, "not here")


def down(m, _):
    out = [m + str(i).encode() * 1000 for i in range(20)]
    tell("/mirror.Test/Down", [m], out, 0)
    yield from out


def up(messages, _):
    got = list(messages)
    tell("/mirror.Test/Up", got, [b"%d" % len(got)], 0)
    return b"%d" % len(got)


def both(messages, _):
    got = []
    for m in messages:
        got.append(m)
        yield m[::-1]
    tell("/mirror.Test/Both", got, [m[::-1] for m in got], 0)


def serve(addr, port, cert, key):
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("mirror.Test", {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Down": grpc.unary_stream_rpc_method_handler(down),
        "Up": grpc.stream_unary_rpc_method_handler(up),
        "Both": grpc.stream_stream_rpc_method_handler(both),
    })])
    pair = open(key, "rb").read(), open(cert, "rb").read()
    server.add_secure_port(f"{addr}:{port}", grpc.ssl_server_credentials([pair]))
    server.start()
    print("listening", flush=True)
    server.wait_for_termination()


def slowly(messages):
    for m in messages:
        yield m
        time.sleep(0.02)


def call(addr, port, cert):
    trust = grpc.ssl_channel_credentials(open(cert, "rb").read())
    with grpc.secure_channel(f"{addr}:{port}", trust,
                             [("grpc.ssl_target_name_override", "mirror.test")]) as channel:
        channel.unary_unary("/mirror.Test/Unary")(b"first")
        channel.unary_unary("/mirror.Test/Unary")(b"x" * 100_000, metadata=[("x-note", "a large one")])
        try:
            channel.unary_unary("/mirror.Test/Fail")(b"what")
        except grpc.RpcError as e:
            assert e.code() == grpc.StatusCode.NOT_FOUND, e
        assert len(list(channel.unary_stream("/mirror.Test/Down")(b"down"))) == 20
        assert channel.stream_unary("/mirror.Test/Up")(slowly([b"u%d" % i for i in range(10)])) == b"10"
        got = [*channel.stream_stream("/mirror.Test/Both")(slowly([b"both %d" % i for i in range(10)]))]
        assert got[0] == b"0 htob", got
    print("done", flush=True)


{"serve": serve, "call": call}[sys.argv[1]](*sys.argv[2:])
