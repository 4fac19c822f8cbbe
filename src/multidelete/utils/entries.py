"""Settings that name an entry of a registry, validated by pydantic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from multidelete.utils.registry import unknown


class MistakesError(PydanticCustomError):
    """Complete messages of a validator; they are shown unchanged, one per line."""

    def __new__(cls, *texts: str) -> MistakesError:
        """Create an error with these messages."""
        return super().__new__(cls, "mistakes", "{text}", {"text": "\n".join(texts)})


class Entry:
    """Annotation of a setting whose ``name`` selects an entry of a registry; other keys are settings of the entry.

    The registry is read at validation, so that entries can be added at any time.

    Args:
        table: Registry.
        kind: Name of the kind of entry, for messages.
        settings: Settings class of an entry; by default the entry itself.
        named: Whether the value is ``(name, settings)`` instead of only the settings.
    """

    def __init__(
        self,
        table: Mapping[str, Any],
        kind: str,
        settings: Callable[[Any], type[BaseModel]] = lambda entry: entry,
        *,
        named: bool = False,
    ) -> None:
        self.table, self.kind, self.settings, self.named = table, kind, settings, named

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.validate, serialization=core_schema.plain_serializer_function_ser_schema(self.serialize)
        )

    def validate(self, value: Any) -> Any:
        """Validate a name, a table with a name, or an object; returns the entry's settings."""
        if isinstance(value, BaseModel | tuple):
            return value
        fields = {"name": value} if isinstance(value, str) else value
        name = fields.get("name") if isinstance(fields, dict) else None
        if not isinstance(name, str):
            raise PydanticCustomError("unlocated", "needs a name, one of {names}", {"names": ", ".join(self.table)})
        if name not in self.table:
            raise MistakesError(unknown(name, self.table, self.kind))
        kind = self.settings(self.table[name])
        try:
            settings = kind.model_validate({key: each for key, each in fields.items() if key != "name"})
        except ValidationError as error:
            context = {"error": error, "kind": kind, "owner": None if self.named else f"{self.kind} '{name}'"}
            raise PydanticCustomError("settings", "wrong settings", context) from error
        return (name, settings) if self.named else settings

    def serialize(self, value: Any) -> dict[str, Any]:
        """The table that :meth:`validate` reads."""
        name, settings = value if self.named else (value.name, value)
        return {"name": name, **settings.model_dump(mode="json")}
