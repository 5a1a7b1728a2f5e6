"""Templates into pages, with everything that others wrote made harmless.

Text is escaped; characters that would hide or reorder the text around them are replaced in every
expression of every template. Knows Jinja and aiohttp, and nothing of what pages show.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dafu import __version__
from dafu.web.console import addresses
from dafu.web.console.assets import asset_url
from dafu.web.endpoints import Call
from dafu.web.principals import Permission

__all__ = ["POLICY", "fragment", "fragment_response", "page"]

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
"""What a page may load and run: its own assets, and nothing that stands in the page itself."""

THEME_COOKIE: Final = "dafu_theme"

_HIDING: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff]"
)
"""Control characters, marks that change the direction of text, and what has no width."""

_DASH: Final = Markup("&ndash;")


def page(
    call: Call, template: str, *, title: str, status: int = 200, **context: Any
) -> web.Response:
    """A whole page.

    Parameters
    ----------
    call : Call
        Whose permissions decide what is offered.
    template : str
        Name of the file in ``templates``.
    title : str
        Of the page; it is its main heading as well.
    status : int
    **context
        What the template shows.
    """
    principal = call.principal
    text = _ENVIRONMENT.get_template(template).render(
        title=title,
        principal=principal,
        may={p.name.lower(): call.may(p) for p in Permission},
        theme=_theme(call.request.cookies),
        here=call.request.rel_url.raw_path,
        version=__version__,
        csrf="" if principal is None else principal.csrf,
        **context,
    )
    return _html(text, status)


def fragment(template: str, block: str, **context: Any) -> str:
    """What a macro of a template makes of its arguments."""
    module = _ENVIRONMENT.get_template(template).module
    return str(getattr(module, block)(**context))


def fragment_response(template: str, block: str, **context: Any) -> web.Response:
    """The same as an answer, to be put into a page that is there already."""
    return _html(fragment(template, block, **context))


def _html(text: str, status: int = 200) -> web.Response:
    headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin"}
    return web.Response(
        body=text.encode(),
        status=status,
        content_type="text/html",
        charset="utf-8",
        headers=headers,
    )


def _theme(cookies: Mapping[str, str]) -> str:
    chosen = cookies.get(THEME_COOKIE, "")
    return chosen if chosen in {"light", "dark"} else "auto"


def visible(value: Any) -> Any:
    """Text with its hiding characters replaced; anything else as it is."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return _HIDING.sub("\N{REPLACEMENT CHARACTER}", value)
    return value


def _number(value: float | None, digits: int = 0) -> str:
    return _DASH if value is None else f"{value:,.{digits}f}"


def _percent(value: float | None, digits: int = 1) -> str:
    return _DASH if value is None else f"{value:.{digits}%}"


def _moment(value: int | str | None) -> Markup:
    """A time, as epoch milliseconds or ISO 8601, in an element that programs can read too."""
    if value is None or value == "":
        return _DASH
    if isinstance(value, int):
        at = datetime.fromtimestamp(value / 1000, UTC)
    else:
        try:
            at = datetime.fromisoformat(value).astimezone(UTC)
        except ValueError:
            return Markup("<span>{}</span>").format(visible(value))
    return Markup('<time datetime="{}">{}</time>').format(
        at.isoformat(timespec="milliseconds").replace("+00:00", "Z"), f"{at:%Y-%m-%d %H:%M:%S}"
    )


def _given(parameters: Mapping[str, object]) -> str:
    """The query of an address; what is None is left out."""
    return urlencode({name: str(value) for name, value in parameters.items() if value is not None})


def _identifier(value: object) -> Markup:
    """Something that others named, kept apart from the direction of the text around it."""
    return Markup("<bdi>{}</bdi>").format(visible(str(value)))


def _link(href: str, text: object) -> Markup:
    return Markup('<a href="{}"><bdi>{}</bdi></a>').format(href, visible(str(text)))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("dafu.web.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=visible,
    )
    environment.filters |= {
        "number": _number,
        "percent": _percent,
        "moment": _moment,
        "identifier": _identifier,
        "given": _given,
    }
    environment.globals |= {
        "asset": asset_url,
        "link": _link,
        "user_link": lambda name: _link(addresses.user_url(name), name),
        "merchant_link": lambda name: _link(addresses.merchant_url(name), name),
        "ring_link": lambda name: _link(addresses.ring_url(name), name),
        "decision_link": lambda user, name: _link(addresses.decision_url(user, name), name),
        "sign_in_address": addresses.SIGN_IN,
    }
    return environment


_ENVIRONMENT: Final = _environment()
