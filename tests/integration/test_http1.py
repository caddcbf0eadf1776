#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 shown as HTTP/1.1 (h2=http1), one connection a stream: nginx, Apache, node and gRPC as servers; curl,
h2load with 100 streams at once, nghttp, node and gRPC as clients. What a strict reader, tshark and Suricata
find in the mirror is what the servers' own logs say: methods, URIs, statuses, bodies. --stream-log leads
from each shown connection to the real one. All streams on one connection (h2=serial): the same exchanges.
Joined late; and the same connections shown as they are."""
import collections
import json
import pathlib
import re
import shutil
import subprocess

from lib import (LOSS, PROGS, PY, check, equal, fact, flows, losses, pattern, run, settle, sh, sha256,
                 stream_event_rules, until)

SRV = "10.71.1.1"
NGINX, APACHE, NODE, NGHTTPD, PLAIN, GRPC = 8441, 8442, 8443, 8444, 8445, 8446
GRPC_PY = next((p for p in (PY, "/usr/bin/python3")
                if not subprocess.run([p, "-c", "import grpc"], capture_output=True, check=False).returncode), None)
MODULES = next((d for d in ("/usr/lib/apache2/modules", "/usr/lib64/httpd/modules") if pathlib.Path(d).is_dir()), None)


# A reader of HTTP/1.1 without mercy: (start line, fields, body, trailers), and what is left.
def fields_of(text):
    out = []
    for line in text.split(b"\r\n"):
        m = re.fullmatch(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([^\r\n\0]*)", line)
        check(m, "a field that is none:", line[:80])
        out.append((m[1].decode(), m[2].decode("latin-1")))
    return out


def message(data, bodyless=False):
    check(b"\r\n\r\n" in data, "a head without end:", bytes(data[:80]))
    head, rest = bytes(data).split(b"\r\n\r\n", 1)
    start, _, text = head.partition(b"\r\n")
    fields = fields_of(text) if text else []
    said = collections.Counter(k.lower() for k, _ in fields)
    get = dict((k.lower(), v) for k, v in fields)
    check(said["content-length"] + said["transfer-encoding"] <= 1, "two lengths:", head)
    if bodyless:
        return start.decode(), fields, b"", [], rest
    if said["transfer-encoding"]:
        body = b""
        while True:
            size, rest = rest.split(b"\r\n", 1)
            n = int(size, 16)
            if n == 0:
                break
            body += rest[:n]
            equal(rest[n:n + 2], b"\r\n", "end of a chunk")
            rest = rest[n + 2:]
        if rest.startswith(b"\r\n"):
            return start.decode(), fields, body, [], rest[2:]
        text, rest = rest.split(b"\r\n\r\n", 1)
        return start.decode(), fields, body, fields_of(text), rest
    n = int(get.get("content-length", 0))
    return start.decode(), fields, rest[:n], [], rest[n:]


class Exchange:
    """The first one of what both sides say; what is behind it: rest. It is the only one if only flow is given."""
    def __init__(self, flow, said=None):
        ask, back = said or flow.data
        start, self.fields, self.body, self.trailers, ask = message(ask)
        self.flow = flow
        self.method, self.path, version = start.split(" ")
        equal(version, "HTTP/1.1", "version")
        self.answers, back = [], bytes(back)
        self.status = None
        while back and (not self.answers or self.status == 100):
            self.status = int(back[9:12])
            bodyless = self.method == "HEAD" or self.status in (204, 304) or self.status < 200
            self.answers.append(message(back, bodyless))
            back = self.answers[-1][4]
        self.upgraded = self.status == 101
        self.rest = ask, back
        if self.upgraded:
            self.raw = self.rest
        elif not said and not flow.rsts:
            equal(self.rest, (b"", b""), f"bytes behind {start}")
            equal(flow.end, "fin", f"end of {start}")
        self.answer = self.answers[-1][2] if self.answers else b""

    def told(self):
        return self.method, self.path, self.status, sha256(self.body), sha256(self.answer)

    def get(self, name):
        return [v for k, v in self.fields if k == name]


def in_series(flow):
    """All exchanges of a connection on which one comes after the other: nothing is between or behind them."""
    out = [Exchange(flow, flow.data)]
    while out[-1].rest != (b"", b"") and not out[-1].upgraded:
        out.append(Exchange(flow, out[-1].rest))
    return out


def apache(t):
    home = t.dir / "apache"
    home.mkdir()
    crt, key = t.cert()
    loads = "\n".join(f"LoadModule {m}_module {MODULES}/mod_{m}.so"
                      for m in ("mpm_event", "authz_core", "unixd", "ssl", "http2", "log_config", "socache_shmcb")
                      if pathlib.Path(f"{MODULES}/mod_{m}.so").exists())
    (home / "httpd.conf").write_text(f"""
