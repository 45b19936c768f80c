"""Sending an image to a registry: the OCI distribution protocol's push, with its tokens.

It pulls nothing. No library: the one on PyPI (oras) would put a dozen packages, one of them
native per Python, on every node for what three kinds of requests do.

Sources: OCI distribution spec 1.1 (push), docker's token authentication, RFC 7235 challenges.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import ssl
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from copepod import errors
from copepod.cli.image.oci import Blob, Image

_CHUNK = 1 << 18
_TIMEOUT = 60.0
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
Step = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Reference:
    """registry/repository:tag, taken apart."""

    host: str
    repository: str
    tag: str

    @classmethod
    def parse(cls, name: str) -> Reference:
        """`name` has a registry and a tag (files.image_name sees to that)."""
        host, _, rest = name.partition("/")
        repository, _, tag = rest.rpartition(":")
        if not repository or "@" in rest:
            raise errors.InvalidArgument(f"{name!r} is not of the form registry/name:tag")
        return cls("registry-1.docker.io" if host == "docker.io" else host, repository, tag)


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user and what proves it; both empty for nobody in particular."""

    user: str = ""
    password: str = ""

    def basic(self) -> str:
        """The value of an Authorization header (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def credentials(host: str, user: str | None, from_stdin: bool) -> Credentials:
    """The command line's, else those that `docker login` or a credential helper keeps."""
    if user:
        if not from_stdin:
            raise errors.InvalidArgument("--username needs --password-stdin: arguments are public")
        return Credentials(user, sys.stdin.readline().rstrip("\n"))
    if from_stdin:
        raise errors.InvalidArgument("--password-stdin needs --username")
    folder = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    try:
        with open(f"{folder}/config.json", "rb") as file:
            config = json.load(file)
    except FileNotFoundError:
        return Credentials()
    except ValueError as error:
        raise errors.InvalidArgument(f"{folder}/config.json is not JSON: {error}") from error
    try:
        return _kept(config, host)
    except (AttributeError, TypeError, ValueError) as error:
        raise errors.InvalidArgument(
            f"{folder}/config.json is not as Docker writes it: {error}"
        ) from error


def _kept(config: Any, host: str) -> Credentials:
    key = "https://index.docker.io/v1/" if host == "registry-1.docker.io" else host
    helper = (config.get("credHelpers") or {}).get(key) or config.get("credsStore")
    if helper:
        return _from_helper(helper, key)
    auth = ((config.get("auths") or {}).get(key) or {}).get("auth", "")
    name, _, secret = base64.b64decode(auth).decode().partition(":")
    return Credentials(name, secret)


def _from_helper(helper: str, key: str) -> Credentials:
    argv = [f"docker-credential-{helper}", "get"]
    try:
        done = subprocess.run(argv, input=key.encode(), capture_output=True, timeout=30)
    except subprocess.TimeoutExpired as error:
        raise errors.Unavailable(f"{argv[0]} did not answer within 30 s") from error
    except OSError as error:
        raise errors.NotFound(f"{argv[0]}, named by Docker's config.json, can't be run") from error
    if done.returncode:
        return Credentials()  # the helper knows nobody for this registry
    answer = json.loads(done.stdout)
    return Credentials(answer.get("Username", ""), answer.get("Secret", ""))


