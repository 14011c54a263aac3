"""A minimal TLS proxy in front of the simulated Graph: tls_proxy.py CERTIFICATE KEY BACKEND [LISTEN].

Accepts TLS directly, and TLS inside a CONNECT to any host, as a proxy that inspects traffic does.
`Host` is passed on unchanged; `X-Forwarded-Proto: https` is added. Listens on a free port of loopback, or at
LISTEN, and prints its port."""
import http.client
import socket
import socketserver
import ssl
import sys

certificate, key, backend = sys.argv[1:4]
host, port = (sys.argv[4] if len(sys.argv) > 4 else "127.0.0.1:0").rsplit(":", 1)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)


def head(stream):
    """The first line and the headers of a message; the line is empty at the end of the stream."""
    line = stream.readline().decode("latin-1").strip()
    headers = []
    while header := stream.readline().decode("latin-1").strip():
        name, _, value = header.partition(":")
        headers.append((name, value.strip()))
    return line, headers


class Connection(socketserver.StreamRequestHandler):
    def handle(self):
        # The first byte of a TLS handshake is 22. Peeking leaves it for TLS.
        if self.request.recv(1, socket.MSG_PEEK) != b"\x16":
            while self.read_line().strip():
                pass
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            with context.wrap_socket(self.request, server_side=True) as secure:
                self.converse(secure)
        except (ssl.SSLError, ConnectionError):
            pass

    def read_line(self):
        line = b""
        while not line.endswith(b"\n") and (byte := self.request.recv(1)):
            line += byte
        return line

    def converse(self, secure):
        stream = secure.makefile("rb")
        while True:
            line, headers = head(stream)
            if not line:
                return
            method, target, _ = line.split(" ", 2)
            sent = {name.lower(): value for name, value in headers}
            body = stream.read(int(sent.get("content-length", 0)))
            inner = http.client.HTTPConnection(backend, timeout=30)
            inner.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in headers + [("X-Forwarded-Proto", "https")]:
                inner.putheader(name, value)
            inner.endheaders(body)
            answer = inner.getresponse()
            content = answer.read()
            reply = [f"HTTP/1.1 {answer.status} {answer.reason}"]
            reply += [
                f"{name}: {value}"
                for name, value in answer.getheaders()
                if name.lower() not in ("content-length", "transfer-encoding", "connection")
            ]
            reply += [f"Content-Length: {len(content)}", "", ""]
            secure.sendall("\r\n".join(reply).encode("latin-1") + content)
            inner.close()


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


with Server((host, int(port)), Connection) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
