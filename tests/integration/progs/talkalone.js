// SPDX-License-Identifier: Apache-2.0
// talkalone: node talkalone.js CERT KEY: TLS of one process with itself, on the loopback interface.
"use strict";
const fs = require("fs"), tls = require("tls");
const [crt, key] = process.argv.slice(2).map((f) => fs.readFileSync(f));
const sizes = [1, 100, 16384, 16385, 70000, 3];
let left = sizes.reduce((a, b) => a + b, 0);

const server = tls.createServer({ cert: crt, key }, (c) => c.on("data", (d) => c.write(d)));
server.listen(0, "127.0.0.1", () => {
  const c = tls.connect({ host: "127.0.0.1", port: server.address().port, rejectUnauthorized: false }, () => {
    for (const n of sizes) c.write(Buffer.alloc(n, n % 251));
  });
  c.on("data", (d) => {
    left -= d.length;
    if (left === 0) c.end();
  });
  c.on("close", () => {
    console.log(left === 0 ? "done" : `${left} bytes did not come back`);
    server.close();
  });
});
