"""Authlib's authorization server over Flask on a free port of loopback, all of it in memory: prints {"port": ...} and ends
when its input does.

Unlike oidc-provider it denies a spent refresh token without ending the session, reads a Basic pair with `%20` but not with
`+`, calls a wrong password an `invalid_request`, and puts errors of its own into challenges. Below /test are the routes of
the tests: an API, and what stands in for a person.
"""

import json
import logging
import os
import sys
import threading
import time

# Allows tokens over plain http, because the server listens on loopback.
os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"

from authlib.integrations.flask_oauth2 import AuthorizationServer, ResourceProtector
from authlib.oauth2.rfc6749 import ClientMixin, TokenMixin, grants
from authlib.oauth2.rfc6750 import BearerTokenValidator
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc8628 import DeviceAuthorizationEndpoint, DeviceCodeGrant, DeviceCredentialDict
from flask import Flask, jsonify, request
from werkzeug.serving import make_server

DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
METHODS = ["client_secret_basic", "client_secret_post", "none"]
SCOPES = {"read", "write", "offline_access"}
ODD_SECRET = "s cr:t&=+%41/\""
PASSWORDS = {"ann": "päss wörd&=+"}

# All issued tokens, and the device codes. No two threads of a test write the same entry, so there is no lock.
tokens, devices, decisions, counts = [], {}, {}, {"token_calls": 0}


class Client(ClientMixin):
    def __init__(self, client_id, method, secret=None):
        self.client_id, self.method, self.secret = client_id, method, secret

    def get_client_id(self):
        return self.client_id

    def get_allowed_scope(self, scope):
        return " ".join(word for word in (scope or "").split() if word in SCOPES)

    def check_client_secret(self, client_secret):
        return self.secret == client_secret

    def check_endpoint_auth_method(self, method, endpoint):
        return self.method == method

    def check_grant_type(self, grant_type):
        return grant_type != "client_credentials" or self.secret is not None


class Token(TokenMixin):
    def __init__(self, client, user, answer):
        self.client, self.user, self.answer = client, user, answer
        self.ends, self.spent, self.revoked = time.time() + answer["expires_in"], False, False

    def check_client(self, client):
        return self.client is client

    def get_scope(self):
        return self.answer.get("scope", "")

    def is_expired(self):
        return time.time() > self.ends

    def is_revoked(self):
        return self.revoked


def find(member, text):
    return next((token for token in tokens if text and token.answer.get(member) == text), None)


class Password(grants.ResourceOwnerPasswordCredentialsGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = METHODS

    def authenticate_user(self, username, password):
        return username if PASSWORDS.get(username) == password else None


class Refresh(grants.RefreshTokenGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = METHODS
    INCLUDE_NEW_REFRESH_TOKEN = True

    def authenticate_refresh_token(self, refresh_token):
        token = find("refresh_token", refresh_token)
        return None if not token or token.spent or token.revoked else token

    def authenticate_user(self, refresh_token):
        return refresh_token.user

    def revoke_old_credential(self, refresh_token):
        refresh_token.spent = True


class ClientCredentials(grants.ClientCredentialsGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = METHODS


class Revocation(RevocationEndpoint):
    CLIENT_AUTH_METHODS = METHODS

    def query_token(self, token_string, token_type_hint):
        return find("refresh_token", token_string) or find("access_token", token_string)

    def revoke_token(self, token, request):
        token.revoked = True


class DeviceAuthorization(DeviceAuthorizationEndpoint):
    INTERVAL = 1

    def get_verification_uri(self):
        return f"{base}/device"

    def save_device_credential(self, client_id, scope, data):
        devices[data["device_code"]] = DeviceCredentialDict(client_id=client_id, scope=scope, polls=0, **data)


class Device(DeviceCodeGrant):
    def query_device_credential(self, device_code):
        return devices.get(device_code)

    def query_user_grant(self, user_code):
        return decisions.get(user_code)

    def should_slow_down(self, credential):
        # The second poll is answered with `slow_down`.
        credential["polls"] += 1
        return credential["polls"] == 2


class Validator(BearerTokenValidator):
    def authenticate_token(self, token_string):
        return find("access_token", token_string)


clients = {
    client.client_id: client
    for client in [
        Client("we ird:id+%", "client_secret_basic", ODD_SECRET),
        Client("post", "client_secret_post", ODD_SECRET),
        Client("public", "none"),
    ]
}
app = Flask(__name__)
app.config["OAUTH2_REFRESH_TOKEN_GENERATOR"] = True
app.config["OAUTH2_TOKEN_EXPIRES_IN"] = {"client_credentials": 3600, "password": 3600}
app.config["OAUTH2_SCOPES_SUPPORTED"] = sorted(SCOPES)
server = AuthorizationServer(
    app, clients.get, lambda answer, request: tokens.append(Token(request.client, request.user, answer))
)
for grant in [Password, Refresh, ClientCredentials, Device]:
    server.register_grant(grant)
for endpoint in [Revocation, DeviceAuthorization]:
    server.register_endpoint(endpoint)
protector = ResourceProtector()
protector.register_token_validator(Validator())


@app.post("/token")
def token():
    counts["token_calls"] += 1
    return server.create_token_response()


@app.post("/revoke")
def revoke():
    return server.create_endpoint_response("revocation")


@app.post("/device_authorization")
def device_authorization():
    return server.create_endpoint_response("device_authorization")


@app.get("/.well-known/oauth-authorization-server")
def metadata():
    return jsonify(
        issuer=base,
        token_endpoint=f"{base}/token",
        revocation_endpoint=f"{base}/revoke",
        device_authorization_endpoint=f"{base}/device_authorization",
        grant_types_supported=["client_credentials", "password", "refresh_token", DEVICE_CODE],
        token_endpoint_auth_methods_supported=METHODS,
    )


@app.get("/test/api")
@protector("read")
def api():
    return jsonify(accepted=True)


@app.get("/test/counts")
def count():
    return jsonify(counts)


@app.post("/test/device")
def person():
    decisions[request.args["user_code"]] = ("ann", "deny" not in request.args)
    return jsonify({})


def end_with_input():
    sys.stdin.buffer.read()
    os._exit(0)


logging.getLogger("werkzeug").setLevel(logging.ERROR)
listening = make_server("127.0.0.1", 0, app, threaded=True)
base = f"http://127.0.0.1:{listening.port}"
threading.Thread(target=end_with_input, daemon=True).start()
print(json.dumps({"port": listening.port}), flush=True)
listening.serve_forever()
