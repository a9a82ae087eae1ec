"""What some embedding models want before a text, so that questions find what answers them. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Before what is to be found, and before what is searched for."""

    document: str = ""
    query: str = ""


_FAMILIES = {"nomic-embed": Prefixes("search_document: ", "search_query: ")}
"""By how a model's name begins, as its card says."""


def prefixes_of(
    model_id: str, *, document: str | None = None, query: str | None = None
) -> Prefixes:
    """Those of a model; `document` and `query` are the operator's, None: as the model wants."""
    name = model_id.rsplit("/", 1)[-1].lower()
    found = (prefixes for family, prefixes in _FAMILIES.items() if name.startswith(family))
    wanted = next(found, Prefixes())
    return Prefixes(
        wanted.document if document is None else document,
        wanted.query if query is None else query,
    )
