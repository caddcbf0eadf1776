#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""ncat as a server whose parent process does the handshake and whose child speaks, with the same TLS
object; as a server without children; as a client."""
from role import SRV, equal, pattern, roles, sha256

FORKING, BROKER = 7001, 7002
CLIENTS = 6


def play(r):
    crt, key = r.t.cert()
    for port, args in ((FORKING, ("-k", "-c", "cat")), (BROKER, ("-k", "-e", "/bin/cat"))):
        r.on("server", f"ncat{port}", "ncat", "--ssl", "--ssl-cert", crt, "--ssl-key", key, "-l", SRV, port, *args)
        r.listening(port)
    r.attach()
    for i in range(CLIENTS):
        for port in (FORKING, BROKER):
            said = pattern(f"talk {i}", 1 + i * 10_000)  # with more than pipes hold it would wait for itself
            (r.dir / "said").write_bytes(said)
            # it ends with its input: that stays open until all of the echo is there
            cmd = f"(cat said; for i in $(seq 100); do [ $(stat -c %s got) = {len(said)} ] && break; sleep 0.05; done)"
            (r.dir / "got").write_bytes(b"")
            r.do("client", "sh", "-c", f"{cmd} | exec ncat --ssl {SRV} {port} >got", env=r.preload())
            equal(sha256((r.dir / "got").read_bytes()), sha256(said), f"echo {i} from port {port}")
    for port, how in ((FORKING, "-c"), (BROKER, "-e")):
        r.row(f"ncat server -k {how}", "libssl.so.3", "server", port, at_least=CLIENTS)
        r.row(f"ncat client of {how}", "libssl.so.3", "client", port, at_least=CLIENTS)


roles(play, needs=["ncat"])
