"""A real S3 server for the session, a fresh bucket for each test, and a proxy that does what networks do."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

import pinstripe
from pinstripe.format.remote import Endpoint
from pinstripe.s3.client import close_clients
from pinstripe.store.store import Store
from pinstripe.testing.s3_faults import FaultProxy
from pinstripe.testing.s3_server import S3Server

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The server, its data on tmpfs where there is one."""
    quick = os.access("/dev/shm", os.W_OK)
    directory = Path(
        tempfile.mkdtemp(dir="/dev/shm", prefix="pinstripe-s3-") if quick else tmp_path_factory.mktemp("s3")
    )
    with S3Server(directory) as running:
        yield running
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(autouse=True)
def environment(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The server's credentials, as boto3 users give them, and nothing of the user's own."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    yield
    close_clients()


@pytest.fixture(scope="session")
def client(server: S3Server) -> Iterator[Any]:
    """boto3's own client, for what tests do and look at themselves."""
    made = boto3.Session().client(
        "s3",
        endpoint_url=server.url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 3}),
    )
    yield made
    made.close()


@pytest.fixture
def bucket(client: Any) -> Iterator[str]:
    """Name of an empty bucket."""
    name = f"test-{os.getpid()}-{next(_numbers)}"
    client.create_bucket(Bucket=name)
    yield name
    for page in client.get_paginator("list_object_versions").paginate(Bucket=name):
        found = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        if found:
            objects = [{"Key": entry["Key"], "VersionId": entry["VersionId"]} for entry in found]
            client.delete_objects(Bucket=name, Delete={"Objects": objects, "Quiet": True})
    client.delete_bucket(Bucket=name)


@pytest.fixture
def endpoint(server: S3Server) -> Endpoint:
    """Where the server is."""
    return Endpoint(url=server.url, region="us-east-1")


@pytest.fixture
def proxy(server: S3Server) -> Iterator[FaultProxy]:
    """A proxy before the server; ``Endpoint(url=proxy.url, region="us-east-1")`` goes through it."""
    with FaultProxy(server.url) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with two targets and stripes of 64 KiB."""
    pinstripe.create(tmp_path / "s", [tmp_path / "t0", tmp_path / "t1"], stripe_bytes=64 << 10, block_bytes=16 << 10)
    return Store.find(tmp_path / "s")
