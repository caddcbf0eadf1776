#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Apache httpd, mod_ssl: event workers over HTTP/1.1 and HTTP/2, mod_proxy as a client, and the pre-fork
server, whose processes have the same SSL addresses."""
import pathlib
import shutil

from role import CLI, SRV, Skip, check, equal, pattern, roles, sh

MODULES = next((d for d in ("/usr/lib/apache2/modules", "/usr/lib64/httpd/modules") if pathlib.Path(d).is_dir()), None)
BINARY = shutil.which("apache2") or shutil.which("httpd")


def serve(r, mpm, port, sizing):
    """One httpd; its listener is up when this returns."""
    crt, key = r.t.cert()
    home = r.dir / mpm
    home.mkdir()
    wanted = (f"mpm_{mpm}", "authz_core", "unixd", "ssl", "proxy", "proxy_http", "http2", "socache_shmcb")
    loads = "\n".join(f"LoadModule {m}_module {MODULES}/mod_{m}.so" for m in wanted
                      if pathlib.Path(f"{MODULES}/mod_{m}.so").exists())
    (home / "httpd.conf").write_text(f"""
ServerRoot {home}
{loads}
PidFile {home}/pid
ErrorLog {home}/error.log
DefaultRuntimeDir {home}
Mutex posixsem
ServerName mirror.test
Listen {SRV}:{port}
KeepAlive On
{sizing}
{"Protocols h2 http/1.1" if mpm == "event" else ""}
DocumentRoot {r.dir}/www
<Directory {r.dir}/www>
  Require all granted
</Directory>
SSLEngine on
SSLCertificateFile {crt}
SSLCertificateKeyFile {key}
SSLProxyEngine on
SSLProxyVerify none
SSLProxyCheckPeerName off
SSLProxyCheckPeerCN off
ProxyPass /up/ https://{CLI}:9443/
""")
    p = r.on("server", f"httpd-{mpm}", BINARY, "-D", "FOREGROUND", "-f", home / "httpd.conf")
    r.listening(port)
    return p


def play(r):
    if not BINARY or not MODULES:
        raise Skip("apache2 is not installed")
    r.https("client", 9443)
    big = r.t.www("big", 3_000_000)
    r.t.www("small", 10)
    r.dir.chmod(0o755)
    serve(r, "event", 8443, "StartServers 1\nThreadsPerChild 8\nMaxRequestWorkers 8\nServerLimit 1")
    serve(r, "prefork", 8444, "StartServers 4\nMinSpareServers 4\nMaxRequestWorkers 4\nMaxRequestsPerChild 0")
    r.attach()

    def curl(*args):
        return r.do("client", "curl", "-sSk", *args, env=r.env)
    for how in ("--http1.1", "--http2"):
        got = curl(how, f"https://{SRV}:8443/big", f"https://{SRV}:8443/small")
        equal(got, big + pattern("small", 10), how)
    equal(curl("--http1.1", f"https://{SRV}:8443/up/x-300000"), pattern("x", 300000), "mod_proxy")
    r.do("client", "h2load", "-n", "120", "-c", "6", "-m", "4", f"https://{SRV}:8443/small", env=r.preload())
    r.do("client", "ab", "-q", "-n", "200", "-c", "8", f"https://{SRV}:8444/small", env=r.preload())
    r.row("apache2 event h1", "libssl.so.3", "server", 8443, lambda c, s: c.startswith(b"GET"), at_least=2)
    # h2load does not wait for the answer to its GOAWAY
    r.row("apache2 event h2", "libssl.so.3", "server", 8443, at_least=7, peer_unread=64)
    r.row("apache2 prefork, 200 short", "libssl.so.3", "server", 8444, at_least=200)
    r.row("apache2 mod_proxy client", "libssl.so.3", "server", 9443)


roles(play, needs=["curl", "h2load", "ab", "gcc"])
