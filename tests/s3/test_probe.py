"""What an endpoint can do is asked once, kept, and never asked by writing where nothing is to be written."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from pinstripe.errors import RemoteError
from pinstripe.format.remote import Endpoint
from pinstripe.s3.client import Client, close_clients
from pinstripe.s3.objects import Capabilities
from pinstripe.s3.probe import capabilities_of
from pinstripe.store.store import Store
from pinstripe.testing.s3_faults import Fault, FaultProxy

ALL = Capabilities(known=True)
OURS = dataclasses.replace(ALL, ordered_list=False)  # it lists a/b before a!, and after "a" leaves a/b out


def through(proxy: FaultProxy) -> Client:
    return Client.of(Endpoint(url=proxy.url, region="us-east-1"))


def kept(store: Store) -> list[Path]:
    return sorted((Path(store.root) / ".pinstripe/s3").glob("*"))


def test_the_server_can_do_all_but_order_and_nothing_is_left(
    bucket: str, client: Any, endpoint: Endpoint, store: Store
) -> None:
    assert capabilities_of(Client.of(endpoint), bucket, may_write=True, store=store, prefix="p/") == OURS
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    assert not client.list_multipart_uploads(Bucket=bucket).get("Uploads")


def test_it_is_asked_once_for_a_store(bucket: str, proxy: FaultProxy, store: Store) -> None:
    found = capabilities_of(through(proxy), bucket, may_write=True, store=store)
    assert len(kept(store)) == 1
    assert "pinstripetest" not in kept(store)[0].read_text()
    asked = proxy.count()
    close_clients()
    other = through(proxy)
    assert not other.capabilities.known
    assert capabilities_of(other, bucket, may_write=False, store=store) == found
    assert capabilities_of(other, bucket, may_write=True, store=None) == other.capabilities == found
    assert proxy.count() == asked


def test_nothing_is_written_where_nothing_may_be(bucket: str, proxy: FaultProxy, store: Store) -> None:
    before = kept(store)
    found = capabilities_of(through(proxy), bucket, may_write=False, store=store)
    assert found == Capabilities()
    assert proxy.count() == 0
    assert kept(store) == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": "x"}'])
def test_what_cannot_be_understood_is_asked_again(bucket: str, endpoint: Endpoint, store: Store, text: str) -> None:
    assert capabilities_of(Client.of(endpoint), bucket, may_write=True, store=store) == OURS
    kept(store)[0].write_text(text)
    close_clients()
    assert capabilities_of(Client.of(endpoint), bucket, may_write=True, store=store) == OURS
    assert json.loads(kept(store)[0].read_text())["checksum"] == "crc64nvme"


def test_a_service_without_conditions_is_found_out(
    bucket: str, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pinstripe.s3 import client as module

    monkeypatch.setattr(module, "_condition", lambda if_none_match, if_match: {})  # as one that ignores the headers
    found = capabilities_of(Client.of(endpoint), bucket, may_write=True, store=None)
    assert found == dataclasses.replace(OURS, conditional_put=False, conditional_complete=False)


def test_a_service_that_takes_wrong_checksums_has_none(
    bucket: str, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Client, "_checksum", lambda self, view, crc64: {})
    monkeypatch.setattr("pinstripe.s3.client._crc32c", lambda: None)
    with pytest.warns(RuntimeWarning, match="google-crc32c"):
        found = capabilities_of(Client.of(endpoint), bucket, may_write=True, store=None)
    assert found.checksum == "none"
    assert not found.full_object


def test_who_may_not_write_is_told_so(bucket: str, proxy: FaultProxy, store: Store) -> None:
    proxy.add(Fault("PUT", kind="403", times=1000))
    with pytest.raises(RemoteError, match="AccessDenied"):
        capabilities_of(through(proxy), bucket, may_write=True, store=store)
    assert not through(proxy).capabilities.known


def test_aws_is_known_without_asking() -> None:
    ours = Client.of(Endpoint(url="https://s3.eu-west-1.amazonaws.com", region="eu-west-1"))
    assert capabilities_of(ours, "some-bucket", may_write=False, store=None) == ALL
