// SPDX-License-Identifier: Apache-2.0
// node: web ADDR PORT CERT KEY (https, HTTP/1.1), web2 … (http2), echo … (tls): servers;
// get ADDR PORT PATH, get2 …: clients that print the SHA-256 of the answer; post ADDR PORT SIZE;
// clients ADDR PORT COUNT ROUNDS equal|random: connections to an echo server, all at once.
// GET /NAME-SIZE answers SIZE bytes of SHAKE-128 of NAME.
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const http2 = require('http2');
const https = require('https');
const tls = require('tls');

const [what, addr, port, ...rest] = process.argv.slice(2);
const pattern = (seed, size) => size ? crypto.createHash('shake128', {outputLength: size}).update(seed).digest()
                                     : Buffer.alloc(0);
const sha256 = (b) => crypto.createHash('sha256').update(b).digest('hex');
const say = (...w) => fs.writeSync(1, w.join(' ') + '\n');
const anyone = {host: addr, port: Number(port), rejectUnauthorized: false};

function whole(stream, then) {
	const parts = [];
	stream.on('data', (d) => parts.push(d));
	stream.on('end', () => then(Buffer.concat(parts)));
}

function answer(req, res) {
	whole(req, (asked) => {
		const cut = req.url.lastIndexOf('-');
		const body = req.method === 'POST' ? Buffer.from(`${asked.length} ${sha256(asked)}\n`)
			: pattern(req.url.slice(1, cut), Number(req.url.slice(cut + 1)));
		res.writeHead(200, {'content-length': body.length});
		res.end(body);
	});
}

function serve() {
	const options = {cert: fs.readFileSync(rest[0]), key: fs.readFileSync(rest[1])};
	const server = what === 'web' ? https.createServer(options, answer)
		: what === 'web2' ? http2.createSecureServer(options, answer)
		: tls.createServer(options, (s) => { s.on('error', () => {}); s.pipe(s); });
	server.listen(Number(port), addr, 256, () => say('listening'));
}

function request(method, path, body) {
	const agent = new https.Agent({keepAlive: false});
	const req = https.request({...anyone, path, method, agent, headers: {'content-length': body.length}},
		(res) => whole(res, (b) => say('answer', b.length, sha256(b), method === 'POST' ? b : '')));
	req.end(body);
}

function request2(paths) {
	const session = http2.connect(`https://${addr}:${port}`, {rejectUnauthorized: false});
	let left = paths.length;
	for (const path of paths) {
		const req = session.request({':path': path});
		whole(req, (b) => {
			say('answer', b.length, sha256(b));
			if (--left === 0)
				session.close();
		});
		req.end();
	}
}

// All connections send their message of a round in the same turn of the event loop.
async function clients(count, rounds, sizes) {
	let total = 0;
	const lengths = [1, 16, 700, 16384, 20000, 65537];
	const open = () => new Promise((done, failed) => {
		const s = tls.connect(anyone, () => done(s));
		s.on('error', failed);
	});
	const conns = await Promise.all(Array.from({length: count}, open));
	for (let r = 0; r < rounds; r++) {
		await Promise.all(conns.map((s, i) => new Promise((done, failed) => {
			const size = sizes === 'equal' ? 600 : lengths[(i * 7 + r * 5) % lengths.length] + i;
			const data = pattern(`${i} ${r}`, size);
			let got = Buffer.alloc(0);
			const take = (d) => {
				got = Buffer.concat([got, d]);
				if (got.length < size)
					return;
				s.removeListener('data', take);
				total += size;
				got.equals(data) ? done() : failed(new Error(`wrong echo ${i} ${r}`));
			};
			s.on('data', take);
			s.write(data);
		})));
	}
	for (const s of conns)
		s.end();
	say('done', total);
}

if (what === 'web' || what === 'web2' || what === 'echo')
	serve();
else if (what === 'get')
	for (const path of rest)
		request('GET', path, Buffer.alloc(0));
else if (what === 'post')
	request('POST', '/post', pattern('post', Number(rest[0])));
else if (what === 'get2')
	request2(rest);
else
	clients(Number(rest[0]), Number(rest[1]), rest[2]).catch((e) => { say(e); process.exit(1); });
