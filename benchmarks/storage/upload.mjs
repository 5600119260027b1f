// What programs of this kind usually do in Node.js: all the data in memory, made at the start; ten parts of 100 MB, in
// batches of five; one agent with ten sockets. Only what Node.js itself brings; no SDK, no hash of the bodies: less work
// than most do.
import crypto from 'node:crypto';
import http from 'node:http';

const [endpoint, mode] = process.argv.slice(2);
const PART = 100_000_000;
const PARTS = 10;
const BATCH = 5;

const agent = new http.Agent({ keepAlive: true, maxSockets: 10 });
const parts = Array.from({ length: PARTS }, () => crypto.randomBytes(PART));

function ask(method, path, body) {
  return new Promise((resolve, reject) => {
    const headers = { 'Content-Length': body ? body.length : 0 };
    const request = http.request(`${endpoint}${path}`, { method, agent, headers }, (response) => {
      const pieces = [];
      response.on('data', (piece) => pieces.push(piece));
      response.on('error', reject);
      response.on('end', () => {
        const text = Buffer.concat(pieces).toString();
        if (response.statusCode >= 300) reject(new Error(`${response.statusCode} ${text}`));
        else resolve({ text, etag: response.headers.etag });
      });
    });
    request.on('error', reject);
    request.end(body);
  });
}

const key = `/speed/speed-test/${crypto.randomUUID()}`;
if (mode === 'single') {
  await ask('PUT', key, Buffer.concat(parts));
} else {
  const { text } = await ask('POST', `${key}?uploads`);
  const id = /<UploadId>([^<]*)</.exec(text)[1];
  const tags = [];
  for (let from = 0; from < PARTS; from += BATCH) {
    const batch = parts.slice(from, from + BATCH).map(async (part, offset) => {
      const number = from + offset + 1;
      const { etag } = await ask('PUT', `${key}?partNumber=${number}&uploadId=${id}`, part);
      tags[number - 1] = `<Part><PartNumber>${number}</PartNumber><ETag>${etag}</ETag></Part>`;
    });
    await Promise.all(batch);
  }
  const body = `<CompleteMultipartUpload>${tags.join('')}</CompleteMultipartUpload>`;
  await ask('POST', `${key}?uploadId=${id}`, Buffer.from(body));
}
agent.destroy();
