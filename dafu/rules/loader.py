"""Rule files: YAML or JSON to rules, with every error of the file at once.

`parse_rules` is pure; `load_rules` is the only function of the package that reads a file, the one
it is given. Two shapes are read: `{version: 1, lists: {...}, rules: [...]}`, and a plain mapping
from rule id to rule, `{"amount_threshold": {"condition": "amount > 10000", ...}}`.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from dafu.rules.compiler import suggestion
from dafu.rules.engine import FILE_VERSION, RuleSet, compile_collecting
from dafu.rules.errors import RuleDefinitionError, RuleError, RuleSetError
from dafu.rules.model import Name, Rule

MAX_FILE_CHARS: Final = 16 * 2**20
"""Characters of a rule file; longer lists belong in a feature."""

_KEYS: Final = ("version", "lists", "rules")
_FIELDS: Final = tuple(f.name for f in msgspec.structs.fields(Rule))
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]
    """PyYAML's safe loader that refuses a key given twice instead of keeping the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    mark = key_node.start_mark
                    raise _DuplicateKeyError(f"line {mark.line + 1}: {key!r} is given twice")
                seen.add(key)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)
        return mapping


class _DuplicateKeyError(Exception):
    pass


def load_rules(path: Path | str, names: Mapping[str, Name], aliases: Mapping[str, str]) -> RuleSet:
    """Read and compile a rule file (`.json` is JSON, anything else YAML).

    Raises
    ------
    RuleSetError
        With every error of the file.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as exc:
        error = RuleDefinitionError(f"can not read it: {exc.strerror or exc}", source=str(path))
        raise RuleSetError([error], source=str(path)) from None
    except UnicodeDecodeError as exc:
        error = RuleDefinitionError(
            f"it is not UTF-8: {exc.reason} at byte {exc.start}", source=str(path)
        )
        raise RuleSetError([error], source=str(path)) from None
    return parse_rules(text, names, aliases, source=str(path), is_json=file.suffix == ".json")


def parse_rules(
    text: str,
    names: Mapping[str, Name],
    aliases: Mapping[str, str],
    *,
    source: str | None = None,
    is_json: bool = False,
) -> RuleSet:
    """Compile the text of a rule file.

    Raises
    ------
    RuleSetError
        With every error of the text.
    """
    try:
        document = _read(text, is_json)
    except RuleDefinitionError as exc:
        exc.source = source
        raise RuleSetError([exc], source=source) from None
    return parse_document(document, names, aliases, source=source)


def parse_document(
    document: Any,
    names: Mapping[str, Name],
    aliases: Mapping[str, str],
    *,
    source: str | None = None,
) -> RuleSet:
    """Compile what a rule file holds, as plain data.

    Raises
    ------
    RuleSetError
        With every error of the document.
    """
    errors: list[RuleError] = []
    rules: list[Rule] = []
    lists: dict[str, Any] = {}
    try:
        raw, lists = _sections(document, errors)
        rules = _rules(raw, errors)
    except RuleDefinitionError as exc:
        errors.append(exc)
    ruleset, more = compile_collecting(rules, lists, names, aliases, source)
    errors += more
    for error in errors:
        error.source = source
    if errors or ruleset is None:
        raise RuleSetError(errors, source=source)
    return ruleset


def _read(text: str, is_json: bool) -> Any:
    if len(text) > MAX_FILE_CHARS:
        raise RuleDefinitionError(f"it is longer than {MAX_FILE_CHARS} characters")
    try:
        if is_json:
            return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - derives from the safe loader
    except _DuplicateKeyError as exc:
        raise RuleDefinitionError(str(exc), hint="remove one of the two") from None
    except RecursionError:
        raise RuleDefinitionError("it is nested too deeply to be a rule file") from None
    except (yaml.YAMLError, ValueError) as exc:
        kind = "JSON" if is_json else "YAML"
        raise RuleDefinitionError(f"it is not {kind}: {exc}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _DuplicateKeyError(f"{twice!r} is given twice")
    return mapping


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")


def _sections(document: Any, errors: list[RuleError]) -> tuple[list[Any], dict[str, Any]]:
    """The rules and the lists of a document of either shape."""
    if not isinstance(document, dict):
        found = "nothing" if document is None else _kind(document)
        raise RuleDefinitionError(
            f"a rule file is a mapping, this is {found}", hint="begin with: version: 1"
        )
    if "version" not in document and "rules" not in document:
        return _by_id(document), {}
    for key in document:
        if key not in _KEYS:
            hint = suggestion(str(key), _KEYS) or f"keys are {', '.join(_KEYS)}"
            errors.append(RuleDefinitionError(f"unknown key {str(key)!r}", hint=hint))
    if type(document.get("version")) is not int or document["version"] != FILE_VERSION:
        hint = f"write: version: {FILE_VERSION}"
        errors.append(RuleDefinitionError("the version of the file is not known", hint=hint))
    lists = {} if document.get("lists") is None else document["lists"]
    rules = [] if document.get("rules") is None else document["rules"]
    if not isinstance(lists, dict):
        errors.append(RuleDefinitionError(f"'lists' is {_kind(lists)}, not a mapping"))
        lists = {}
    for name in [k for k, v in lists.items() if not isinstance(v, list)]:
        message = f"list {str(name)!r} is {_kind(lists[name])}, not a list"
        errors.append(RuleDefinitionError(message, hint="write: name: [a, b]"))
        lists = {k: v for k, v in lists.items() if k != name}
    if not isinstance(rules, list):
        errors.append(RuleDefinitionError(f"'rules' is {_kind(rules)}, not a list"))
        rules = []
    return rules, lists


def _by_id(document: dict[Any, Any]) -> list[Any]:
    if not document:
        raise RuleDefinitionError("the file has no rules", hint="begin with: version: 1")
    rules: list[Any] = []
    for key, value in document.items():
        if not isinstance(value, dict):
            hint = "begin with 'version: 1', or give each rule id a mapping with a condition"
            message = f"{str(key)!r} is {_kind(value)}, not a rule"
            raise RuleDefinitionError(message, hint=hint)
        rules.append({"id": key, **value})
    return rules


def _rules(raw: list[Any], errors: list[RuleError]) -> list[Rule]:
    rules = []
    for position, item in enumerate(raw, start=1):
        found = item.get("id") if isinstance(item, dict) else None
        rule_id = found if isinstance(found, str) else f"number {position}"
        try:
            rules.append(msgspec.convert(item, Rule))
        except msgspec.ValidationError as exc:
            errors.append(_invalid(item, str(exc), rule_id))
    return rules


def _invalid(item: Any, message: str, rule_id: str) -> RuleDefinitionError:
    hint = ""
    if isinstance(item, dict):
        unknown = [str(key) for key in item if key not in _FIELDS]
        if unknown:
            message = f"unknown key {', '.join(map(repr, unknown))}"
            hint = suggestion(unknown[0], _FIELDS) or f"keys are {', '.join(_FIELDS)}"
        elif "$.id" in message:
            hint = "an id begins with a letter or digit; then also _ . : -"
        elif "$.action" in message:
            hint = (
                "actions are approve, flag_for_review, additional_verification, "
                "location_verification, block"
            )
        elif "$.mode" in message:
            hint = "modes are live, shadow, and off in quotes (YAML reads a plain off as false)"
        elif "condition" in message:
            hint = "quote the condition, or begin it on a new line after 'condition: >-'"
    return RuleDefinitionError(message, hint=hint, rule_id=rule_id)


def _kind(value: object) -> str:
    kinds = {dict: "a mapping", list: "a list", str: "text", bool: "true or false"}
    return kinds.get(type(value), type(value).__name__)
