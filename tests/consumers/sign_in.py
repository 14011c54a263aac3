"""Libraries of others against both ends of a sign-in with a certificate.

sign_in.py verify CONTROL CERTIFICATE... serves a token endpoint on a free port, which it prints. PyJWT
verifies each assertion that it gets with one of the certificates (PEM); a good one gets an access
token of the simulated Graph at CONTROL. Each request is a line of output, and a fault begins with
"FAULT".

sign_in.py msal CONTROL DIRECTORY drives the token endpoint of the simulated Graph with msal, by the
files that sign_in.sh made in DIRECTORY."""
import base64
import http.server
import json
import sys
import time
import urllib.parse
import urllib.request

from cryptography import x509
from cryptography.hazmat.primitives import hashes

TENANT = "00000000-0000-0000-0000-000000000000"
CLIENT = "11111111-1111-1111-1111-111111111111"
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask_control(control, path, body=None, method="POST"):
    data = json.dumps(body if body is not None else {}).encode()
    request = urllib.request.Request(f"{control}/control/{path}", data, method=method)
    with direct.open(request, timeout=30) as answer:
        return json.load(answer)


def url64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def verify(form, endpoint, certificates, used):
    """What is wrong with a token request, as an exception; else what was verified."""
    import jwt

    fields = dict(urllib.parse.parse_qsl(form, strict_parsing=True))
    kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    assert fields.pop("client_assertion_type") == kind
    assert fields.pop("grant_type") == "client_credentials"
    assert fields.pop("scope").endswith("/.default")
    client, assertion = fields.pop("client_id"), fields.pop("client_assertion")
    assert not fields, f"unexpected fields {sorted(fields)}"
    header = jwt.get_unverified_header(assertion)
    assert header == {"typ": "JWT", "alg": "PS256", "x5t#S256": header.get("x5t#S256")}, header
    thumbprints = {url64(one.fingerprint(hashes.SHA256())): one for one in certificates}
    signer = thumbprints[header["x5t#S256"]]
    claims = jwt.decode(
        assertion, signer.public_key(), algorithms=["PS256"], audience=endpoint, issuer=client, leeway=0,
        options={"require": ["aud", "iss", "sub", "jti", "nbf", "iat", "exp"]},
    )
    assert claims["sub"] == client, claims["sub"]
    assert set(claims) == {"aud", "iss", "sub", "jti", "nbf", "iat", "exp"}, sorted(claims)
    assert claims["exp"] - claims["iat"] == 600 and claims["nbf"] == claims["iat"]
    assert abs(claims["iat"] - time.time()) < 30, "another clock"
    assert len(claims["jti"]) == 36 and claims["jti"] not in used, "an id is used again"
    used.add(claims["jti"])
    return f"{client} {signer.subject.rfc4514_string()}"


def serve(control, files):
    certificates = [x509.load_pem_x509_certificate(open(file, "rb").read()) for file in files]
    used = set()

    class Endpoint(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            form = self.rfile.read(int(self.headers["Content-Length"])).decode()
            try:
                assert self.headers["Content-Type"] == "application/x-www-form-urlencoded"
                said = verify(form, f"http://{self.headers['Host']}{self.path}", certificates, used)
                status, token = 200, ask_control(control, "access-token")["access_token"]
                answer = {"token_type": "Bearer", "expires_in": 3599, "access_token": token}
            except Exception as fault:  # Whatever it is, the assertion is not what it should be.
                said, status, answer = f"FAULT {fault!r}", 401, {"error": "invalid_client"}
            print(said, flush=True)
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


def drive_msal(control, directory):
    import msal
    import requests

    class BehindTls(requests.Session):
        """Msal accepts https only, and the simulator has no TLS: this client says what a proxy in
        front of it would say."""

        def request(self, method, url, **options):
            headers = {**(options.pop("headers", None) or {}), "X-Forwarded-Proto": "https"}
            url = url.replace("https://", "http://", 1)
            return super().request(method, url, headers=headers, **options)

    session = BehindTls()
    session.trust_env = False
    text = lambda name: open(f"{directory}/{name}").read()
    thumbprint = x509.load_pem_x509_certificate(text("app.crt").encode()).fingerprint(hashes.SHA1()).hex()
    application = {"tenant": TENANT, "client_id": CLIENT, "client_secret": "p+q"}
    ask_control(control, "applications", [{**application, "certificate": text("app.crt")}], "PUT")
    for way, credential, number in (
        ("secret", "p+q", None),
        ("another secret", "p q", 7000215),
        ("certificate, SHA-256 and PS256", {"private_key": text("app.key"), "public_certificate": text("app.crt")}, None),
        ("certificate, SHA-1 and RS256", {"private_key": text("app.key"), "thumbprint": thumbprint}, None),
        ("certificate, PFX", {"private_key_pfx_path": f"{directory}/app.pfx", "passphrase": text("password").strip()}, None),
        ("certificate that is not registered", {"private_key": text("other.key"), "public_certificate": text("other.crt")}, 700027),
        ("key of another certificate", {"private_key": text("other.key"), "public_certificate": text("app.crt")}, 700027),
    ):
        app = msal.ConfidentialClientApplication(
            CLIENT, client_credential=credential, http_client=session, instance_discovery=False,
            authority=control.replace("http://", "https://", 1) + "/" + TENANT,
        )
        answer = app.acquire_token_for_client(["https://graph.microsoft.com/.default"])
        if number is None:
            if "access_token" not in answer:
                sys.exit(f"{way}: no token: {answer}")
            headers = {"Authorization": "Bearer " + answer["access_token"]}
            mailbox = text("mailboxes").split()[0]
            url = f"{control}/v1.0/users/{mailbox}/calendarView?startDateTime=2026-01-01&endDateTime=2026-01-02"
            listing = session.get(url, headers=headers, timeout=30)
            if listing.status_code != 200:
                sys.exit(f"{way}: Graph does not accept the token: {listing.status_code}")
            print(f"{way}: a token, which Graph accepts")
        elif answer.get("error_codes") != [number]:
            sys.exit(f"{way}: not refused with AADSTS{number}: {answer.get('error_codes')}")
        else:
            print(f"{way}: {answer['error']}, AADSTS{number}")


if sys.argv[1] == "verify":
    serve(sys.argv[2], sys.argv[3:])
else:
    drive_msal(*sys.argv[2:])
