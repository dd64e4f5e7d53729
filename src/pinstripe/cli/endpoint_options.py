"""Options that say where a bucket lies and how to speak to it, for all commands that do; what objects get that say nothing."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from ..format.remote import CHECKSUMS, Endpoint
from ..s3.credentials import CREDENTIALS
from ..s3.metadata import Defaults
from .words import OCTAL, OWNER

__all__ = ["credentials_option", "defaults_options", "endpoint_options"]

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--endpoint-url", metavar="URL", help="Of the service (AWS_ENDPOINT_URL)."),
    click.option("--profile", metavar="NAME", help="Of ~/.aws, as in boto3 (AWS_PROFILE)."),
    click.option("--region", metavar="NAME", help="As in boto3 (AWS_DEFAULT_REGION)."),
    click.option("--unsigned", is_flag=True, help="Send no credentials: public buckets."),
    click.option("--requester-pays", is_flag=True, help="Accept to pay for requests."),
    click.option("--owner-acl", is_flag=True, help="Uploads: bucket-owner-full-control."),
    click.option("--kms-key", metavar="KEY", help="Uploads: this KMS key; aws:kms = bucket's."),
    click.option("--checksum", type=click.Choice(CHECKSUMS), default="auto", help="Goes with uploads (auto)."),
)
_DEFAULTS = (
    click.option(
        "--map-owner", type=OWNER, metavar="USER[:GROUP]", help="Owner of what states none (whoever imports)."
    ),
    click.option("--file-mode", type=OCTAL, default=0o644, help="Mode of files that state none (644)."),
    click.option("--directory-mode", type=OCTAL, default=0o755, help="The same of directories (755)."),
)

credentials_option = click.option(
    "--credentials",
    type=click.Choice(CREDENTIALS),
    default="all",
    help="Under mpirun: which ranks have some (all); the others use URLs that the first signs.",
)


def endpoint_options(function: F) -> F:
    """Give a command the options of an endpoint; it is called with ``endpoint: Endpoint`` instead of them.

    What was not given is ``Endpoint()``'s, which is what boto3 takes from its environment and files. No secret is among the
    options: they would be seen in process lists.
    """

    @functools.wraps(function)
    def with_endpoint(*args: Any, **kwargs: Any) -> Any:
        names = {field.name: field.name for field in dataclasses.fields(Endpoint)} | {"url": "endpoint_url"}
        given = {name: kwargs.pop(option) for name, option in names.items()}
        values: dict[str, Any] = {name: "" if value is None else value for name, value in given.items()}
        return function(*args, endpoint=Endpoint(**values), **kwargs)

    command: F = _with(_OPTIONS, with_endpoint)
    return command


def defaults_options(function: F) -> F:
    """Give a command the options for objects that state no owner or mode; it is called with ``defaults: Defaults`` instead."""

    @functools.wraps(function)
    def with_defaults(*args: Any, **kwargs: Any) -> Any:
        uid, gid = kwargs.pop("map_owner") or (-1, -1)
        defaults = Defaults(uid, gid, kwargs.pop("file_mode"), kwargs.pop("directory_mode"))
        return function(*args, defaults=defaults, **kwargs)

    command: F = _with(_DEFAULTS, with_defaults)
    return command


def _with(options: tuple[Callable[[Any], Any], ...], command: Any) -> Any:
    for option in reversed(options):
        command = option(command)
    return command
