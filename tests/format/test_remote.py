"""Endpoints hold no secret."""

import pytest

from pinstripe.errors import ArgumentError
from pinstripe.format.remote import Endpoint


@pytest.mark.parametrize("url", ["http://me:SECRET@127.0.0.1:9", "https://SECRET@example.org/x", "me:SEC/RET@host"])
def test_a_password_in_the_url_of_an_endpoint_is_refused_and_not_shown(url: str) -> None:
    for make in (lambda: Endpoint(url=url), lambda: Endpoint.from_values({"url": url})):
        with pytest.raises(ArgumentError, match=r"AWS_SECRET_ACCESS_KEY.* profile") as raised:
            make()
        assert "SEC" not in str(raised.value).replace("AWS_SECRET_ACCESS_KEY", "")
