"""Output schemas: JSON Schema, draft 2020-12, and pydantic models."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from batch_llm.model import OutputValidationError


class OutputSchema:
    """Checks that an output is JSON that matches a schema.

    Patterns are matched in linear time and references stay within the schema, so that a schema from an application can
    neither stop the sidecar nor make it fetch anything.

    Args:
        schema: the schema, as JSON text or as a mapping.

    Raises:
        ValueError: it is not JSON, or not a JSON Schema; says where.
    """

    def __init__(self, schema: str | Mapping[str, Any]) -> None:
        # Imported here: most sidecars have no schemas.
        from jsonschema_rs import Draft202012Validator, RegexOptions, ValidationError

        try:
            self.schema = json.loads(schema) if isinstance(schema, str) else dict(schema)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"output_json_schema: is not JSON: {error}") from None
        try:
            self._validator = Draft202012Validator(
                self.schema, pattern_options=RegexOptions(), retriever=_retrieve_nothing
            )
        except (ValidationError, ValueError) as error:
            where = "/".join(str(part) for part in getattr(error, "instance_path", ())) or "its root"
            reason = getattr(error, "message", str(error))
            raise ValueError(f"output_json_schema: is no valid JSON Schema: at {where}: {reason}") from None

    def check(self, output: Any) -> Any:
        """The output, if it matches.

        Raises:
            OutputValidationError: it is not JSON or does not match; lists every mismatch.
        """
        text = output if isinstance(output, str) else _as_json(output)
        try:
            value = json.loads(text, parse_constant=_refuse)
            found = list(self._validator.iter_errors(value))
        except (ValueError, RecursionError) as error:
            raise OutputValidationError([f"not JSON: {error}"], text) from None
        if found:
            raise OutputValidationError([_mismatch(error.instance_path, error.message) for error in found], text)
        return output


def model_check(model: type[Any]) -> Callable[[Any], Any]:
    """A check that makes instances of a pydantic model out of JSON text; other outputs pass if they are instances.

    Args:
        model: the model's class.
    """

    def check(output: Any) -> Any:
        from pydantic import ValidationError  # whoever has a model has imported it already

        try:
            return model.model_validate_json(output) if isinstance(output, str) else model.model_validate(output)
        except ValidationError as error:
            problems = [_mismatch(problem["loc"], problem["msg"]) for problem in error.errors()]
            raise OutputValidationError(problems, str(output)) from None

    return check


def _as_json(output: Any) -> str:
    if hasattr(output, "model_dump_json"):  # a pydantic model
        return str(output.model_dump_json())
    return json.dumps(output, default=str)


def _mismatch(path: Any, message: str) -> str:
    return f"at {'/'.join(str(part) for part in path) or 'its root'}: {message}"


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


def _retrieve_nothing(address: str) -> Any:
    raise ValueError(f"a schema may refer to itself only, not to {address}")
