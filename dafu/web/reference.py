"""What the endpoints are, for programs and for people: the OpenAPI document and a page of it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Final

import jinja2
from aiohttp import web

from dafu.web.endpoints import Call, Endpoint
from dafu.web.openapi import openapi
from dafu.web.principals import Permission
from dafu.web.problems import answer

__all__ = ["reference_endpoints"]

_STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 70rem; padding: 1rem; }
nav ul { display: flex; flex-wrap: wrap; gap: 1rem; list-style: none; padding: 0; }
details { border-bottom: 1px solid GrayText; padding: .5rem 0; }
summary { cursor: pointer; }
table { border-collapse: collapse; display: block; margin: 1rem 0; overflow-x: auto; }
caption { font-weight: bold; text-align: left; }
th, td { border-bottom: 1px solid GrayText; padding: .25rem .75rem .25rem 0; text-align: left;
  vertical-align: top; }
pre { overflow-x: auto; }
code { overflow-wrap: anywhere; }
"""
_POLICY: Final = (
    "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
)


def reference_endpoints(endpoints: Callable[[], Iterable[Endpoint]]) -> list[Endpoint]:
    """The document and the page.

    Parameters
    ----------
    endpoints : callable
        All endpoints of the worker, once they are known.
    """

    @cache
    def document() -> dict[str, Any]:
        return openapi(endpoints())

    @cache
    def page() -> str:
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("dafu.web"),
            autoescape=True,
            undefined=jinja2.ChainableUndefined,  # OpenAPI leaves out what does not apply
        )
        template = environment.get_template("reference.html")
        return template.render(document=document(), style=_STYLE)

    async def show_document(_: Call) -> web.Response:
        return answer(document())

    async def show_page(_: Call) -> web.Response:
        return web.Response(
            text=page(),
            content_type="text/html",
            headers={"Content-Security-Policy": _POLICY},
        )

    return [
        Endpoint(
            method="GET",
            path="/openapi.json",
            name="get_openapi",
            summary="The OpenAPI document of these endpoints",
            tag="reference",
            permission=Permission.READ,
            handler=show_document,
            returns=dict[str, Any],
        ),
        Endpoint(
            method="GET",
            path="/docs",
            name="get_reference",
            summary="The same as a page",
            tag="reference",
            permission=Permission.READ,
            handler=show_page,
            media="text/html",
            page=True,
            documented=False,
        ),
    ]
