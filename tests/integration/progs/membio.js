// SPDX-License-Identifier: Apache-2.0
// N TLS connections through node's tls module; speaks what membio.c speaks, see there and membio.py.
// server|client ADDR PORT CERT KEY N ROUNDS SIZE [cross]
// cross: what a client's connection says first is written inside of the library's callback that says that
// the next connection is ready.
'use strict';
const fs = require('fs'), tls = require('tls');
const [role, addr, port, crt, key, n, rounds, size, cross] = process.argv.slice(2);
const count = Number(n), last = Number(rounds), fixed = size === 'random' ? 0 : Number(size);

function messageLen(me, r) {
  if (fixed) return fixed;
  let x = (Math.imul(me, 2654435761) + Math.imul(r, 40503)) >>> 0;
  x = (x ^ (x >>> 15)) >>> 0;
  x = Math.imul(x, 2246822519) >>> 0;
  x = (x ^ (x >>> 13)) >>> 0;
  return 1 + x % 40000;
}

function stream(me, way, at, len) {
  const first = Math.floor(at / 32), end = Math.ceil((at + len) / 32), out = [];
  for (let i = first; i < end; i++)
    out.push(`<${String(me).padStart(5, '0')} ${way} ${String(i).padStart(21, '0')}>\n`);
  return Buffer.from(out.join('')).subarray(at - first * 32, at - first * 32 + len);
}

let left = count;
let begin = [], ready = 0;
function start(say) {
  if (cross !== 'cross') return say();
  begin.splice(0).forEach((f) => f());
  begin.push(say);
  if (++ready === count) setTimeout(say, 50);
}

function talk(s, me, way, speaksFirst, over) {
  let r = 0, sent = 0, got = 0, have = [], len = 0;
  const say = () => { const m = messageLen(me, r); s.write(stream(me, way, sent, m)); sent += m; };
  s.setNoDelay(true);
  if (speaksFirst) start(say);
  s.on('data', (d) => {
    have.push(d);
    len += d.length;
    const want = messageLen(me, r);
    if (len < want) return;
    if (len > want || !Buffer.concat(have).equals(stream(me, 1 - way, got, want)))
      throw new Error(`another connection's bytes on ${me}`);
    got += want;
    have = [];
    len = 0;
    if (!speaksFirst) say();
    r++;
    if (speaksFirst) { if (r < last) say(); else s.end(); }
  });
  s.on('close', () => { console.log('flow', me, sent, got); if (--left === 0) over(); });
}

if (role === 'server') {
  const opts = { cert: fs.readFileSync(crt), key: fs.readFileSync(key) };
  const server = tls.createServer(opts, (s) => talk(s, s.remotePort, 1, false, () => {
    console.log('done');
    server.close();
  }));
  server.listen(Number(port), addr, 511, () => console.log('listening'));
} else {
  for (let i = 0; i < count; i++) {
    const s = tls.connect({ host: addr, port: Number(port), rejectUnauthorized: false }, () =>
      talk(s, s.localPort, 0, true, () => console.log('done')));
  }
}