ServerRoot {home}
{loads}
PidFile {home}/pid
ErrorLog {home}/error.log
LogFormat "%m %U%q %s %B" plain
CustomLog {home}/access.log plain
DefaultRuntimeDir {home}
Mutex posixsem
ServerName mirror.test
Listen {SRV}:{APACHE}
StartServers 1
ThreadsPerChild 8
MaxRequestWorkers 8
ServerLimit 1
Protocols h2 http/1.1
DocumentRoot {t.dir}/www
<Directory {t.dir}/www>
  Require all granted
</Directory>
SSLEngine on
SSLCertificateFile {crt}
SSLCertificateKeyFile {key}
""")
    t.spawn("apache", shutil.which("apache2") or shutil.which("httpd"), "-D", "FOREGROUND", "-f", home / "httpd.conf",
            ns=t.srv)
    t.listening(APACHE)
    return home / "access.log"


def servers(t):
    t.www("small", 50)
    t.www("large", 300_000)
    t.dir.chmod(0o755)
    log = t.dir / "nginx.access"
    t.nginx(listen=(f"{NGINX} ssl http2", f"{PLAIN} ssl"), log=f"{log} told",
            extra="error_page 404 /small;", name="nginx")
    node = t.spawn("node", "node", PROGS / "h2.js", "serve", SRV, NODE, *t.cert(), ns=t.srv)
    node.wait_line("listening", where="out")
    crt, key = t.cert()
    t.spawn("nghttpd", "nghttpd", "-a", SRV, "-d", t.dir / "www", "--trailer", "grpc-status: 0", NGHTTPD, key, crt,
            ns=t.srv)
    t.listening(NGHTTPD)
    grpc = None
    if GRPC_PY:
        grpc = t.spawn("grpc", GRPC_PY, "-B", PROGS / "grpc_calls.py", "serve", SRV, GRPC, crt, key, ns=t.srv)
        grpc.wait_line("listening", where="out")
    return log, apache(t), node, grpc


def logged(path, n):
    """The lines of an access log: METHOD URI STATUS BYTES."""
    until(lambda: len(path.read_text().splitlines()) >= n, 10, f"{n} lines in {path}")
    return collections.Counter(path.read_text().splitlines())


def same(got, want, what):
    """Counters; only what differs is told."""
    equal((got - want, want - got), (collections.Counter(),) * 2, f"{what}: too many, missing")


def shown(exchanges, port):
    return [x for x in exchanges if x.flow.server[1] == port]


def as_logged(exchanges, port):
    return collections.Counter(f"{x.method} {x.path} {x.status} {len(x.answer)}" for x in shown(exchanges, port))


def play(t, uris):
    """What the clients do."""
    def curl(*args):
        return sh("curl", "-sSk", "--http2", "--max-time", 20, *args, ns=t.cli)
    post = t.dir / "post"
    post.write_bytes(pattern("post", 200_000))
    for port in (NGINX, APACHE):
        at = f"https://{SRV}:{port}"
        curl("-o", "/dev/null", f"{at}/small", "-o", "/dev/null", f"{at}/large?q=1", "-o", "/dev/null", f"{at}/not-there")
    curl("-o", "/dev/null", "-I", f"https://{SRV}:{NGINX}/small")
    curl("-o", "/dev/null", "--data-binary", f"@{post}", "-H", "Cookie: c=1", f"https://{SRV}:{NGINX}/post")
    curl("-o", "/dev/null", "--data-binary", f"@{post}", f"https://{SRV}:{NODE}/echo")
    curl("-o", "/dev/null", "--http1.1", f"https://{SRV}:{PLAIN}/small")
    uris.write_text("".join(f"https://{SRV}:{NGINX}/who?{i}\n" for i in range(100)))
    got = sh("h2load", "-n", 400, "-c", 2, "-m", 100, "-i", uris, ns=t.cli)
    check("400 succeeded" in got, "h2load:", got[-300:])
    message_file = t.dir / "www" / "grpc"
    message_file.write_bytes(b"\0\0\0\0\x05hello")
    sh("nghttp", "-n", "-H", ":method: POST", "-H", "content-type: application/grpc", "-H", "te: trailers",
       "-d", message_file, "--trailer", "x-sum: 5", f"https://{SRV}:{NGHTTPD}/grpc", ns=t.cli)
    if GRPC_PY:
        equal(sh(GRPC_PY, "-B", PROGS / "grpc_calls.py", "call", SRV, GRPC, t.cert()[0], ns=t.cli), "done\n", "gRPC")
    client = t.spawn("node", "node", PROGS / "h2.js", "ask", SRV, NODE, ns=t.cli, stdin=True)
    client.wait_line("^connected", where="out")
    for line in ("GET /bytes-100000", "POST /echo 3000", "HEAD /bytes-5", "GET /nothing", "GET /hints", "POST /trailers 50",
                 "GET /cancel", "GET /push", "WEBSOCKET /chat 20", "GET /bytes-7"):
        client.say(line)
    until(lambda: len(client.out().splitlines()) == 11, 10, "node's client")


def check_node(exchanges, node):
    told = [json.loads(x) for x in node.out().splitlines() if x.startswith("{")]
    seen = shown(exchanges, NODE)
    ok = [x for x in seen if not x.flow.rsts and not x.upgraded]
    same(collections.Counter((x.method, x.path, sha256(x.body), x.status, sha256(x.answer)) for x in ok),
         collections.Counter((y["method"], y["path"], y["in"], y["status"], y["out"]) for y in told if y.get("out")),
         "node: exchanges")
    by_path = {x.path: x for x in seen}
    equal([a[0] for a in by_path["/hints"].answers], ["HTTP/1.1 100 Continue", "HTTP/1.1 200 OK"], "hints")
    equal(sorted(by_path["/trailers"].answers[0][3]), [("Grpc-Message", "fine"), ("Grpc-Status", "0")], "trailers")
    cut = by_path["/cancel"]
    equal((cut.flow.rsts, cut.answer), ([0], b"only a part"), "a stream that its client resets")
    chat = by_path["/chat"]
    equal((chat.status, chat.raw), (101, (pattern("/chat", 20),) * 2), "WebSocket")
    check(chat.get("Sec-WebSocket-Key"), "no key")
    equal(by_path["/bytes-7"].get("Cookie"), ["c=1; d=2"], "cookie")
    equal([v for k, v in by_path["/bytes-7"].answers[0][1] if k == "Set-Cookie"], ["a=1", "b=2"], "two cookies")
    equal(by_path["/pushed"].flow.end, "fin", "end of a pushed one")
    return len(seen)


def check_grpc(exchanges, server):
    """The server's own account of its calls: bodies with their trailers, or an answer that is nothing but trailers."""
    if not server:
        return fact("no gRPC: python3-grpcio is not there")
    told = [json.loads(x) for x in server.out().splitlines() if x.startswith("{")]
    seen = shown(exchanges, GRPC)

    def trailers(x):
        get = {k: v for k, v in (*x.answers[-1][1], *x.answers[-1][3]) if k.startswith("Grpc-")}
        return int(get["Grpc-Status"]), get.get("Grpc-Message", "")
    same(collections.Counter((x.method, x.path, x.status, sha256(x.body), sha256(x.answer), *trailers(x)) for x in seen),
         collections.Counter(("POST", y["path"], 200, y["in"], y["out"], y["status"], y["detail"]) for y in told), "gRPC")
    equal({(*x.get("Content-Type"), *x.get("TE")) for x in seen}, {("application/grpc", "trailers")}, "gRPC")
    return fact(f"gRPC: {len(told)} calls")


