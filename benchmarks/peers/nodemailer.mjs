// nodemailer with a pool, as a worker: see benchmarks/worker.py. Its folder of packages is the first argument.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

const require = createRequire(process.argv[2] + "/");
const nodemailer = require("nodemailer");
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (answer) => process.stdout.write(JSON.stringify(answer) + "\n");
const nextLine = async () => (await lines.next()).value;

class NotAvailable extends Error {}

function connect(work) {
  return nodemailer.createTransport({
    host: "127.0.0.1",
    port: work.port,
    name: "client.example.org",
    secure: false,
    ignoreTLS: true,
    pool: true,
    maxConnections: work.connections,
    maxMessages: Infinity,
  });
}

function mails(work) {
  const letters = JSON.parse(readFileSync(work.letters, "utf8"));
  const made = letters.map((letter) =>
    work.form === "objects"
      ? { from: letter.sender, to: letter.recipients, subject: letter.subject, text: letter.text }
      : {
          envelope: { from: letter.sender, to: letter.recipients },
          raw: Buffer.from(letter.octets, "base64"),
        },
  );
  return Array.from({ length: work.warm + work.count }, (_, number) => made[number % made.length]);
}

async function begin() {
  globalThis.gc?.();
  say({ ready: true });
  await nextLine();
  return { cpu: process.cpuUsage(), start: process.hrtime.bigint() };
}

function end({ cpu, start }) {
  const seconds = Number(process.hrtime.bigint() - start) / 1e9;
  const { user, system } = process.cpuUsage(cpu);
  return { seconds, cpu_seconds: (user + system) / 1e6 };
}

async function inARow(work) {
  const todo = mails(work);
  let transport, clock;
  for (const [number, mail] of todo.entries()) {
    if (number === work.warm) clock = await begin();
    transport ??= connect(work);
    await transport.sendMail(mail);
  }
  const result = end(clock);
  transport.close();
  return result;
}

// Its way for many messages: hand them all to the pool.
async function atOnce(work) {
  const todo = mails(work);
  let transport;
  if (work.warm) {
    transport = connect(work);
    await Promise.all(todo.slice(0, work.warm).map((mail) => transport.sendMail(mail)));
  }
  const clock = await begin();
  transport ??= connect(work);
  await Promise.all(todo.slice(work.warm).map((mail) => transport.sendMail(mail)));
  const result = end(clock);
  transport.close();
  return result;
}

async function large(work) {
  const [small] = mails({ ...work, warm: 0, count: 1, form: "octets" });
  const raw = readFileSync(work.path);
  const transport = connect(work);
  await transport.sendMail(small);
  const clock = await begin();
  await transport.sendMail({ envelope: small.envelope, raw });
  const result = end(clock);
  transport.close();
  return result;
}

const ways = { sequence: inARow, bulk: atOnce, concurrent: atOnce, large };

for (let line; (line = await nextLine()) !== undefined; ) {
  const work = JSON.parse(line);
  if (work === "versions") {
    say({ nodemailer: require("nodemailer/package.json").version, "Node.js": process.versions.node });
    continue;
  }
  try {
    if (work.chunking) throw new NotAvailable("nodemailer has no BDAT");
    if (work.watch) throw new NotAvailable("not measured");
    if (!(work.way in ways)) throw new NotAvailable("not measured");
    say(await ways[work.way](work));
  } catch (error) {
    say(error instanceof NotAvailable ? { unavailable: error.message } : { error: error.stack });
  }
}
