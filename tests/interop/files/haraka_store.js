'use strict'
// A plugin of Haraka: refuses what Server in launcher.py names, and whoever is not authenticated but for those on the
// plain ports, and stores each message as one file of JSON before it is answered.

const fs = require('node:fs')
const path = require('node:path')
const DSN = require('haraka-dsn')

// Haraka sets HARAKA to the folder of this instance.
const folder = path.join(process.env.HARAKA, 'mail')
const settings = JSON.parse(fs.readFileSync(path.join(process.env.HARAKA, 'store.json')))
let count = 0

exports.register = function () {
  this.register_hook('lookup_rdns', 'name_client')
  this.register_hook('connect', 'begin')
  this.register_hook('rcpt', 'recipient')
  this.register_hook('data_post', 'refuse')
  // What comes from an authenticated client Haraka takes for outbound mail.
  for (const hook of ['queue', 'queue_outbound']) this.register_hook(hook, 'store')
}

// Nothing is asked of a name server.
exports.name_client = function (next) {
  next(OK, 'localhost')
}

exports.begin = function (next, connection) {
  const seconds = settings.idle_seconds[connection.local.port]
  if (seconds) connection.client.setTimeout(1000 * seconds)
  next()
}

exports.recipient = function (next, connection, params) {
  const { user, host } = params[0]
  const refusal = /^reject([45]\d\d)/.exec(user)
  if (refusal) return next(DENY, DSN.create(refusal[1], 'refused on purpose', 7, 1))
  if (/^defer/.test(user)) return next(DENYSOFT, DSN.create(451, 'deferred on purpose', 7, 1))
  if (/^disc421/.test(user)) return next(DENYSOFTDISCONNECT, DSN.create(421, 'closing on purpose', 3, 2))
  if (settings.plain.includes(connection.local.port)) connection.relaying = true
  if (!connection.relaying) return next(DENY, DSN.create(550, 'authenticate first', 7, 1))
  if (!settings.domains.includes(host)) return next(DENY, DSN.create(550, 'no delivery outside of this instance', 7, 1))
  next(OK)
}

exports.refuse = function (next, connection) {
  const refusal = /^end([45]\d\d)/.exec(connection.transaction.mail_from.user)
  if (refusal) return next(refusal[1] < '500' ? DENYSOFT : DENY, DSN.create(refusal[1], 'refused on purpose', 7, 1))
  next()
}

exports.store = function (next, connection) {
  const { message_stream, rcpt_to } = connection.transaction
  message_stream.get_data((content) => {
    const recipients = rcpt_to.map((address) => address.address).filter((address) => !/^discard/.test(address))
    if (!recipients.length) return next(OK)
    const name = path.join(folder, `${process.pid}-${count++}`) // another one after a restart
    fs.writeFileSync(`${name}.part`, JSON.stringify({ recipients, content: content.toString('base64') }))
    fs.renameSync(`${name}.part`, `${name}.json`)
    next(OK)
  })
}
