#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""The same requests once in clear on the wire and once through the mirror: Suricata sees the same."""
import re
import time

from lib import SURICATA_YAML, check, equal, fact, flows, losses, pattern, read, run, sha256

BIG = 100 << 20


def settings():
    """Whole bodies, every file hashed; the rest stays as the distribution ships it."""
    n = outputs().index("file-store")
    body = "app-layer.protocols.http.libhtp.default-config"
    return ("stream.reassembly.depth=0", f"outputs.{n}.file-store.enabled=yes",
            f"outputs.{n}.file-store.force-filestore=yes",
            f"outputs.{n}.file-store.stream-depth=0",
            f"{body}.request-body-limit=0", f"{body}.response-body-limit=0")


def outputs():
    """Names of Suricata's outputs in their order: --set counts them."""
    text = read(SURICATA_YAML).split("\noutputs:\n", 1)[1]
    return re.findall(r"^  - ([a-z-]+):", re.split(r"^[a-z]", text, maxsplit=1, flags=re.M)[0], re.M)


def requests(t, base):
    """curl against one origin; everything that a browser or an API client does often."""
    get = lambda *a: t.curl("-o", "/dev/null", *a, timeout=60)
    get(f"{base}/small?q=1")
    get("-X", "POST", "--data-binary", f"@{t.dir}/upload", "-H", "Content-Type: image/png",
        f"{base}/post")
    get("-H", "If-Modified-Since: Sat, 01 Jan 2050 00:00:00 GMT", f"{base}/small")
    get(f"{base}/chunked/doc")
    get(f"{base}/missing")
    get(f"{base}/keep/[1-20]")
    get("-I", f"{base}/small")
    get(f"{base}/big")


def chunked(record):
    """nginx cuts its chunks by timing, and Suricata's length counts their heads; fileinfo has the size."""
    return record["http"].get("url", "").startswith("/chunked/")


def view(records):
    """What an analyst compares: http transactions and files, in order of their connection."""
    keys = ("url", "hostname", "http_method", "status", "length", "http_content_type",
            "http_user_agent", "protocol")
    http = sorted(tuple(str(r["http"].get(k)) for k in keys if k != "length" or not chunked(r))
                  for r in records if r["event_type"] == "http")
    files = sorted((r["fileinfo"].get("filename"), r["fileinfo"].get("size"),
                    r["fileinfo"].get("state"), r["fileinfo"].get("sha256"))
                   for r in records if r["event_type"] == "fileinfo")
    return http, files


def main(t):
    t.lab(offload=False, sensor=False)
    plain_port = 80
    t.nginx(listen=("443 ssl", f"{plain_port}"))
    t.www("small", 5000)
    t.www("chunked/doc", data=b"find the needle in this hay. " * 4000)
    for i in range(1, 21):
        t.www(f"keep/{i}", 100 * i)
    big = t.www("big", BIG)
    (t.dir / "upload").write_bytes(pattern("upload", 300000))

    dump = t.spawn("tcpdump", "tcpdump", "-i", "srv0", "-w", t.dir / "wire.pcap", "-s", "0",
                   "-B", "65536", "-U", f"tcp port {plain_port}", ns=t.srv)
    dump.wait_line("listening on")
    requests(t, "http://10.71.1.1")
    time.sleep(2)  # longer than libpcap holds packets back
    dump.stop()
    check(re.search(r"^0 packets dropped by kernel", dump.err(), re.M), "tcpdump lost packets:", dump.err())

    # room for the whole body: a tunnel that is slower than nginx must not decide this test
    agent, col = t.pair("-w", t.dir / "mirror.pcapng", agent_args=("--queue", "256M"))
    requests(t, "https://10.71.1.1")
    time.sleep(1)
    t.drain(agent, col)
    fact("losses:", losses(agent, col) or "none")

    mirrored = flows(t.dir / "mirror.pcapng")
    biggest = max(mirrored, key=lambda f: len(f.data[1]))
    equal(sha256(bytes(biggest.data[1][-BIG:])), sha256(big), "the 100 MB body by our own reader")

    want = view(t.suricata_read(t.dir / "wire.pcap", "", *settings()))
    got = view(t.suricata_read(t.dir / "mirror.pcapng", "", *settings()))
    check(len(want[0]) == 27, f"the wire itself shows {len(want[0])} http records, not 27")
    check(any(f[3] == sha256(big) for f in want[1]), "Suricata on the wire did not hash 100 MB")
    for kind, a, b in zip(("http", "fileinfo"), want, got):
        missing, extra = [x for x in a if x not in b], [x for x in b if x not in a]
        check(a == b, f"{kind} records differ: missing {missing[:3]}, extra {extra[:3]}, "
              f"{len(a)} against {len(b)}")
        fact(f"{len(a)} {kind} records, wire and mirror alike")


run(main, needs=["nginx", "curl", "suricata", "tcpdump", "ethtool"])
