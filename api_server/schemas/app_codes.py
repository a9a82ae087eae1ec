"""`configs/app_codes.yaml`, and the JSON form of the AI server requirements: apps from a file."""

from dataclasses import dataclass, field
from typing import Annotated, Self

from pydantic import Field, model_validator

from api_server.schemas.apps import AppName, Policy, Rate, RequestType, Strict, TypeName

AppCode = Annotated[str, Field(pattern=r"^[\x21-\x7e]{8,256}$")]
RESERVED_NAMES = frozenset({"anyone", "development"})


class AppCodeEntry(Policy):
    """An app by its code: the three fields of the requirements, and any key of a policy.

    `rate_limit` is one more of `rate_limits`; each of `allowed_request_types` that does not stand
    in `request_types` gets that type's defaults, with `max_tokens` as the length of its answers.
    """

    name: AppName
    allowed_request_types: Annotated[list[TypeName], Field(min_length=1)] | None = None
    rate_limit: Rate | None = None

    def policy(self) -> Policy:
        """What the app may do."""
        fields = self.model_dump(exclude={"name", "allowed_request_types", "rate_limit"})
        if self.rate_limit is not None:
            fields["rate_limits"] = list(dict.fromkeys([self.rate_limit, *self.rate_limits]))
        plain = (
            RequestType() if self.max_tokens is None else RequestType(max_tokens=self.max_tokens)
        )
        allowed = dict.fromkeys(self.allowed_request_types or (), plain)
        fields["request_types"] = allowed | self.request_types
        return Policy.model_validate(fields)


class AppCodes(Strict):
    """The file. An empty one is right, and so is one that has comments only."""

    app_codes: dict[AppCode, AppCodeEntry] = Field({})

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [entry.name for entry in self.app_codes.values()]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two app codes have the name {name!r}: each app has one")
            if name in RESERVED_NAMES or name.startswith("app_"):
                raise ValueError(f"{name!r} is a name that the stack keeps for itself")
        return self


@dataclass(frozen=True, slots=True)
class SeededApp:
    """An app as the file has it."""

    name: str
    policy: Policy
    code: str = field(repr=False)