def check_suricata(t, pcap, exchanges, log):
    """One event an exchange, no doubt about any packet, and its ids are ours."""
    # What HPACK hides from such rules: text, and the case of names.
    rules = stream_event_rules() + """
alert tcp any any -> any any (msg:"text"; content:"GET /who?26 HTTP/1.1"; sid:9000002;)
alert http any any -> any any (msg:"name"; http.header; content:"User-Agent|3a 20|h2load"; sid:9000003;)
"""
    records = t.suricata_read(pcap, rules, "outputs.1.eve-log.community-id=true", "stream.reassembly.depth=0",
                              *hashes())
    alerts = collections.Counter(r["alert"]["signature"] for r in records if r["event_type"] == "alert")
    equal(alerts, {"text": 4, "name": 400}, "alerts, and no stream event among them")
    equal([r["anomaly"] for r in records if r["event_type"] == "anomaly"], [], "Suricata's anomalies")
    http = [r for r in records if r["event_type"] == "http"]
    if not log:
        return events_of(http), files_of(records)
    same(collections.Counter((r["http"]["http_method"], r["http"]["url"], r["http"].get("status")) for r in http),
         collections.Counter((x.method, x.path, x.status) for x in exchanges), "Suricata's events")
    ids = {r["community_id"] for r in log}
    known = [r for r in http if r["dest_port"] != PLAIN]
    check(all(r["community_id"] in ids for r in known), "Suricata has a Community ID that is not in --stream-log")
    fact(f"Suricata: {len(http)} http events, no stream event")
    return events_of(http), files_of(records)


