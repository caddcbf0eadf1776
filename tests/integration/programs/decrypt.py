# SPDX-License-Identifier: Apache-2.0
"""The judge's eyes: TLS records of a captured connection and its secrets in, plaintext out.

Every record is authenticated by its place in the stream (RFC 8446, 5.2; RFC 5246, 6.2.3.3), so what
comes out is complete, in order and true, or an exception. tshark's "follow" is not used because it
swaps records when packets carry several. The ciphers are libcrypto's; libssl is not involved.
"""
import ctypes
import ctypes.util
import hashlib
import hmac
import struct

HANDSHAKE, ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC = 22, 21, 23, 20
CLIENT_HELLO, SERVER_HELLO = 1, 2
HELLO_RETRY = hashlib.sha256(b"HelloRetryRequest").digest()
# suite: cipher, key bytes, hash (IANA's TLS registry)
SUITES = {s: ("gcm", 16, "sha256") for s in (0x1301, 0xc02b, 0xc02f, 0x9c, 0x9e)}
SUITES |= {s: ("gcm", 32, "sha384") for s in (0x1302, 0xc02c, 0xc030, 0x9d, 0x9f)}
SUITES |= {s: ("chacha", 32, "sha256") for s in (0x1303, 0xcca8, 0xcca9, 0xccaa)}
GENERATIONS = 1000  # of keys, by KeyUpdate

CRYPTO = ctypes.CDLL(ctypes.util.find_library("crypto") or "libcrypto.so.3")
for _name in ("EVP_CIPHER_CTX_new", "EVP_aes_128_gcm", "EVP_aes_256_gcm", "EVP_chacha20_poly1305"):
    getattr(CRYPTO, _name).restype = ctypes.c_void_p
SET_TAG = 0x11  # EVP_CTRL_AEAD_SET_TAG


class Undecryptable(Exception):
    """No secret fits, or the capture is not whole."""


def records(data, pos):
    """The TLS records from offset pos on: (offset, length, type)."""
    while pos is not None and pos + 5 <= len(data):
        size = data[pos + 3] << 8 | data[pos + 4]
        yield pos, size, data[pos]
        pos += 5 + size


def aead_open(cipher, key, nonce, aad, sealed):
    """Plaintext, or None when the tag is wrong."""
    evp = {("gcm", 16): CRYPTO.EVP_aes_128_gcm, ("gcm", 32): CRYPTO.EVP_aes_256_gcm,
           ("chacha", 32): CRYPTO.EVP_chacha20_poly1305}[(cipher, len(key))]
    body, tag = sealed[:-16], sealed[-16:]
    ctx, n = ctypes.c_void_p(CRYPTO.EVP_CIPHER_CTX_new()), ctypes.c_int()
    out = ctypes.create_string_buffer(len(body) + 16)
    try:
        ok = (CRYPTO.EVP_DecryptInit_ex(ctx, ctypes.c_void_p(evp()), None, key, nonce)
              and CRYPTO.EVP_DecryptUpdate(ctx, None, ctypes.byref(n), aad, len(aad))
              and CRYPTO.EVP_DecryptUpdate(ctx, out, ctypes.byref(n), body, len(body))
              and CRYPTO.EVP_CIPHER_CTX_ctrl(ctx, SET_TAG, 16, tag)
              and CRYPTO.EVP_DecryptFinal_ex(ctx, out, ctypes.byref(n)) > 0)
    finally:
        CRYPTO.EVP_CIPHER_CTX_free(ctx)
    return out.raw[:len(body)] if ok else None


def expand_label(secret, label, size, name):
    """HKDF-Expand-Label with an empty context (RFC 8446, 7.1)."""
    info = struct.pack("!HB", size, 6 + len(label)) + b"tls13 " + label + b"\0"
    out, block, i = b"", b"", 1
    while len(out) < size:
        block = hmac.digest(secret, block + info + bytes([i]), name)
        out, i = out + block, i + 1
    return out[:size]


def prf(secret, label, seed, size, name):
    """RFC 5246, 5."""
    out, a = b"", label + seed
    while len(out) < size:
        a = hmac.digest(secret, a, name)
        out += hmac.digest(secret, a + label + seed, name)
    return out[:size]


def xor_nonce(iv, seq):
    return bytes(a ^ b for a, b in zip(iv, bytes(4) + struct.pack("!Q", seq)))


class Key13:
    """One traffic secret; next() is what a KeyUpdate makes of it (RFC 8446, 7.2)."""

    def __init__(self, suite, secret):
        self.suite, self.secret, self.seq = suite, secret, 0
        cipher, size, name = suite
        self.key, self.iv = expand_label(secret, b"key", size, name), expand_label(secret, b"iv", 12, name)

    def open(self, head, body):
        """(type, plaintext) or None."""
        got = aead_open(self.suite[0], self.key, xor_nonce(self.iv, self.seq), head, body)
        if got is None:
            return None
        self.seq += 1
        got = got.rstrip(b"\0")
        return got[-1], got[:-1]

    def next(self):
        size = hashlib.new(self.suite[2]).digest_size
        return Key13(self.suite, expand_label(self.secret, b"traffic upd", size, self.suite[2]))


