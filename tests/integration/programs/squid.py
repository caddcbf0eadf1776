#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Squid as a proxy reached over TLS (https_port): plain requests inside, requests to a TLS origin, and
CONNECT, where the client speaks TLS with the origin inside its TLS with the proxy."""
from role import CLI, SRV, equal, lib, pattern, roles

PROXY = 3129
CONF = """
https_port {addr}:{port} tls-cert={crt} tls-key={key}
http_access allow all
cache deny all
access_log none
cache_log {home}/cache.log
cache_store_log none
pid_filename {home}/pid
coredump_dir {home}
cache_effective_user proxy
shutdown_lifetime 0 seconds
visible_hostname mirror.test
tls_outgoing_options flags=DONT_VERIFY_PEER
pinger_enable off
dns_nameservers 127.0.0.1
netdb_filename none
logfile_rotate 0
"""


def play(r):
    crt, key = r.t.cert()
    home = r.dir / "squid"
    home.mkdir()
    home.chmod(0o777)
    (home / "conf").write_text(CONF.format(addr=SRV, port=PROXY, crt=crt, key=key, home=home))
    r.on("server", "squid", "squid", "-N", "-n", f"test{lib.os.getpid()}", "-f", home / "conf", env=r.preload())
    r.t.nginx(ns=r.cli, listen=("80", "443 ssl"))  # the origin is behind the wire too
    big = r.t.www("big", 2_000_000)
    r.t.www("small", 10)
    (r.dir / "up").write_bytes(pattern("up", 500_000))
    r.listening(PROXY, timeout=20)
    r.attach()

    def curl(*args):
        return r.do("client", "curl", "-sSk", "--http1.1", "--proxy-insecure", "-x", f"https://{SRV}:{PROXY}",
                    *args, env=r.env)
    equal(curl(f"http://{CLI}/small", f"http://{CLI}/big"), pattern("small", 10) + big, "what curl got")
    equal(curl("--data-binary", f"@{r.dir / 'up'}", f"http://{CLI}/post"), b"stored\n", "answer to the upload")
    equal(curl(f"https://{CLI}/big"), big, "what curl got, TLS in TLS")
    got = r.do("client", "openssl", "s_client", "-quiet", "-ign_eof", "-connect", f"{SRV}:{PROXY}", "-keylogfile",
               r.keylog, data=f"GET https://{CLI}/big HTTP/1.0\r\n\r\n".encode())
    equal(got.partition(b"\r\n\r\n")[2], big, "what came from a TLS origin")
    r.row("squid https_port server", "libssl.so.3", "server", PROXY, at_least=4)
    r.row("squid client of a TLS origin", "libssl.so.3", "server", 443, only=lambda c, _: b"\r\nVia: " in c)
    r.row("squid, what passes it through CONNECT", "-", "server", 443, mirrored=False)
    r.row("curl client of an HTTPS proxy", "libssl.so.3", "client", PROXY, only=lambda c, _: b"curl/" in c,
          at_least=3)


roles(play, needs=["squid", "nginx", "curl"])