def hashes():
    """Settings with which Suricata tells the hash of each body."""
    dump = sh("suricata", "--dump-config", timeout=20)
    n = re.search(r"^outputs\.1\.eve-log\.types\.(\d+) = files$", dump, re.M)[1]
    return [f"outputs.1.eve-log.types.{n}.files.force-hash.0=sha256"]


def events_of(http):
    return collections.Counter((r["http"]["http_method"], r["http"]["url"], r["http"].get("status"), r["http"]["length"])
                               for r in http)


def files_of(records):
    return collections.Counter((r["http"]["url"], r["fileinfo"]["size"], r["fileinfo"].get("sha256"), r["fileinfo"]["state"])
                               for r in records if r["event_type"] == "fileinfo")


def check_tshark(pcap, exchanges):
    def fields(what, *names):
        # a client's port may be one that tshark knows as another protocol's
        ports = [w for n in range(NGINX, GRPC + 1) for w in ("-d", f"tcp.port=={n},http")]
        return sh("tshark", "-r", pcap, *ports, "-Y", what, "-T", "fields", *[w for n in names for w in ("-e", n)],
                  timeout=60).splitlines()
    asked = fields("http.request", "http.request.method", "http.request.uri")
    same(collections.Counter(asked), collections.Counter(f"{x.method}\t{x.path}" for x in exchanges), "tshark's requests")
    equal(fields("tcp.analysis.flags && !tcp.analysis.window_update && !tcp.analysis.reused_ports", "frame.number"), [],
          "tshark's doubts")
    fact(f"tshark: {len(asked)} requests")
    return collections.Counter(fields("http.response", "http.response_for.uri", "http.response.code", "http.file_data"))


def check_serial(t, pcap, exchanges, suricata, tshark):
    """All streams of a connection on one: the same exchanges, for a strict reader, Suricata and tshark."""
    connections = flows(pcap)
    series = [in_series(f) for f in connections]
    together = [x for s in series for x in s]
    same(collections.Counter(x.told() for x in together), collections.Counter(x.told() for x in exchanges), "in series")
    # an idle connection ends as the real one, node's with the collector
    ends = {x.path: f.end for f, s in zip(connections, series) for x in s}
    equal((ends["/cancel"], ends["/pushed"]), ("rst", "rst"), "ends of node's")
    loads = [[x.path for x in s] for s in series if s[0].path.startswith("/who")]
    equal([len(s) for s in loads], [200, 200], "h2load's two connections")
    equal(loads, [[f"/who?{i % 100}" for i in range(200)]] * 2, "the order of requests")
    chat, = (s for s in series if s[0].path == "/chat")
    equal((len(chat), chat[0].raw), (1, (pattern("/chat", 20),) * 2), "WebSocket in series")
    same(check_tshark(pcap, together), tshark, "tshark's answers in series")
    events, files = check_suricata(t, pcap, together, None)
    same(events, suricata[0], "Suricata's events in series")
    same(files, suricata[1], "Suricata's files in series")
    fact(f"in series: {len(together)} exchanges on {len(connections)} connections, {sum(files.values())} files in Suricata")


def check_log(t, log, exchanges):
    """Each stream has a line; the real ones are the connections that really were."""
    ports = {(x.flow.client[1], x.flow.server[1]) for x in exchanges if x.flow.server[1] != PLAIN}
    equal({(r["src_port"], r["dest_port"]) for r in log}, ports, "--stream-log: ports")
    real = {(r["real"]["src_port"], r["real"]["dest_port"]) for r in log}
    equal({(f.client[1], f.server[1]) for f in flows(t.dir / "native.pcapng") if f.server[1] != PLAIN}, real,
          "--stream-log: real connections")