class Key12:
    def __init__(self, suite, key, iv):
        self.suite, self.key, self.iv, self.seq = suite, key, iv, 0

    def open(self, head, body):
        explicit = 8 if self.suite[0] == "gcm" else 0
        nonce = self.iv + body[:8] if explicit else xor_nonce(self.iv, self.seq)
        body = body[explicit:]
        aad = struct.pack("!Q", self.seq) + head[:3] + struct.pack("!H", len(body) - 16)
        got = aead_open(self.suite[0], self.key, nonce, aad, body)
        if got is None:
            return None
        self.seq += 1
        return head[0], got


class Hello:
    """What the two hellos settled."""

    def __init__(self, data, start):
        self.client_random = bytes(data[0][start[0] + 11:start[0] + 43])
        found = None
        for at, size, kind in records(data[1], start[1]):
            body = data[1][at + 5:at + 5 + size]
            if kind == HANDSHAKE and body[:1] == bytes([SERVER_HELLO]) and bytes(body[6:38]) != HELLO_RETRY:
                found = body
                break
        if not found:
            raise Undecryptable("no ServerHello")
        self.server_random = bytes(found[6:38])
        at = 39 + found[38]
        self.suite_id = found[at] << 8 | found[at + 1]
        self.is_13 = self.has_extension(found, at + 3, 43)
        if self.suite_id not in SUITES:
            raise Undecryptable(f"cipher suite {self.suite_id:#06x} is none of the judge's")
        self.suite = SUITES[self.suite_id]

    @staticmethod
    def has_extension(body, at, wanted):
        end = 4 + int.from_bytes(body[1:4], "big")
        if at + 2 > end:
            return False
        at += 2
        while at + 4 <= end:
            kind, size = struct.unpack_from("!HH", body, at)
            if kind == wanted:
                return True
            at += 4 + size
        return False


def read_secrets(path):
    """{client random: {label: secret}} of a key log."""
    out = {}
    for line in path.read_text(errors="replace").splitlines():
        w = line.split()
        if len(w) == 3 and not w[0].startswith("#"):
            out.setdefault(bytes.fromhex(w[1]), {})[w[0]] = bytes.fromhex(w[2])
    return out


def keys_13(hello, secrets):
    labels = (("CLIENT_EARLY_TRAFFIC_SECRET", "CLIENT_HANDSHAKE_TRAFFIC_SECRET", "CLIENT_TRAFFIC_SECRET_0"),
              ("SERVER_HANDSHAKE_TRAFFIC_SECRET", "SERVER_TRAFFIC_SECRET_0"))
    return [[Key13(hello.suite, secrets[x]) for x in side if x in secrets] for side in labels]


def keys_12(hello, secrets):
    if "CLIENT_RANDOM" not in secrets:
        return [[], []]
    _, size, name = hello.suite
    ivs = 4 if hello.suite[0] == "gcm" else 12
    block = prf(secrets["CLIENT_RANDOM"], b"key expansion", hello.server_random + hello.client_random,
                2 * size + 2 * ivs, name)
    return [[Key12(hello.suite, block[d * size:(d + 1) * size],
                   block[2 * size + d * ivs:2 * size + (d + 1) * ivs])] for d in (0, 1)]


def open_record(keys, head, body):
    """With the present key or a later one; earlier ones are dropped."""
    for i in range(GENERATIONS):
        if i == len(keys):
            if not hasattr(keys[-1], "next") or not keys[-1].seq:
                return None  # a key that never opened anything has no successor
            keys.append(keys[-1].next())
        got = keys[i].open(head, body)
        if got:
            del keys[:i]
            return got
    return None


def one_way(data, start, keys, is_13):
    """The application data of one direction. Whole records only: a cut one at the end is not there."""
    out, ciphered = bytearray(), is_13
    for at, size, kind in records(data, start):
        if at + 5 + size > len(data):
            break
        head, body = bytes(data[at:at + 5]), bytes(data[at + 5:at + 5 + size])
        if kind == CHANGE_CIPHER_SPEC:
            ciphered = True
            continue
        if not ciphered or (is_13 and kind != APPLICATION_DATA):
            continue
        got = open_record(keys, head, body) if keys else None
        if not got:
            raise Undecryptable(f"record at {at} of {len(data)}, type {kind}: no secret fits")
        if got[0] == APPLICATION_DATA:
            out += got[1]
    return bytes(out)


def decrypt(data, start, secrets):
    """[from client, from server] of what was said in TLS; data and start likewise, of the wire.

    A client that gives up before its Finished, as ab does with its last ones, is none of these tests'.
    In TLS 1.3 that is an application data record; in TLS 1.2 a client may send no such record at all and
    still be sent data, as for a download over FTP.
    """
    sent = {kind for _, _, kind in records(data[0], start[0])}
    if start[1] is None or not sent & {APPLICATION_DATA, CHANGE_CIPHER_SPEC}:
        return [b"", b""]
    hello = Hello(data, start)
    if hello.is_13 and APPLICATION_DATA not in sent:
        return [b"", b""]
    mine = secrets.get(hello.client_random, {})
    keys = (keys_13 if hello.is_13 else keys_12)(hello, mine)
    return [one_way(data[d], start[d], keys[d], hello.is_13) for d in (0, 1)]
