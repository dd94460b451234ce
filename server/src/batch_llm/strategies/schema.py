"""Output schemas: JSON Schema, draft 2020-12."""

from __future__ import annotations

import json
from collections.abc import Mapping
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

        try:
            self.schema = json.loads(schema) if isinstance(schema, str) else dict(schema)
        except ValueError as error:
            raise ValueError(f"output_json_schema is not JSON: {error}") from None
        try:
            Draft202012Validator.check_schema(self.schema)
        except SchemaError as error:
            where = "/".join(str(part) for part in error.absolute_path) or "its root"
            raise ValueError(f"output_json_schema is no valid JSON Schema: at {where}: {error.message}") from None
        self._validator = Draft202012Validator(self.schema)

    def check(self, output: Any) -> None:
        """Check an output.

        Raises:
            OutputValidationError: it is not JSON or does not match; lists every mismatch.
        """
        text = output if isinstance(output, str) else json.dumps(output)
        try:
            value = json.loads(text)
        except ValueError as error:
            raise OutputValidationError([f"not JSON: {error}"], text) from None
        errors = [
            f"at {'/'.join(str(part) for part in error.absolute_path) or 'its root'}: {error.message}"
            for error in self._validator.iter_errors(value)
        ]
        if errors:
            raise OutputValidationError(errors, text)