def late(t):
    """A connection joined after its first request: what is not known of its table is not guessed."""
    pcap, native = t.dir / "late.pcapng", t.dir / "late-native.pcapng"
    client = t.spawn("node", "node", PROGS / "h2.js", "ask", SRV, NGINX, ns=t.cli, stdin=True)
    client.say("GET /small", "^GET /small 200")
    p = t.alone("-w", f"{pcap},h2=http1", "-w", native, name="late")
    client.say("GET /large", "^GET /large 200")
    client.say("POST /post 700", "^POST /post 200")
    settle(pcap, lambda s: len(s) == 2 and all(f.end == "fin" for f in s))
    equal(p.stop(), 0, "exit status")
    get, post = (Exchange(f) for f in flows(pcap))
    equal((get.method, get.path, get.status, sha256(get.answer)), ("GET", "/large", 200, sha256(pattern("large", 300_000))),
          "joined late")
    equal((post.method, post.path, post.status, post.body), ("POST", "/post", 200, pattern("/post", 700)), "joined late")
    counted = p.counters()
    equal(counted.get("http1_connections_late"), 1, "late connections")
    check(counted.get("http1_fields_unknown"), "everything is known of a table whose beginning nobody saw")
    check(any(k.startswith("X-Unknown-") for k, _ in get.fields), "no placeholder:", get.fields)
    fact("joined late:", get.fields)
    # As HTTP/2 it has a beginning, without which Suricata would see no HTTP at all.
    equal(counted.get("forge_prefaces_invented"), 1, "invented prefaces")
    urls = {r["http"].get("url") for r in t.suricata_read(native, stream_event_rules()) if r["event_type"] == "http"}
    check({"/large", "/post"} <= urls, "Suricata's events of HTTP/2 joined late:", urls)


def main(t):
    t.lab(sensor=False)
    t.listening = lambda port: until(
        lambda: f":{port} " in sh("ss", "-Hltn", ns=t.srv), 10, f"a listener at {port}")
    nginx_log, apache_log, node, grpc = servers(t)
    pcap, serial, log = t.dir / "http1.pcapng", t.dir / "serial.pcapng", t.dir / "streams.json"
    p = t.alone("-w", f"{pcap},h2=http1", "-w", f"{serial},h2=serial", "-w", t.dir / "native.pcapng", "--stream-log", log)
    play(t, t.dir / "uris")
    try:
        settle(pcap, lambda s: len(s) >= (428 if grpc else 422) and all(f.end != "open" for f in s))
    finally:
        equal(p.stop(), 0, "exit status")
        fact("counted:", {k: v for k, v in p.counters().items() if k.startswith("http1_")}, losses(p))
    # others' programs run on this host as well: what the capture lost may be theirs
    lost = {k: v for k, v in p.counters().items() if v and LOSS.search(k) and not k.startswith(("capture_", "flow_"))}
    equal(lost, {}, "losses")
    seen = [Exchange(f) for f in flows(pcap)]
    lines = [json.loads(x) for x in log.read_text().splitlines()]
    # nginx wrote two lines of the POST, which it passes on to itself, and one of what came over HTTP/1.1
    same(as_logged(seen, NGINX), logged(nginx_log, 407) - collections.Counter(["GET /small 200 50", "POST /post 200 7"]),
         "nginx")
    same(as_logged(seen, APACHE), logged(apache_log, 3), "apache")
    posted = next(x for x in shown(seen, NGINX) if x.path == "/post")
    equal((sha256(posted.body), posted.get("Cookie")), (sha256(pattern("post", 200_000)), ["c=1"]), "POST to nginx")
    equal({sha256(x.answer) for x in seen if x.path == "/large?q=1"}, {sha256(pattern("large", 300_000))}, "large bodies")
    same(as_logged(seen, PLAIN), collections.Counter(["GET /small 200 50"]), "HTTP/1.1")
    n = check_node(seen, node)
    check_grpc(seen, grpc)
    grpc, = shown(seen, NGHTTPD)
    equal((grpc.body, grpc.trailers, grpc.get("TE")), (b"\0\0\0\0\x05hello", [("X-Sum", "5")], ["trailers"]), "gRPC request")
    equal((grpc.answer, grpc.answers[0][3]), (grpc.body, [("Grpc-Status", "0")]), "gRPC answer")
    fact(f"{len(seen)} connections: nginx {len(shown(seen, NGINX))}, apache {len(shown(seen, APACHE))}, node {n}")

    check_log(t, [r for r in lines if not r["serial"]], seen)
    tshark = check_tshark(pcap, seen)
    suricata = check_suricata(t, pcap, seen, lines)
    check_serial(t, serial, seen, suricata, tshark)
    late(t)


run(main, needs=["nginx", "curl", "node", "nghttp", "nghttpd", "h2load", "tshark", "suricata", "ss"])
