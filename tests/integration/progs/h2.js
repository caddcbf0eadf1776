// SPDX-License-Identifier: Apache-2.0
// An HTTP/2 server that keeps account of what it was asked and what it answered, one line of JSON a
// stream; and a client on one connection that does what it is told on stdin.
//   h2.js serve ADDR PORT CERT KEY
//   h2.js ask ADDR PORT            METHOD PATH [BODY-BYTES] a line; prints "METHOD PATH STATUS SHA256"
'use strict';
const http2 = require('http2');
const crypto = require('crypto');
const readline = require('readline');

const sha = (b) => crypto.createHash('sha256').update(b).digest('hex');

// The same bytes as pattern() of lib.py gives.
const pattern = (seed, n) => crypto.createHash('shake128', { outputLength: n }).update(seed).digest();

function tell(line) {
  process.stdout.write(JSON.stringify(line) + '\n');
}

function answer(stream, headers, body) {
  const method = headers[':method'], path = headers[':path'];
  const told = { method, path, in: sha(body), in_len: body.length, status: 200, out: sha('') };
  const bytes = /^\/bytes-(\d+)/.exec(path);

  if (path === '/nothing') {
    told.status = 204;
    stream.respond({ ':status': 204 }, { endStream: true });
  } else if (path === '/hints') {
    stream.additionalHeaders({ ':status': 100 });
    stream.additionalHeaders({ ':status': 103, link: '</a.css>' });
    stream.respond({ ':status': 200, 'content-type': 'text/plain' });
    stream.end('hinted');
    told.out = sha('hinted');
  } else if (path === '/trailers') {
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0', 'grpc-message': 'fine' }));
    stream.end(body);
    told.out = sha(body);
  } else if (path === '/cancel') {
    stream.respond({ ':status': 200, 'content-length': '1000' });
    stream.write('only a part'); // and the client gives up
    told.out = null;
  } else if (path === '/push') {
    stream.pushStream({ ':path': '/pushed' }, (err, push) => {
      if (!err) {
        push.respond({ ':status': 200, 'content-length': '6' });
        push.end('pushed');
        tell({ method: 'GET', path: '/pushed', in: sha(''), in_len: 0, status: 200, out: sha('pushed') });
      }
      stream.respond({ ':status': 200, 'content-length': '2' });
      stream.end('ok');
    });
    told.out = sha('ok');
  } else {
    const out = bytes ? pattern(path, Number(bytes[1])) : body;
    stream.respond({ ':status': 200, 'content-length': String(out.length), 'set-cookie': ['a=1', 'b=2'] });
    stream.end(method === 'HEAD' ? undefined : out);
    told.out = sha(method === 'HEAD' ? '' : out);
  }
  tell(told);
}

function serve(addr, port, cert, key) {
  const fs = require('fs');
  const server = http2.createSecureServer({
    cert: fs.readFileSync(cert), key: fs.readFileSync(key), settings: { enableConnectProtocol: true },
  });
  server.on('stream', (stream, headers) => {
    const parts = [];
    stream.on('error', () => {});
    if (headers[':protocol'] === 'websocket') {
      stream.respond({ ':status': 200 });
      stream.on('data', (b) => stream.write(b));
      stream.on('end', () => stream.end());
      tell({ method: 'GET', path: headers[':path'], in_len: 0, status: 101 });
      return;
    }
    stream.on('data', (b) => parts.push(b));
    stream.on('end', () => answer(stream, headers, Buffer.concat(parts)));
  });
  server.listen(Number(port), addr, () => tell('listening'));
}

function ask(addr, port) {
  const client = http2.connect(`https://${addr}:${port}`, { rejectUnauthorized: false });
  client.on('stream', (pushed) => pushed.resume());
  client.on('error', (e) => console.log('error', e.message));
  readline.createInterface({ input: process.stdin }).on('line', (line) => {
    const [method, path, n] = line.split(' ');
    const headers = { ':method': method, ':path': path, 'x-a': 'always the same', cookie: 'c=1; d=2' };
    let status = 0;
    const got = crypto.createHash('sha256');

    if (method === 'quit')
      return client.close(() => process.exit(0));
    if (method === 'WEBSOCKET') {
      headers[':method'] = 'CONNECT';
      headers[':protocol'] = 'websocket';
    }
    const stream = client.request(headers, { endStream: !n });
    stream.on('response', (h) => {
      status = h[':status'];
      if (method === 'WEBSOCKET') // nobody speaks before the answer
        stream.end(pattern(path, Number(n)));
    });
    stream.on('data', (b) => {
      got.update(b);
      if (path === '/cancel')
        stream.close(http2.constants.NGHTTP2_CANCEL);
    });
    stream.on('error', () => {});
    stream.on('close', () => console.log(method, path, status, got.digest('hex')));
    if (n && method !== 'WEBSOCKET')
      stream.end(pattern(path, Number(n)));
  });
  client.on('connect', () => console.log('connected'));
}

({ serve, ask })[process.argv[2]](...process.argv.slice(3));
