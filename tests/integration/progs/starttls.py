# SPDX-License-Identifier: Apache-2.0
"""Servers that talk in the clear first, then over TLS on the same connection.
ADDR CERT KEY KIND=PORT...

Kinds: those of `openssl s_client -starttls`, and "proxied" (a PROXY header, version 1, stands first).
Inside TLS a line is answered with a line. One line a connection on stdout when it is over, as JSON: kind,
port, peer, clear and inner as [received, sent] in hex.
"""
import json
import socket
import ssl
import sys
import threading

addr, cert, key = sys.argv[1:4]
ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
ctx.load_cert_chain(cert, key)
lock = threading.Lock()

TLS_NS = b"xmlns='urn:ietf:params:xml:ns:xmpp-tls'"
EHLO = b"250-mirror.test\r\n250-SIZE 1000\r\n250-STARTTLS\r\n250 HELP\r\n"
EHLO_LAST = b"250-mirror.test\r\n250-SIZE 1000\r\n250 STARTTLS\r\n"
GREETING = b"\x0a5.7.1\0\x01\0\0\0saltsalt\0\xff\xff\x21\x02\0\xff\xc1\x15" + bytes(10) + b"salt-of-12-b\0mysql_native_password\0"
LDAP_OK = b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00"

# What the server says first, and how it answers the last bytes of what it got. True: TLS follows.
TALKS = {
    "smtp": (b"220 mirror.test ESMTP\r\n", [(b"EHLO", EHLO, False), (b"STARTTLS", b"220 2.0.0 Ready\r\n", True)]),
    "lmtp": (b"220 mirror.test LMTP\r\n", [(b"LHLO", EHLO_LAST, False), (b"STARTTLS", b"220-Now\r\n220 go\r\n", True)]),
    "pop3": (b"+OK hello <1@mirror.test>\r\n", [(b"STLS", b"+OK Begin TLS\r\n", True)]),
    "imap": (b"* OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] hi\r\n",
             [(b"CAPABILITY", b"* CAPABILITY IMAP4rev1 ID STARTTLS\r\n. OK done\r\n", False),
              (b"STARTTLS", b". OK Begin TLS\r\n", True)]),
    "ftp": (b"220 (mirror)\r\n", [(b"FEAT", b"211-Features:\r\n AUTH TLS\r\n PBSZ\r\n PROT\r\n211 End\r\n", False),
                                  (b"AUTH TLS", b"234 Proceed\r\n", True)]),
    "nntp": (b"200 hello\r\n", [(b"CAPABILITIES", b"101 list:\r\nVERSION 2\r\nSTARTTLS\r\nREADER\r\n.\r\n", False),
                                (b"STARTTLS", b"382 Continue\r\n", True)]),
    "sieve": (b"\"IMPLEMENTATION\" \"mirror\"\r\n\"STARTTLS\"\r\n\"SASL\" \"\"\r\nOK\r\n",
              [(b"STARTTLS", b"OK \"Begin TLS\"\r\n", True)]),
    "xmpp": (b"", [(b"<stream:stream", b"<stream:stream xmlns='jabber:client' id='1'><stream:features><starttls " + TLS_NS +
                    b"><required/></starttls></stream:features>", False),
                   (b"<starttls", b"<proceed " + TLS_NS + b"/>", True)]),
    "ldap": (b"", [(b"1.3.6.1.4.1.1466.20037", LDAP_OK, True)]),
    "postgres": (b"", [(b"\x04\xd2\x16\x2f", b"S", True)]),
    "mysql": (len(GREETING).to_bytes(3, "little") + b"\0" + GREETING, [(b"\x20\0\0\x01", b"", True)]),
    "proxied": (b"", [(b"PROXY ", b"", True)]),
}
# how much is read at once: a line, or as much as is there
FIXED = {"ldap": 31, "postgres": 8, "mysql": 36}


def line(raw):
    got = b""
    while not got.endswith((b"\n", b">")):
        c = raw.recv(1)
        if not c:
            break
        got += c
    return got


def exact(raw, n):
    got = b""
    while len(got) < n:
        c = raw.recv(n - len(got))
        if not c:
            break
        got += c
    return got


def plain(kind, raw, log):
    hello, rules = TALKS[kind]
    if hello:
        raw.sendall(hello)
        log[1] += hello
    while True:
        got = exact(raw, FIXED[kind]) if kind in FIXED else line(raw)
        log[0] += got
        if not got:
            return False
        for word, answer, tls in rules:
            if word not in got:
                continue
            if answer:
                raw.sendall(answer)
                log[1] += answer
            if tls:
                return True
            break


def serve(kind, port, raw, peer):
    clear, inner = [b"", b""], [b"", b""]
    raw.settimeout(30)
    try:
        if plain(kind, raw, clear):
            s = ctx.wrap_socket(raw, server_side=True)
            f = s.makefile("rb")
            while got := f.readline():
                inner[0] += got
                answer = b"you said " + got
                s.sendall(answer)
                inner[1] += answer
            f.close()
            s.close()
    except OSError as e:
        print(f"{kind}: {e}", file=sys.stderr, flush=True)
    finally:
        raw.close()
    with lock:
        print(json.dumps({"kind": kind, "port": port, "peer": peer[1], "clear": [x.hex() for x in clear],
                          "inner": [x.hex() for x in inner]}), flush=True)


def accept(kind, port, listener):
    while True:
        raw, peer = listener.accept()
        threading.Thread(target=serve, args=(kind, port, raw, peer), daemon=True).start()


for word in sys.argv[4:]:
    kind, port = word.split("=")
    listener = socket.create_server((addr, int(port)), backlog=16)
    threading.Thread(target=accept, args=(kind, int(port), listener), daemon=True).start()
print("listening", flush=True)
for _ in sys.stdin:
    pass
