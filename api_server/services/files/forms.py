"""What a form holds, as it comes: fields, and one content that goes to the object store at once."""

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field

from api_server.errors import InvalidRequestError
from api_server.services.files.writing import PieceWriter


@dataclass(frozen=True)
class Begin:
    """From now on the content of a file comes, in `bytes`."""

    name: str
    filename: str
    content_type: str | None


@dataclass(frozen=True)
class Field:
    """A whole field that is no file."""

    name: str
    value: str


Event = Begin | Field | bytes


@dataclass
class Form:
    """All of a form but the content. `file` None: there was none."""

    fields: dict[str, str] = field(default_factory=dict)
    file: Begin | None = None


async def receive(
    events: AsyncIterator[Event], writer: PieceWriter, name: str, fields: Collection[str] = ()
) -> Form:
    """Read a form to its end, with these fields; the content of the file `name` goes to the writer.

    Raises `InvalidRequestError` for other fields, another file or a second one, and what the writer
    raises.
    """
    form = Form()
    async for event in events:
        if isinstance(event, bytes):
            await writer.write(event)
        elif isinstance(event, Field):
            if event.name not in fields and event.name != name:
                param = event.name[:100]
                raise InvalidRequestError(f"Unknown parameter: {param!r}.", param=param)
            form.fields[event.name] = event.value
        elif event.name != name or form.file is not None:
            raise InvalidRequestError(
                f"{event.name[:100]}: one file is wanted, in the field {name}.", param=name
            )
        else:
            form.file = event
    if form.file is None:
        raise InvalidRequestError(f"{name} is required, as a file of a form.", param=name)
    return form
