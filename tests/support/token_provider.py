"""An OpenID Connect provider on this machine: it signs tokens and tells its public keys."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

AUDIENCE = "loadmaster"


class TokenProvider:
    """Keys by id, served over loopback; `answer` may be replaced to misbehave."""

    def __init__(self):
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                provider.num_asked += 1
                body = provider.answer(self.path)
                self.send_response(200 if body is not None else 500)
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_):
                pass

        self.num_asked = 0
        self.private = {}
        self.public = {}
        self.answer = self.answer_well
        self.add_key("first", "RS256")
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def add_key(self, key_id, algorithm):
        if algorithm == "ES256":
            key = ec.generate_private_key(ec.SECP256R1())
            public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        else:
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            public = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        self.private[key_id] = (key, algorithm)
        self.public[key_id] = public | {"kid": key_id, "alg": algorithm, "use": "sig"}

    def answer_well(self, path):
        if path == "/.well-known/openid-configuration":
            return json.dumps({"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys"}).encode()
        return json.dumps({"keys": list(self.public.values())}).encode()

    def claims(self, **changes):
        now_s = int(time.time())
        claims = {"iss": self.issuer, "aud": AUDIENCE, "sub": "robot", "iat": now_s, "exp": now_s + 60}
        return {name: value for name, value in (claims | changes).items() if value is not None}

    def token(self, key_id="first", scope="place", **changes):
        key, algorithm = self.private[key_id]
        claims = self.claims(scope=scope, **changes)
        return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": key_id})

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
