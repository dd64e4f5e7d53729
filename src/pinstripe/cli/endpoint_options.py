"""Options that say where a bucket lies and how to speak to it, for all commands that do."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from ..format.remote import CHECKSUMS, Endpoint

__all__ = ["endpoint_options"]

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--endpoint-url", "url", metavar="URL", help="Of the service (AWS_ENDPOINT_URL, else AWS's own)."),
    click.option("--profile", metavar="NAME", help="Of ~/.aws, as in boto3 (AWS_PROFILE)."),
    click.option("--region", metavar="NAME", help="As in boto3 (AWS_DEFAULT_REGION)."),
    click.option("--unsigned", is_flag=True, help="Send no credentials: public buckets."),
    click.option("--requester-pays", is_flag=True, help="Accept to pay for requests."),
    click.option("--owner-acl", is_flag=True, help="Uploads: bucket-owner-full-control."),
    click.option("--kms-key", metavar="KEY", help="Uploads: encrypt by this KMS key; aws:kms = the bucket's."),
    click.option("--checksum", type=click.Choice(CHECKSUMS), default="auto", help="Goes with uploads (auto)."),
)


def endpoint_options(function: F) -> F:
    """Give a command the options of an endpoint; it is called with ``endpoint: Endpoint`` instead of them.

    What was not given is ``Endpoint()``'s, which is what boto3 takes from its environment and files. No secret is among the
    options: they would be seen in process lists.
    """

    @functools.wraps(function)
    def with_endpoint(*args: Any, **kwargs: Any) -> Any:
        given = {field.name: kwargs.pop(field.name) for field in dataclasses.fields(Endpoint)}
        values: dict[str, Any] = {name: "" if value is None else value for name, value in given.items()}
        return function(*args, endpoint=Endpoint(**values), **kwargs)

    command: Any = with_endpoint
    for option in reversed(_OPTIONS):
        command = option(command)
    return command  # type: ignore[no-any-return]
