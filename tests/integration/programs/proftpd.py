#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""ProFTPD with mod_tls: control connection read on descriptor 0 and written on 1, data connections on two
descriptors; AUTH TLS and TLS from the start; curl and lftp are the clients."""
from role import SRV, equal, lib, pattern, roles

EXPLICIT, IMPLICIT = 21, 990
DATA = {EXPLICIT: (2121, 2122), IMPLICIT: (2990, 2991)}
CONF = """
LoadModule mod_tls.c
ModulePath /usr/lib/proftpd
ServerType standalone
ServerName mirror.test
ServerIdent off
DefaultAddress {addr}
SocketBindTight on
Port {port}
PassivePorts {data} {last}
User root
Group root
UseIPv6 off
UseReverseDNS off
PidFile {home}/pid
ScoreboardFile {home}/scoreboard
DelayTable {home}/delay
SystemLog {home}/log
WtmpLog off
TransferLog none
AuthOrder mod_auth_file.c
AuthUserFile {home}/users
AuthGroupFile {home}/groups
RequireValidShell off
AllowOverwrite on
UseSendfile on
TLSEngine on
TLSProtocol TLSv1.2 TLSv1.3
TLSRSACertificateFile {crt}
TLSRSACertificateKeyFile {key}
TLSRequired on
TLSOptions NoSessionReuseRequired {options}
TLSLog {home}/tls.log
"""


def server(r, port):
    home, ftp = r.dir / f"proftpd{port}", r.dir / "ftp"
    home.mkdir()
    crt, key = r.t.cert()
    options = "UseImplicitSSL" if port == IMPLICIT else ""
    (home / "conf").write_text(CONF.format(addr=SRV, port=port, data=DATA[port][0], last=DATA[port][-1], home=home, crt=crt, key=key,
                                           options=options))
    word = lib.sh("openssl", "passwd", "-6", "p").strip()
    (home / "users").write_text(f"u:{word}:65534:65534::{ftp}:/bin/false\n")
    (home / "groups").write_text("g:x:65534:u\n")
    for f in ("users", "groups"):
        (home / f).chmod(0o600)
    r.on("server", "proftpd", "proftpd", "-n", "-q", "-c", home / "conf")
    r.listening(port)


def talk_curl(r, url, name, *args):
    up = r.dir / f"up-{name}"
    up.write_bytes(pattern(name, 700_000))
    r.do("client", "curl", "-sSk", "-u", "u:p", *args, f"{url}/{name}", "-T", up, env=r.env)
    equal(lib.sha256((r.dir / "ftp" / name).read_bytes()), lib.sha256(pattern(name, 700_000)), "what curl put")
    got = r.do("client", "curl", "-sSk", "-u", "u:p", *args, f"{url}/big", f"{url}/small", env=r.env)
    equal(lib.sha256(got), lib.sha256(pattern("big", 1_500_000) + pattern("small", 5)), "what curl got")
    r.do("client", "curl", "-sSk", "-u", "u:p", *args, f"{url}/", env=r.env)


def talk_lftp(r, url, name):
    up, got = r.dir / f"up-{name}", r.dir / f"got-{name}"
    up.write_bytes(pattern(name, 300_000))
    script = ["set ssl:verify-certificate no", "set ftp:ssl-force yes", "set ftp:ssl-protect-data yes",
              f"open -u u,p {url}", "ls", f"put {up}", f"get big -o {got}", f"get small -o {got}2", "bye"]
    r.do("client", "lftp", "--norc", "-c", "; ".join(script), env={**r.env, "HOME": str(r.dir)})
    equal(lib.sha256(got.read_bytes()), lib.sha256(pattern("big", 1_500_000)), "what lftp got")
    equal(lib.sha256((r.dir / "ftp" / up.name).read_bytes()), lib.sha256(pattern(name, 300_000)), "what lftp put")


def play(r):
    (r.dir / "ftp").mkdir()
    (r.dir / "ftp").chmod(0o777)
    (r.dir / "ftp/big").write_bytes(pattern("big", 1_500_000))
    (r.dir / "ftp/small").write_bytes(pattern("small", 5))
    server(r, EXPLICIT)
    server(r, IMPLICIT)
    r.attach()
    talk_curl(r, f"ftp://{SRV}", "explicit", "--ssl-reqd")
    talk_curl(r, f"ftp://{SRV}", "explicit12", "--ssl-reqd", "--tls-max", "1.2")
    talk_curl(r, f"ftps://{SRV}", "implicit")
    talk_lftp(r, f"ftp://{SRV}", "lftp")
    talk_lftp(r, f"ftps://{SRV}", "lftp-implicit")
    for port, how, speaks in ((EXPLICIT, "AUTH TLS", "ftp"), (IMPLICIT, "TLS from the start", "tls")):
        r.row(f"proftpd control, {how}", "libssl.so.3", "server", port, decode=speaks, at_least=4)
        r.row(f"proftpd data, {how}", "libssl.so.3", "server", DATA[port][0], at_least=8)
        r.row(f"curl client to proftpd, {how}", "libssl.so.3", "client", port, decode=speaks, at_least=3,
              only=lambda c, _: b"EPSV" in c)
        r.row(f"lftp client to proftpd, {how}", "libgnutls.so.30", "client", port, decode=speaks)


roles(play, needs=["proftpd", "curl", "lftp"])
