#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Dovecot: imap-login, chrooted, whose TLS library never sees a socket (BIO pairs); a process per
connection, and one process for all. curl and Python's imaplib are the clients."""
from role import SRV, check, equal, lib, pattern, roles, until

PORTS = {"a process each": (143, 993), "one process": (1143, 1993)}
CLIENTS = 6
CONF = """
base_dir = {home}/run
{keep}
state_dir = {home}/state
log_path = {home}/log
protocols = imap
listen = {addr}
ssl = required
ssl_cert = <{crt}
ssl_key = <{key}
mail_location = maildir:{home}/mail/%u
passdb {{
  driver = static
  args = nopassword=y
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home={home}/mail/%u
}}
first_valid_uid = 1
first_valid_gid = 1
mail_max_userip_connections = 100
service imap-login {{
  inet_listener imap {{
    port = {plain}
  }}
  inet_listener imaps {{
    port = {tls}
    ssl = yes
  }}
  {extra}
}}
service stats {{
  client_limit = 1000
}}
"""


def server(r, how):
    crt, key = r.t.cert()
    home = r.dir / how.replace(" ", "-")
    home.mkdir()
    (home / "mail").mkdir()
    (home / "mail").chmod(0o777)
    extra = "service_count = 0\n  process_min_avail = 1\n  process_limit = 1" if how == "one process" else ""
    # What it would otherwise clear: see PRELOADED PROGRAMS in the manual.
    keep = "import_environment = $import_environment LD_PRELOAD SSLCOLLECTOR_RUN_DIR" if lib.PRELOADS else ""
    (home / "conf").write_text(CONF.format(home=home, keep=keep, addr=SRV, crt=crt, key=key, plain=PORTS[how][0],
                                           tls=PORTS[how][1], extra=extra))
    p = r.on("server", "dovecot", "dovecot", "-F", "-c", home / "conf")
    until(lambda: not p.alive() or (home / "run" / "master.pid").exists(), 10, "dovecot up")
    check(p.alive(), "dovecot:", p.err()[-400:])
    for port in PORTS[how]:
        r.listening(port)


def talk(r, starttls, imaps):
    mail = r.dir / "mail"
    mail.write_text("Subject: x\r\n\r\n" + "\r\n".join([pattern("mail", 30).hex()] * 5000) + "\r\n")
    for url, *args in ((f"imap://u:p@{SRV}:{starttls}", "--ssl-reqd"), (f"imaps://u:p@{SRV}:{imaps}",),
                       (f"imaps://u:p@{SRV}:{imaps}", "--tls-max", "1.2")):
        r.do("client", "curl", "-sSk", *args, f"{url}/INBOX", "-T", mail, env=r.env)
        got = r.do("client", "curl", "-sSk", *args, f"{url}/INBOX;MAILINDEX=1", env=r.env)
        equal(len(got), mail.stat().st_size, "size of the mail as curl got it")
    many = [r.t.helper(f"imap{i}", "imap.py", SRV, *((starttls, "starttls") if i % 2 else (imaps, "imaps")),
                       f"user{i}", 10, ns=r.cli, env=r.env) for i in range(CLIENTS)]
    for p in many:
        equal(p.wait(40), 0, f"client's status: {p.err()[-500:]}")


def play(r):
    for how in PORTS:
        server(r, how)
    r.attach()
    for ports in PORTS.values():
        talk(r, *ports)
    for how, (starttls, imaps) in PORTS.items():
        r.row(f"dovecot imap-login, STARTTLS, {how}", "libssl.so.3", "server", starttls, decode="imap",
              at_least=2 + CLIENTS // 2)
        r.row(f"dovecot imap-login, IMAPS, {how}", "libssl.so.3", "server", imaps, at_least=4 + CLIENTS // 2)

    def is_curl(c, _):
        return b" LOGIN user" not in c
    r.row("curl client imap, STARTTLS", "libssl.so.3", "client", PORTS["one process"][0], decode="imap",
          only=is_curl, at_least=2)
    r.row("curl client imaps", "libssl.so.3", "client", PORTS["one process"][1], only=is_curl, at_least=4)


roles(play, needs=["dovecot", "curl"])
