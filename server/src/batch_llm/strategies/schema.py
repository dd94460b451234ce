"""Output schemas: JSON Schema, draft 2020-12."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from batch_llm.model import OutputValidationError


class OutputSchema:
    """Checks that an output is JSON that matches a schema.

    Args:
        schema: the schema, as JSON text or as a mapping.

    Raises:
        ValueError: it is not JSON, or not a JSON Schema; says where.
    """

    def __init__(self, schema: str | Mapping[str, Any]) -> None:
        # Imported here: it takes a tenth of a second that a sidecar without schemas need not spend.
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import SchemaError
        from referencing import Registry
        from referencing.exceptions import Unresolvable
        from referencing.jsonschema import DRAFT202012

        try:
            self.schema = json.loads(schema) if isinstance(schema, str) else dict(schema)
        except ValueError as error:
            raise ValueError(f"output_json_schema is not JSON: {error}") from None
        try:
            Draft202012Validator.check_schema(self.schema)
        except SchemaError as error:
            where = "/".join(str(part) for part in error.absolute_path) or "its root"
            raise ValueError(f"output_json_schema is no valid JSON Schema: at {where}: {error.message}") from None
        # A registry of its own: jsonschema would fetch what a reference names.
        resolver = Registry().with_resource("", DRAFT202012.create_resource(self.schema)).resolver()
        for reference in _references(self.schema):
            try:
                resolver.lookup(reference)
            except Unresolvable:
                raise ValueError(
                    f"output_json_schema is no valid JSON Schema: $ref {reference!r} names nothing in it"
                ) from None
        self._validator = Draft202012Validator(self.schema, registry=Registry())

    def check(self, output: Any) -> None:
        """Check an output.

        Raises:
            OutputValidationError: it is not JSON or does not match; lists every mismatch.
        """
        text = output if isinstance(output, str) else json.dumps(output)
        try:
            value = json.loads(text, parse_constant=_refuse)
        except ValueError as error:
            raise OutputValidationError([f"not JSON: {error}"], text) from None
        errors = [
            f"at {'/'.join(str(part) for part in error.absolute_path) or 'its root'}: {error.message}"
            for error in self._validator.iter_errors(value)
        ]
        if errors:
            raise OutputValidationError(errors, text)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


def _references(schema: Any) -> Iterator[str]:
    """All that the schema refers to."""
    if isinstance(schema, Mapping):
        if isinstance(reference := schema.get("$ref"), str):
            yield reference
        for part in schema.values():
            yield from _references(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _references(part)
