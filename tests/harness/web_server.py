# A web server for tests: python3 web_server.py IP DIRECTORY [CHAIN KEY]. Plain, or HTTPS with a certificate; on a free
# port. Says lines of JSON: {"port": PORT}, then {"from": "IP", "asked": "/path", "status": STATUS} for each request.
import functools, http.server, json, ssl, sys

ip, directory, *certificate = sys.argv[1:]


def say(**words):
    print(json.dumps(words), flush=True)


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_request(self, code="-", size="-"):
        say(**{"from": self.client_address[0], "asked": self.path, "status": int(code)})


class Server(http.server.ThreadingHTTPServer):
    def get_request(self):
        connection, addr = super().get_request()
        connection.settimeout(30)
        return connection, addr


server = Server((ip, 0), functools.partial(Handler, directory=directory))
if certificate:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    # The handshake belongs to the thread of its connection: one that fails must not end the server.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
say(port=server.server_address[1])
server.serve_forever()
