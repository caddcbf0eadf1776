#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""GnuTLS: a client (wget) and a server (gnutls-serv), bytes and addresses judged by the other end."""
import time

from lib import check, equal, fact, find_flow, flows, run, sh, sha256, until

PORT = 4433


def client_side(t):
    body = t.www("file", 300000)
    agent = t.alone("-w", t.dir / "c.pcapng", iface="cli0", ns=t.cli)
    sh("wget", "-q", "--no-check-certificate", "-O", t.dir / "got", "https://10.71.1.1/file", ns=t.cli)
    equal(sha256((t.dir / "got").read_bytes()), sha256(body), "file as wget got it")
    time.sleep(0.5)
    equal(agent.stop(), 0, "agent's exit status")
    seen = flows(t.dir / "c.pcapng")
    equal([f.server for f in seen], [("10.71.1.1", 443)], "flows")
    request, answer = (bytes(x) for x in seen[0].data)
    check(request.startswith(b"GET /file HTTP/1.1\r\nHost: 10.71.1.1\r\nUser-Agent: Wget"), "request:", request[:80])
    equal(sha256(answer[-len(body):]), sha256(body), "body")
    fact(f"wget: {len(request)} bytes out, {len(answer)} bytes in, exact")


def server_side(t):
    crt, key = t.cert()
    server = t.spawn("gnutls-serv", "gnutls-serv", "--echo", "-p", PORT, "--x509certfile", crt,
                     "--x509keyfile", key, ns=t.srv)
    until(lambda: f":{PORT} " in sh("ss", "-tln", ns=t.srv), 10, "gnutls-serv listening")
    agent = t.alone("-w", t.dir / "s.pcapng", iface="srv0", ns=t.srv)
    words = b"".join(b"line %d of the talk\n" % i for i in range(200))
    (t.dir / "words").write_bytes(words)
    with open(t.dir / "words") as f:
        sh("sh", "-c", f"(cat; sleep 1) | openssl s_client -quiet -no_ign_eof -connect 10.71.1.1:{PORT} > {t.dir}/echo",
           ns=t.cli, stdin=f, ok=None)
    equal((t.dir / "echo").read_bytes(), words, "echo as the client got it")
    time.sleep(0.5)
    check(server.alive(), "gnutls-serv ended")
    equal(agent.stop(), 0, "agent's exit status")
    seen = flows(t.dir / "s.pcapng")
    equal(len(seen), 1, "flows")
    f = find_flow(seen, seen[0].client[1], PORT)
    equal(bytes(f.data[0]), words, "what the server read")
    equal(bytes(f.data[1]), words, "what the server wrote")
    fact(f"gnutls-serv: {len(words)} bytes in and out, exact")


def main(t):
    t.lab(sensor=False)
    t.nginx()
    client_side(t)
    server_side(t)


run(main, needs=["nginx", "wget", "gnutls-serv", "ss"])
