"""Every page of the console, and who may see it."""

from __future__ import annotations

from typing import Any, NamedTuple

from aiohttp import web
from msgspec import Struct

from dafu.web.console.addresses import HOME
from dafu.web.console.assets import STATIC, serve_asset
from dafu.web.console.decisions import DecisionPages, SaidQuery
from dafu.web.console.entities import EntityPages
from dafu.web.console.forms import FORM
from dafu.web.console.lists import ListPages
from dafu.web.console.models import ModelPages, ModelsQuery
from dafu.web.console.operations import AuditFilter, LetterQuery, OperationPages
from dafu.web.console.overview import OverviewPages, OverviewQuery
from dafu.web.console.rings import RingPages, RingsQuery
from dafu.web.console.rules import RulePages, RulesQuery
from dafu.web.console.search import SearchPage, SearchQuery
from dafu.web.console.shown import DecisionQuery
from dafu.web.console.signing import NextQuery, SigningPages
from dafu.web.endpoints import Call, Endpoint, Handler
from dafu.web.principals import Permission

__all__ = ["Pages", "console_endpoints"]


class Pages(NamedTuple):
    """All of them."""

    decisions: DecisionPages
    overview: OverviewPages
    entities: EntityPages
    rings: RingPages
    rules: RulePages
    models: ModelPages
    lists: ListPages
    operations: OperationPages
    signing: SigningPages
    search: SearchPage


def console_endpoints(pages: Pages) -> list[Endpoint]:
    """The endpoints of the console."""
    return [
        _asset(),
        _page("", "console", "Leads to the console", _home),
        _page(
            "/", "decisions", "The latest decisions", pages.decisions.latest, query=DecisionQuery
        ),
        _page(
            "/decisions/stream",
            "decision_stream",
            "Decisions as they are made, as rows of a page",
            pages.decisions.stream,
            query=DecisionQuery,
            media="text/event-stream",
        ),
        _page(
            "/decisions/{user_id}/{transaction_id}",
            "decision",
            "One decision",
            pages.decisions.one,
            query=SaidQuery,
        ),
        _form(
            "/decisions/{user_id}/{transaction_id}/label",
            "label",
            "Says what became known of a transaction",
            pages.decisions.label,
            Permission.LABEL,
        ),
        _page(
            "/overview",
            "overview",
            "Charts of the last minutes",
            pages.overview.overview,
            query=OverviewQuery,
        ),
        _page(
            "/overview/figures",
            "overview_figures",
            "The charts alone",
            pages.overview.figures,
            query=OverviewQuery,
        ),
        _page("/users/{user_id}", "user", "One user", pages.entities.user),
        _page("/merchants/{merchant_id}", "merchant", "One merchant", pages.entities.merchant),
        _page("/rings", "rings", "The open fraud rings", pages.rings.listed, query=RingsQuery),
        _page("/rings/{ring_id}", "ring", "One fraud ring", pages.rings.one),
        _page("/rules", "rules", "The rules in force", pages.rules.listed, query=RulesQuery),
        _form(
            "/rules/{rule_id}/mode",
            "rule_mode",
            "Puts a rule into another mode",
            pages.rules.set_mode,
            Permission.RULES,
        ),
        _page(
            "/models",
            "models",
            "The models, and how they do",
            pages.models.listed,
            query=ModelsQuery,
        ),
        *(
            _form(f"/models/{name}", f"models_{name}", summary, handler, Permission.MODELS)
            for name, summary, handler in (
                ("deploy", "Lets a package decide, or look on", pages.models.deploy),
                ("promote", "Lets a model that looks on decide", pages.models.promote),
                ("stop", "Lets a model no longer score", pages.models.stop),
                ("rollback", "Goes back to the champion before", pages.models.roll_back),
            )
        ),
        _page(
            "/models/performance",
            "performance",
            "Decisions beside what became known of them",
            pages.models.performance,
        ),
        _page("/lists", "lists", "Who is denied, watched or allowed", pages.lists.listed),
        _form(
            "/lists/add", "list_add", "Puts an entry on a list", pages.lists.add, Permission.LISTS
        ),
        _form(
            "/lists/remove",
            "list_remove",
            "Takes an entry off a list",
            pages.lists.remove,
            Permission.LISTS,
        ),
        _page(
            "/dead-letters",
            "dead_letters",
            "What was set aside",
            pages.operations.dead_letters,
            Permission.OPERATE,
            query=LetterQuery,
        ),
        _page(
            "/audit",
            "audit",
            "Who changed what",
            pages.operations.audit,
            Permission.AUDIT,
            query=AuditFilter,
        ),
        _page(
            "/sign-in",
            "sign_in_form",
            "Where one signs in",
            pages.signing.form,
            None,
            query=NextQuery,
            signs_in=True,
        ),
        _form(
            "/sign-in", "sign_in", "Begins a session", pages.signing.sign_in, None, signs_in=True
        ),
        _form("/sign-out", "sign_out", "Ends a session", pages.signing.sign_out, None),
        _page("/search", "search", "Finds an id", pages.search.search, query=SearchQuery),
    ]


async def _home(_: Call) -> web.Response:
    raise web.HTTPSeeOther(HOME)


def _asset() -> Endpoint:
    return Endpoint(
        method="GET",
        path=f"{STATIC}/{{digest}}/{{name}}",
        name="console_asset",
        summary="A style sheet, a script or an icon of the console",
        tag="console",
        permission=None,
        handler=serve_asset,
        media="*/*",
        documented=False,
    )


def _page(
    path: str,
    name: str,
    summary: str,
    handler: Handler,
    permission: Permission | None = Permission.READ,
    *,
    query: type[Struct] | None = None,
    media: str = "text/html",
    signs_in: bool = False,
) -> Endpoint:
    more: dict[str, Any] = {} if query is None else {"query": query}
    return Endpoint(
        method="GET",
        path=f"/console{path}",
        name=f"console_{name}",
        summary=summary,
        tag="console",
        permission=permission,
        handler=handler,
        media=media,
        page=True,
        signs_in=signs_in,
        documented=False,
        **more,
    )


def _form(
    path: str,
    name: str,
    summary: str,
    handler: Handler,
    permission: Permission | None,
    *,
    signs_in: bool = False,
) -> Endpoint:
    return Endpoint(
        method="POST",
        path=f"/console{path}",
        name=f"console_{name}",
        summary=summary,
        tag="console",
        permission=permission,
        handler=handler,
        status=303,
        takes=FORM,
        media="text/html",
        page=True,
        signs_in=signs_in,
        documented=False,
    )