class Client:
    """One registry, one repository."""

    def __init__(self, target: Reference, who: Credentials, *, plain_http: bool = False) -> None:
        self._target, self._who, self._plain = target, who, plain_http
        self._authorization = ""

    def push(self, image: Image, step: Step) -> str:
        """Sends all that the registry lacks, then the manifests; gives the root's digest.

        `step` is told the bytes that are through. Raises errors.PermissionDenied when the
        registry refuses us, errors.Unavailable for all else that it answers.
        """
        base = f"/v2/{self._target.repository}"
        try:
            for blob in image.blobs:
                self._blob(base, blob, step)
            for one in image.manifests:
                self._manifest(base, one, one.digest)
            self._manifest(base, image.root, self._target.tag)
        except ValueError as error:  # of urllib and http.client, for ours and for the registry's
            raise errors.InvalidArgument(
                f"an address at {self._target.host} is none: {error}"
            ) from error
        return image.root.digest

    def _blob(self, base: str, blob: Blob, step: Step) -> None:
        answer = self._request("HEAD", f"{base}/blobs/{blob.digest}")
        if answer.status == 200:
            step(len(blob.data))
            return
        answer = self._request("POST", f"{base}/blobs/uploads/")
        place = answer.headers.get("Location")
        if answer.status != 202 or not place:
            raise self._refused("start an upload", answer)
        parts = urllib.parse.urlsplit(urllib.parse.urljoin(self._url(base), place))
        query = [*urllib.parse.parse_qsl(parts.query), ("digest", blob.digest)]
        url = parts._replace(query=urllib.parse.urlencode(query)).geturl()
        headers = {"Content-Type": "application/octet-stream"}
        answer = self._request("PUT", url, headers, blob.data, step)
        if answer.status != 201:
            raise self._refused(f"take the blob {blob.digest}", answer)

    def _manifest(self, base: str, blob: Blob, name: str) -> None:
        headers = {"Content-Type": blob.media_type}
        answer = self._request("PUT", f"{base}/manifests/{name}", headers, blob.data)
        if answer.status != 201:
            raise self._refused(f"take the manifest {name}", answer)

    def _url(self, path: str) -> str:
        return f"{'http' if self._plain else 'https'}://{self._target.host}{path}"

    def _request(
        self,
        method: str,
        url: str,
        headers: dict[str, str] | None = None,
        data: bytes = b"",
        step: Step | None = None,
    ) -> Answer:
        """One request, and another one with a token when the registry asks for it."""
        full = urllib.parse.urljoin(self._url("/"), url)
        for attempt in (1, 2):
            wanted = dict(headers or {})
            # A registry may send uploads elsewhere: our token is for its own host only.
            if self._authorization and urllib.parse.urlsplit(full).netloc == self._target.host:
                wanted["Authorization"] = self._authorization
            answer = send(method, full, wanted, data, step)
            if answer.status != 401 or attempt == 2:
                return answer
            self._authorization = self._authorize(answer)
        raise AssertionError("unreachable")

    def _authorize(self, answer: Answer) -> str:
        """The Authorization that a 401 asks for."""
        challenge = answer.headers.get("WWW-Authenticate") or ""
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "basic" and self._who.user:
            return self._who.basic()
        fields = dict(_CHALLENGE.findall(rest))
        if scheme.lower() != "bearer" or "realm" not in fields:
            raise self._refused("let us in", answer)
        query = {"scope": fields.get("scope") or f"repository:{self._target.repository}:pull,push"}
        if "service" in fields:
            query["service"] = fields["service"]
        headers = {"Authorization": self._who.basic()} if self._who.user else {}
        url = f"{fields['realm']}?{urllib.parse.urlencode(query)}"
        token = send("GET", url, headers)
        if token.status != 200:
            raise self._refused("give a token", token)
        try:
            body = json.loads(token.body)
            return f"Bearer {body.get('token') or body['access_token']}"
        except (ValueError, KeyError, TypeError, AttributeError):
            raise self._refused("give a token that can be read", token) from None

    def _refused(self, what: str, answer: Answer) -> errors.Error:
        text = answer.body.decode(errors="replace").strip()
        try:
            text = "; ".join(
                str(one.get("message") or one.get("code")) for one in json.loads(text)["errors"]
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            text = text[:200]
        sentence = f"{self._target.host} does not {what}: {answer.status} {text}".rstrip()
        if answer.status in (401, 403):
            who = self._who.user or "nobody"
            return errors.PermissionDenied(
                f"{sentence}; it was asked as {who}: `docker login`, or --username and "
                "--password-stdin"
            )
        return errors.Unavailable(sentence)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


def send(
    method: str, url: str, headers: dict[str, str], data: bytes = b"", step: Step | None = None
) -> Answer:
    """One HTTP request; certificates are checked against the system's."""
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "http":
        connection = http.client.HTTPConnection(host, parts.port or 80, timeout=_TIMEOUT)
    else:
        connection = http.client.HTTPSConnection(
            host, parts.port or 443, timeout=_TIMEOUT, context=ssl.create_default_context()
        )
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    if method in ("PUT", "POST"):
        headers = {**headers, "Content-Length": str(len(data))}
    try:
        connection.request(
            method, path, body=_pieces(data, step) if data else None, headers=headers
        )
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    except (OSError, http.client.HTTPException) as error:
        hint = (
            "; is it a plain HTTP registry (--plain-http)?"
            if isinstance(error, ssl.SSLError)
            else ""
        )
        raise errors.Unavailable(f"{parts.netloc} can't be reached: {error}{hint}") from error
    finally:
        connection.close()


def _pieces(data: bytes, step: Step | None) -> Iterator[bytes]:
    view = memoryview(data)
    for at in range(0, len(data), _CHUNK):
        piece = bytes(view[at : at + _CHUNK])
        yield piece
        if step:
            step(len(piece))
