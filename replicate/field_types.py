"""Types of fields that pydantic checks, and how strictly."""

import re
from collections.abc import Collection
from typing import Annotated, Any

import pydantic
from pydantic import BeforeValidator, ConfigDict, Field

from replicate.errors import unknown

# Strict, because lax validation turns `seed: true` into seed 1.
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def one_of(kind: str, choices: Collection[str], pattern: str | None = None) -> pydantic.GetPydanticSchema:
    """Mark a name that must be one of `choices`, or match `pattern` if there is one."""

    def check(name: str) -> str:
        if not (re.fullmatch(pattern, name) if pattern else name in choices):
            raise unknown(kind, name, choices)
        return name

    names: dict[str, Any] = {"pattern": f"^({pattern})$"} if pattern else {"enum": [*choices]}
    checked_name = Annotated[str, pydantic.AfterValidator(check), Field(json_schema_extra=names)]
    return pydantic.GetPydanticSchema(lambda source, handler: handler(checked_name))


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value  # YAML reads 9e4 as a float


WHOLE = BeforeValidator(_whole)
