"""The OpenAPI 3.1 document of the endpoints, made from their declarations.

Pure. Paths, parameters, bodies and answers are those that the endpoints declare; their types are
described by msgspec, which also reads and checks them. What can go wrong at every endpoint that is
declared alike is added here and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
from msgspec import Struct

from dafu import __version__
from dafu.web.endpoints import JSON, Endpoint
from dafu.web.principals import Permission

__all__ = ["Problem", "openapi"]

PROBLEM: Final = "application/problem+json"
_REF: Final = "#/components/schemas/{name}"
_IN_PATH: Final = re.compile(r"\{(\w+)(?::[^{}]*(?:\{[^{}]*\}[^{}]*)*)?\}")
_FLOAT: Final = {"type": "number"}


class Problem(Struct, frozen=True):
    """An error as problem details (RFC 9457); further members say more, such as `field`."""

    type: str
    title: str
    status: int
    detail: str


_ALWAYS: Final = {
    400: "The request is malformed, or meant for another host.",
    500: "The worker failed to answer; its log says why.",
    504: "There was no answer in time, and it was given up.",
}
_WITH_PERMISSION: Final = {
    401: "No credential, or one that is not good.",
    403: "The caller lacks the permission.",
    429: "Too many requests; `Retry-After` says when to come back.",
}
_WITH_INPUT: Final = {
    400: "A parameter or a field is wrong, and `field` names it; or as everywhere: the request is "
    "malformed, or meant for another host."
}
_WITH_BODY: Final = {
    408: "The body did not arrive in time.",
    413: "The body is too long.",
    415: "The body has another type.",
}


def openapi(endpoints: Iterable[Endpoint], url: str = "/") -> dict[str, Any]:
    """The document of those endpoints that are to be documented.

    Parameters
    ----------
    endpoints : iterable of Endpoint
    url : str
        Where the worker answers.

    Returns
    -------
    dict
        An OpenAPI 3.1 document, ready for JSON.
    """
    endpoints = list(endpoints)
    documented = [e for e in endpoints if e.documented]
    answers = [e.returns for e in documented if e.returns is not None]
    answers += [kind for e in documented for kind in e.also.values()]
    bodies = [e.body for e in documented if e.body is not None]
    queries = [e.query for e in documented if e.query is not None]
    described = _Schemas([Problem, *answers], [*bodies, *queries])
    oauth = _oauth(endpoints)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in documented:
        path = _IN_PATH.sub(r"{\1}", endpoint.path)
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint, described, oauth)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dafu",
            "version": __version__,
            "summary": "Real-time payment-fraud decisions",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": url}],
        "tags": [{"name": name} for name in dict.fromkeys(e.tag for e in documented)],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(described.components.items())),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key, or an access token.",
                },
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                **oauth,
            },
        },
    }


def _oauth(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """Where access tokens are had, and for what: the forms and answers are OAuth's own."""
    found: dict[str, Any] = {}
    for endpoint in endpoints:
        if endpoint.grants:
            scopes = {str(each): f"The permission `{each}`." for each in Permission}
            flow = {"tokenUrl": endpoint.path, "scopes": scopes}
            flows = dict.fromkeys(endpoint.grants, flow)
            found["oauth2"] = {"type": "oauth2", "description": endpoint.summary, "flows": flows}
    return found


class _Schemas:
    """JSON schemas of types: of those that are written, and of those that are read.

    A float that is written may be null, where it is not finite: JSON knows no NaN.
    """

    def __init__(self, written: Sequence[Any], read: Sequence[Any]) -> None:
        out, of_out = msgspec.json.schema_components(written, ref_template=_REF)
        into, of_in = msgspec.json.schema_components(read, ref_template=_REF)
        self.components = dict(of_in)
        for name, schema in of_out.items():
            if name not in of_in:
                self.components[name] = _or_null(schema)
        self._by_type = [
            *zip(read, into, strict=True),
            *zip(written, map(_or_null, out), strict=True),
        ]

    def of(self, kind: Any) -> dict[str, Any]:
        """The schema of a type, usually a reference."""
        return next(dict(schema) for known, schema in self._by_type if known == kind)

    def properties(self, kind: type[Struct]) -> tuple[Mapping[str, Any], Sequence[str]]:
        """The properties of a Struct, and those that are required."""
        schema = self.components[self.of(kind)["$ref"].rpartition("/")[2]]
        return schema["properties"], schema.get("required", ())


def _or_null(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_or_null(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "number":
        return {**schema, "type": ["number", "null"]}
    return {name: _or_null(value) for name, value in schema.items()}


def _operation(endpoint: Endpoint, schemas: _Schemas, oauth: Iterable[str]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "tags": [endpoint.tag],
        "parameters": [*_path_parameters(endpoint), *_query_parameters(endpoint, schemas)],
        "responses": _responses(endpoint, schemas),
        "security": [],
    }
    if endpoint.permission is not None:
        by_token = [{scheme: [str(endpoint.permission)]} for scheme in oauth]
        operation["security"] = [{"bearer": []}, {"key": []}, *by_token]
        operation["description"] = f"Needs the permission `{endpoint.permission}`."
    if endpoint.body is not None:
        content = {endpoint.takes: {"schema": schemas.of(endpoint.body)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _path_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "minLength": 1, "maxLength": 256},
        }
        for name in _IN_PATH.findall(endpoint.path)
    ]


def _query_parameters(endpoint: Endpoint, schemas: _Schemas) -> list[dict[str, Any]]:
    if endpoint.query is None:
        return []
    properties, required = schemas.properties(endpoint.query)
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _given(schema)}
        for name, schema in properties.items()
    ]


def _given(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a parameter where it is given: a query has no way to write null."""
    choices = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    if len(choices) != 1:
        return dict(schema)
    rest = {name: value for name, value in schema.items() if name not in ("anyOf", "default")}
    return {**rest, **choices[0]}


def _responses(endpoint: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    good: dict[str, Any] = {"description": HTTPStatus(endpoint.status).phrase}
    if endpoint.returns is not None:
        good["content"] = {endpoint.media: {"schema": schemas.of(endpoint.returns)}}
    elif endpoint.media != JSON:
        good["content"] = {endpoint.media: {}}
    responses = {str(endpoint.status): good}
    for status, kind in endpoint.also.items():
        content = {JSON: {"schema": schemas.of(kind)}}
        responses[str(status)] = {"description": HTTPStatus(status).phrase, "content": content}
    for status, meaning in sorted(_problems(endpoint).items()):
        content = {PROBLEM: {"schema": schemas.of(Problem)}}
        responses[str(status)] = {"description": meaning, "content": content}
    return responses


def _problems(endpoint: Endpoint) -> dict[int, str]:
    found = dict(_ALWAYS)
    if endpoint.permission is not None:
        found |= _WITH_PERMISSION
    if endpoint.query is not None or endpoint.body is not None:
        found |= _WITH_INPUT
    if endpoint.body is not None:
        found |= _WITH_BODY
    return found | dict(endpoint.problems)
