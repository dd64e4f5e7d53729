"""Links against a real server: the bucket is asked once, and what is wrong with it is told at link time."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from pinstripe.errors import ArgumentError, NamespaceError, RemoteError
from pinstripe.format.remote import Endpoint
from pinstripe.s3.links import link, links, unlink
from pinstripe.store.store import Store
from pinstripe.testing.s3_faults import FaultProxy


def test_a_link_is_made_and_nothing_is_written_to_the_bucket(
    store: Store, bucket: str, client: Any, proxy: FaultProxy
) -> None:
    client.put_object(Bucket=bucket, Key="data/a", Body=b"x")
    made = link(f"{store.root}/in", f"s3://{bucket}/data", endpoint=Endpoint(url=proxy.url, region="us-east-1"))
    assert (made.directory, made.bucket, made.prefix) == (f"{store.root}/in", bucket, "data/")
    assert [one.id for one in links(Store.find(store.root))] == [made.id]
    assert proxy.log
    assert {request.method for request in proxy.log} == {"GET"}
    assert unlink(f"{store.root}/in").id == made.id
    assert links(Store.find(store.root)) == []


def test_an_empty_prefix_may_be_linked(store: Store, bucket: str, endpoint: Endpoint) -> None:
    assert link(f"{store.root}/out", f"s3://{bucket}/to/come", export=("new",), endpoint=endpoint).export == ("new",)


def test_a_bucket_that_is_not_there_is_told(store: Store, endpoint: Endpoint) -> None:
    with pytest.raises(RemoteError, match="no-such-bucket-here") as caught:
        link(f"{store.root}/in", "s3://no-such-bucket-here/data", endpoint=endpoint)
    assert caught.value.errno == errno.ENOENT
    assert not os.path.exists(f"{store.root}/in")


def test_a_missing_right_is_told(
    store: Store, bucket: str, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Clients are kept for each endpoint: another way to write the URL makes one that takes the wrong secret.
    for wrong in (dataclasses.replace(endpoint, unsigned=True), dataclasses.replace(endpoint, url=f"{endpoint.url}/")):
        with pytest.raises(RemoteError) as caught:
            link(f"{store.root}/in", f"s3://{bucket}/data", endpoint=wrong)
        assert caught.value.errno == errno.EACCES
        assert bucket in str(caught.value)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert links(Store.find(store.root)) == []


@pytest.mark.parametrize("below", ["", "/dir", "/dir/sub/"])
def test_a_store_in_the_bucket_is_refused(
    store: Store, bucket: str, client: Any, endpoint: Endpoint, below: str
) -> None:
    superblock = Path(store.meta, "superblock/1").read_bytes()
    client.put_object(Bucket=bucket, Key="backup/s/.pinstripe/superblock/1", Body=superblock)
    client.put_object(Bucket=bucket, Key="backup/s/dir/name", Body=b"pinstripe 1 ...")
    with pytest.raises(NamespaceError, match=r"backup/s/ is a store itself"):
        link(f"{store.root}/in", f"s3://{bucket}/backup/s{below}", endpoint=endpoint)
    link(f"{store.root}/in", f"s3://{bucket}/backup/other", endpoint=endpoint)


def test_an_overlap_asks_nothing(store: Store, bucket: str, proxy: FaultProxy) -> None:
    endpoint = Endpoint(url=proxy.url, region="us-east-1")
    link(f"{store.root}/in", f"s3://{bucket}/data", endpoint=endpoint)
    before = len(proxy.log)
    with pytest.raises(ArgumentError, match="overlaps"):
        link(f"{store.root}/other", f"s3://{bucket}/data/sub", endpoint=endpoint)
    assert len(proxy.log) == before
