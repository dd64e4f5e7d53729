"""A linked directory and its bucket, for tests of what keeps them in step."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import pinstripe
from pinstripe.format.remote import Endpoint
from pinstripe.s3.events import Events, Summary
from pinstripe.s3.known import conflicts_of
from pinstripe.s3.links import Link, LinkOptions, link, links
from pinstripe.s3.syncing import sync
from pinstripe.store import stub
from pinstripe.store.state import FileState, state_of
from pinstripe.store.store import Store

from .putting import put

__all__ = ["ALL", "Pair", "Telling"]

ALL = ("new", "changed", "deleted")


class Telling(Events):
    """Events that are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.plans: list[tuple[str, str]] = []
        self.notes: list[str] = []

    def on_planned(self, verb: str, path: str, size: int, reason: str) -> None:
        self.plans.append((verb, path))

    def on_note(self, text: str) -> None:
        self.notes.append(text)


class Pair:
    """The directory ``d`` of a store, linked to ``p/`` in a bucket."""

    def __init__(self, store: Store, client: Any, bucket: str, endpoint: Endpoint) -> None:
        self.store, self.client, self.bucket, self.endpoint = store, client, bucket, endpoint
        self.directory = os.path.join(store.root, "d")

    def link(self, import_: tuple[str, ...] = ALL, export: tuple[str, ...] = ALL, **options: Any) -> Link:
        made = link(
            self.directory,
            f"s3://{self.bucket}/p",
            import_=import_,
            export=export,
            endpoint=self.endpoint,
            options=LinkOptions(**({"quiet_s": 0.0} | options)),
        )
        self.store = Store.find(self.store.root)
        return made

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def write(self, name: str, data: bytes) -> str:
        path = self.path(name)
        if not os.path.isdir(os.path.dirname(path)):
            pinstripe.makedirs(os.path.dirname(path))
        with pinstripe.open(path, "wb") as file:
            file.write(data)
        return path

    def read(self, name: str) -> bytes:
        with pinstripe.open(self.path(name), "rb") as file:
            return bytes(file.read())

    def put(self, name: str, data: bytes, **more: Any) -> str:
        return put(self.client, self.bucket, f"p/{name}", data, **more)

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=f"p/{name}")

    def remove(self, name: str) -> None:
        pinstripe.remove(self.path(name))

    def release(self, name: str) -> None:
        stub.release(self.path(name), grace_s=0.0)

    def state(self, name: str) -> FileState:
        return state_of(self.path(name))

    def here(self) -> list[str]:
        """All names but directories."""
        found = []
        for top, _, names in pinstripe.walk(self.directory):
            found += [os.path.relpath(os.path.join(top, name), self.directory) for name in names]
        return sorted(found)

    def there(self) -> dict[str, bytes]:
        """All objects."""
        found = {}
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix="p/"):
            for entry in page.get("Contents", []):
                with contextlib.suppress(self.client.exceptions.NoSuchKey):  # deleted meanwhile
                    body = self.client.get_object(Bucket=self.bucket, Key=entry["Key"])["Body"].read()
                    found[entry["Key"].removeprefix("p/")] = body
        return found

    def sync(self, code: int = 0, **options: Any) -> Summary:
        """Do a round."""
        events = options.pop("events", None) or Telling()
        summary = sync(self.store.root, events=events, **options)
        assert summary.exit_code == code, (summary, events.failures)
        return summary

    def conflicts(self) -> list[str]:
        return conflicts_of(self.link_now())

    def link_now(self) -> Link:
        return links(Store.find(self.store.root))[0]
