#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Redis: server whose connections wander between I/O threads, redis-cli, redis-benchmark with threads."""
from role import SRV, check, equal, pattern, roles

PORT = 6379
CLIENTS = 24


def play(r):
    crt, key = r.t.cert()
    r.on("server", "redis", "redis-server", "--port", 0, "--tls-port", PORT, "--bind", SRV,
         "--tls-cert-file", crt, "--tls-key-file", key, "--tls-auth-clients", "no", "--save", "",
         "--protected-mode", "no", "--io-threads", 3, "--io-threads-do-reads", "yes", "--dir", r.dir)
    r.listening(PORT)
    r.attach()
    tls = ("-h", SRV, "-p", PORT, "--tls", "--insecure")

    def cli(*args, data=None):
        return r.do("client", "redis-cli", *tls, *args, env=r.preload(), data=data)
    value = pattern("value", 1_000_000).hex().encode()
    equal(cli("-x", "set", "big", data=value), b"OK\n", "answer to set")
    equal(cli("get", "big"), value + b"\n", "what was set")
    words = b"".join(b"SET k%d v%d\nGET k%d\n" % (i, i, i) for i in range(1000))
    equal(cli(data=words), b"".join(b"OK\nv%d\n" % i for i in range(1000)), "2000 commands")
    out = r.do("client", "redis-benchmark", *tls, "--threads", 2, "-c", CLIENTS, "-n", 200, "-d", 20000,
               "-r", 100, "-t", "set,get", "-q", env=r.preload(), timeout=60)
    check(b"SET: " in out and b"GET: " in out, "redis-benchmark:", out[-200:])

    def is_bench(c, _):
        return b":__rand_int__" in c or b"key:0000000000" in c
    r.row("redis-server, I/O threads", "libssl.so.3", "server", PORT, at_least=3 + CLIENTS)
    r.row("redis-benchmark client", "libssl.so.3", "client", PORT, only=is_bench, at_least=CLIENTS)
    r.row("redis-cli client", "libssl.so.3", "client", PORT, at_least=3)


roles(play, needs=["redis-server", "redis-cli", "redis-benchmark"])
