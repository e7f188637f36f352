// Send the messages that stdin describes, by nodemailer; the argument is the port.
const nodemailer = require("nodemailer");

const transport = nodemailer.createTransport({
  host: "127.0.0.1",
  port: Number(process.argv[2]),
  secure: false,
  ignoreTLS: true,
  pool: true,
  maxConnections: 1,
});
const pdf = Buffer.concat([
  Buffer.from("%PDF-1.7 "),
  ...Array(20).fill(Buffer.from(Array.from({ length: 256 }, (_, byte) => byte))),
]);

async function main() {
  let input = "";
  for await (const chunk of process.stdin) input += chunk;
  for (const spec of JSON.parse(input)) {
    const message = {
      from: { name: spec.sender_name, address: spec.sender },
      to: spec.to.map(([name, address]) => ({ name, address })),
      cc: spec.cc,
      bcc: spec.bcc,
      subject: spec.subject,
      text: spec.text,
    };
    if (spec.html !== null) message.html = spec.html;
    if (spec.file !== null) message.attachments = [{ filename: spec.file, content: pdf }];
    if (spec.reply_to !== null) message.replyTo = spec.reply_to;
    await transport.sendMail(message);
  }
  transport.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
