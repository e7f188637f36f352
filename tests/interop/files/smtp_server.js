'use strict'
// nodemailer's smtp-server: refuses what Server in launcher.py names, and stores each message as one file of JSON before
// it is answered. In LMTP, a recipient `late4xx...` or `late5xx...` is refused after the content.
// Run: node smtp_server.js SETTINGS.json

const fs = require('node:fs')
const path = require('node:path')

const settings = JSON.parse(fs.readFileSync(process.argv[2]))
const { SMTPServer } = require(settings.module)
let count = 0

function failure(code, text) {
  return Object.assign(new Error(text), { responseCode: code })
}

const options = {
  name: 'smtp-server.test',
  key: fs.readFileSync(settings.key),
  cert: fs.readFileSync(settings.certificate),
  authMethods: settings.mechanisms,
  size: 41943040,
  disableReverseLookup: true,
  hideENHANCEDSTATUSCODES: false,
  hideDSN: false,

  onAuth(auth, session, callback) {
    if (auth.method === 'XOAUTH2') {
      if (auth.accessToken === settings.token) return callback(null, { user: auth.username })
      return callback(null, { data: { status: '401', schemes: 'bearer', scope: 'mail' } })
    }
    const { username, password } = settings
    const knows = auth.method === 'CRAM-MD5' ? auth.validatePassword(password) : auth.password === password
    if (auth.username === username && knows) return callback(null, { user: username })
    callback(failure(535, 'Invalid username or password'))
  },

  onRcptTo({ address }, session, callback) {
    const [user, host] = address.split('@')
    const refusal = /^reject([45]\d\d)/.exec(user)
    if (refusal) return callback(failure(Number(refusal[1]), 'refused on purpose'))
    if (/^defer/.test(user)) return callback(failure(451, 'deferred on purpose'))
    if (/^disc421/.test(user)) return callback(failure(421, 'closing on purpose'))
    if (!settings.domains.includes(host)) return callback(failure(550, 'no delivery outside of this instance'))
    callback()
  },

  onData(stream, session, callback) {
    const { lmtp } = this.options // of the server
    const chunks = []
    stream.on('data', (chunk) => chunks.push(chunk))
    stream.on('end', () => {
      const { mailFrom, rcptTo } = session.envelope
      const refusal = /^end([45]\d\d)/.exec(mailFrom.address)
      if (refusal) return callback(failure(Number(refusal[1]), 'refused on purpose'))
      const late = rcptTo.map(({ address }) => /^late([45]\d\d)/.exec(address))
      const recipients = rcptTo.map(({ address }) => address).filter((address, i) => !late[i] && !/^discard/.test(address))
      const name = path.join(settings.store, `${process.pid}-${count++}`) // another one after a restart
      const content = Buffer.concat(chunks).toString('base64')
      fs.writeFileSync(`${name}.part`, JSON.stringify({ recipients, content, mailFrom, rcptTo }))
      fs.renameSync(`${name}.part`, `${name}.json`)
      // In SMTP, too, it would send one reply for each.
      const verdicts = late.map((match) => (match ? failure(Number(match[1]), 'refused on purpose') : 'stored'))
      callback(null, lmtp ? verdicts : 'stored')
    })
  },
}

for (const [service, { port, tls, lmtp, authenticates, idle_seconds }] of Object.entries(settings.services)) {
  const server = new SMTPServer({
    ...options,
    secure: tls === 'implicit',
    lmtp,
    authOptional: !authenticates,
    disabledCommands: tls === 'none' ? ['STARTTLS', 'AUTH'] : [],
    socketTimeout: 1000 * (idle_seconds ?? 300),
  })
  server.on('error', (error) => console.log(service, error.message)) // a handshake that failed, a lost connection
  server.listen(port, '127.0.0.1')
}
