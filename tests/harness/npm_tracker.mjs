// The tracker of npm's bittorrent-tracker for tests: node npm_tracker.mjs NODE_MODULES HOST [CHAIN KEY]. HTTP and UDP on
// free ports of HOST, UDP on ::1 too, with a certificate HTTPS as well. Says lines of JSON: {"http": PORT, "udp": PORT,
// "udp6": PORT, "https": PORT}, then {"event": "start|update|complete|stop", "addr", "hash", "left"}.
import fs from 'node:fs'
import https from 'node:https'

const [modules, host, chain, key] = process.argv.slice(2)
const { default: Server } = await import(`${modules}/bittorrent-tracker/server.js`)

const say = words => console.log(JSON.stringify(words))
const server = new Server({ http: true, udp: true, ws: false, stats: false, trustProxy: false })
server.on('error', error => { console.error(error); process.exit(1) })
server.on('warning', error => console.error(String(error)))
for (const event of ['start', 'update', 'complete', 'stop']) {
  server.on(event, (addr, params) => say({ event, addr, hash: params.info_hash, left: params.left }))
}
// It would send IPv4 peers in its UDP answers over IPv6 (BEP 15 wants those of IPv6).
const onRequest = server._onRequest.bind(server)
server._onRequest = (params, answer) => onRequest(params, (error, response) => {
  if (params.type === 'udp' && params.ip?.includes(':') && response?.peers6) response.peers = response.peers6
  answer(error, response)
})
server.listen(0, { http: host, udp: host, udp6: '::1' }, () => {
  const port = socket => socket.address().port
  const ports = { http: port(server.http), udp: port(server.udp4), udp6: port(server.udp6) }
  if (!chain) return say(ports)
  const secure = https.createServer({ cert: fs.readFileSync(chain), key: fs.readFileSync(key) })
  secure.on('request', (request, response) => server.onHttpRequest(request, response))
  secure.listen(0, host, () => say({ ...ports, https: secure.address().port }))
})
process.stdin.on('end', () => process.exit(0)).resume()
