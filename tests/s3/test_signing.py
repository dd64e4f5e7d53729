"""Signatures are botocore's, byte for byte."""

import time
from urllib.parse import quote

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials as Theirs

from pinstripe.s3.signing import UNSIGNED, Credentials, Scope, encode_query, sign_headers, sign_query

KEYS = ["a", "a b+c%/ü~", "x//y", "(é)*'!", "$&,:;=@", "/", "\u00fc\u0308"]
SCOPE = Scope("s3", "eu-west-1")
HOST = "host.example:8000"


def theirs(token: str) -> Theirs:
    return Theirs("AKID", "secret", token or None)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("token", ["", "session+token/="])
def test_headers_are_signed_alike(key: str, token: str) -> None:
    query = [("partNumber", "7"), ("uploadId", "a/b+c="), ("acl", "")]
    headers = {"x-amz-meta-b": "two  spaces ", "content-type": "text/plain", "if-match": '"e"', "x-amz-acl": "private"}
    path = "/bucket/" + quote(key, safe="/~")
    url = f"https://{HOST}{path}?{encode_query(query)}"
    request = AWSRequest("PUT", url, headers=dict(headers), data=b"x")
    request.context.update(client_config=Config(s3={"payload_signing_enabled": False}))
    S3SigV4Auth(theirs(token), "s3", "eu-west-1").add_auth(request)
    now = time.mktime(time.strptime(request.context["timestamp"], "%Y%m%dT%H%M%SZ")) - time.timezone
    del headers["if-match"]  # they sign it, too; the service asks for no more than ours
    again = AWSRequest("PUT", url, headers=dict(headers), data=b"x")
    again.context.update(request.context)
    auth = S3SigV4Auth(theirs(token), "s3", "eu-west-1")
    again.headers["host"] = HOST
    again.headers["X-Amz-Date"] = request.context["timestamp"]
    if token:
        again.headers["X-Amz-Security-Token"] = token
    again.headers["X-Amz-Content-SHA256"] = UNSIGNED
    expected = auth.signature(auth.string_to_sign(again, auth.canonical_request(again)), again)
    ours = {"host": HOST, **headers}
    sign_headers(Credentials("AKID", "secret", token), SCOPE, "PUT", path, encode_query(query), ours, UNSIGNED, now)
    assert ours["authorization"].endswith(f"Signature={expected}")
    assert ours["x-amz-date"] == request.context["timestamp"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("token", ["", "session+token/="])
def test_urls_are_signed_alike(key: str, token: str) -> None:
    path = "/bucket/" + quote(key, safe="/~")
    request = AWSRequest(
        "GET", f"https://{HOST}{path}", params={"versionId": "v/1"}, headers={"x-amz-checksum-crc64nvme": "AA="}
    )
    S3SigV4QueryAuth(theirs(token), "s3", "eu-west-1", expires=60).add_auth(request)
    now = time.mktime(time.strptime(request.context["timestamp"], "%Y%m%dT%H%M%SZ")) - time.timezone
    headers = {"host": HOST, "x-amz-checksum-crc64nvme": "AA="}
    query = sign_query(
        Credentials("AKID", "secret", token), SCOPE, "GET", path, [("versionId", "v/1")], headers, now, 60
    )
    expected = request.url.partition("?")[2]
    # They put the query's own pairs first, unsorted; the signature is over the same text.
    assert sorted(query.split("&")) == sorted(expected.split("&"))


def test_credentials_are_not_shown() -> None:
    assert repr(Credentials("AKID", "secret", "token")) == "Credentials()"
