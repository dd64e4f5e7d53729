"""Access: where a bucket is reached, and with whose credentials; botocore's answers, asked once."""

from __future__ import annotations

import dataclasses
import functools
import os
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

from ..errors import ArgumentError, RemoteError, UnsupportedError
from ..format.remote import Endpoint
from .connections import Origin
from .signing import Credentials, Scope

__all__ = ["Access", "Place"]

_NO_CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, choose a profile (--profile, AWS_PROFILE), or read as anybody (--unsigned); "
    "in a job whose first rank alone has some, say --credentials root"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a bucket is.

    Attributes
    ----------
    origin : Origin
    path : str
        What comes before ``/key``, encoded; with the bucket's name unless the host's has it.
    scope : Scope
    headers : dict
        To be sent with every request.
    """

    origin: Origin
    path: str
    scope: Scope
    headers: dict[str, str]

    def target(self, key: str) -> str:
        """Return the path of a key, encoded as it is sent and signed; of the bucket for ""."""
        return f"{self.path}/{quote(key, safe='/~')}" if key else self.path or "/"


class Access:
    """What botocore knows of an endpoint for this process: profile, region, credentials, certificates, proxies. Thread-safe.

    Raises
    ------
    UnsupportedError
        botocore is not installed.
    ArgumentError
        There is no such profile, or a setting cannot be meant.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        try:
            import botocore.config
            import botocore.configprovider
            import botocore.exceptions
            import botocore.httpsession
            import botocore.loaders
            import botocore.session
            import botocore.utils
        except ImportError:
            raise UnsupportedError("S3 needs boto3: pip install 'pinstripe[s3]'") from None
        self._botocore = botocore
        self.endpoint = endpoint
        self._lock = threading.RLock()
        self._regions: dict[str, str] = {}
        self._clients: dict[str, Any] = {}
        self._places: dict[str, Place] = {}
        self._credentials: Any = None
        try:
            self._session = botocore.session.Session(profile=endpoint.profile or None)
            if endpoint.unsigned and not endpoint.profile:
                _forget_missing_profile(self._session, botocore)
            path = self._session.get_config_variable("data_path")
            self._session.register_component("data_loader", _loader(botocore.loaders.create_loader, path))
            region = endpoint.region or self._session.get_config_variable("region") or os.environ.get("AWS_REGION", "")
            self.region = region or "us-east-1"
            http = getattr(self._client(self.region)._endpoint, "http_session", None)
        except botocore.exceptions.BotoCoreError as error:
            raise ArgumentError(f"S3 endpoint: {error}") from None
        except ValueError as error:
            raise ArgumentError(f"S3 endpoint {endpoint.url!r}: {error}") from None
        verify = getattr(http, "_verify", True)
        self.verify: bool | str = botocore.httpsession.get_cert_path(verify) if verify is True else verify

    @property
    def url(self) -> str:
        """The service's URL, for people and for telling endpoints apart."""
        return str(self._client(self.region).meta.endpoint_url)

    def place(self, bucket: str) -> Place:
        """Find where a bucket is reached.

        Raises
        ------
        ArgumentError
            It cannot be a bucket's name.
        UnsupportedError
            It is of a kind whose requests are signed in another way: S3 Express, multi-region access points.
        """
        with self._lock:
            place = self._places.get(bucket)
            if place is None:
                place = self._places[bucket] = self._find(bucket)
            return place

    def moved(self, bucket: str, region: str) -> bool:
        """Learn that a bucket is in another region; False = that was known."""
        with self._lock:
            if not region or self._regions.get(bucket, self.region) == region:
                return False
            self._regions[bucket] = region
            self._places.pop(bucket, None)
            return True

    def credentials(self) -> Credentials:
        """Return the credentials that hold now.

        Raises
        ------
        RemoteError
            There are none.
        """
        exceptions = self._botocore.exceptions
        try:
            with self._lock:
                if self._credentials is None:
                    self._credentials = self._session.get_credentials()
                held = self._credentials
            frozen = held.get_frozen_credentials() if held is not None else None
        except (exceptions.BotoCoreError, exceptions.ClientError) as error:
            raise RemoteError(f"no credentials for S3: {error}; {_NO_CREDENTIALS}", code="NoCredentials") from None
        if frozen is None or not frozen.access_key or not frozen.secret_key:
            raise RemoteError(f"no credentials for S3: {_NO_CREDENTIALS}", code="NoCredentials")
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token or "")

    def _client(self, region: str) -> Any:
        """Return botocore's client of a region, which sends nothing: it knows endpoints."""
        with self._lock:
            client = self._clients.get(region)
            if client is None:
                client = self._clients[region] = self._session.create_client(
                    "s3",
                    region_name=region,
                    endpoint_url=self.endpoint.url or None,
                    config=self._botocore.config.Config(
                        signature_version=self._botocore.UNSIGNED if self.endpoint.unsigned else None,
                        response_checksum_validation="when_required",
                        request_checksum_calculation="when_required",
                    ),
                )
            return client

    def _find(self, bucket: str) -> Place:
        client = self._client(self._regions.get(bucket, self.region))
        model = client.meta.service_model.operation_model("GetObject")
        context: dict[str, Any] = {"client_region": client.meta.region_name, "client_config": client.meta.config}
        context["has_streaming_input"] = False
        try:
            url, extra, _ = client._resolve_endpoint_ruleset(model, {"Bucket": bucket, "Key": "k"}, context)
        except self._botocore.exceptions.BotoCoreError as error:
            raise ArgumentError(f"s3://{bucket}: {error}") from None
        if context.get("auth_type", "v4") not in ("v4", "s3v4", "none"):
            raise UnsupportedError(
                f"s3://{bucket}: its requests are signed as {context['auth_type']}, which is not known here"
            )
        signing = context.get("signing", {})
        parts = urlsplit(url)
        proxies = self._botocore.utils.get_environ_proxies(url)
        origin = Origin(
            parts.scheme,
            parts.hostname or "",
            parts.port or (443 if parts.scheme == "https" else 80),
            proxies.get(parts.scheme, ""),
        )
        headers = {name.lower(): ",".join(values) for name, values in extra.items()}
        scope = Scope(signing.get("signing_name", "s3"), signing.get("region") or client.meta.region_name)
        return Place(origin, parts.path.rstrip("/"), scope, headers)


@functools.lru_cache(4)
def _loader(create: Callable[[str | None], Any], path: str | None) -> Any:
    """Return a loader of botocore's descriptions that all endpoints share: reading them costs more than all else here."""
    return create(path)


def _forget_missing_profile(session: Any, botocore: Any) -> None:
    """Do without the environment's profile if it is not there: where nothing is signed it is not needed."""
    try:
        session.get_scoped_config()
    except botocore.exceptions.ProfileNotFound:
        none = botocore.configprovider.ConstantProvider(None)
        session.get_component("config_store").set_config_provider("profile", none)
