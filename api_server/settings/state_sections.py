"""Sections of the stack file for what is kept: assistants, files, vector stores."""

from typing import Annotated

from pydantic import Field

from api_server.settings.values import ImportPath, ModelId, Positive, Strict

FunctionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class FunctionConfig(Strict):
    """A function that the stack calls for runs, in a process of its own."""

    call: ImportPath = Field(description="Where it is, as package.module:function.")
    seconds: Positive = Field(30, description="A call that takes longer fails.")


class AssistantsConfig(Strict):
    """Runs of assistants (`/v1/threads/.../runs`)."""

    runs: int = Field(
        64, ge=0, le=4096, description="That each gateway process does at once; 0: none."
    )
    worker_runs: int = Field(
        64, ge=0, le=4096, description="The same of each `python -m api_server worker`."
    )
    run_seconds: Positive = Field(
        600, description="From its creation a run may take so long, waits for tools included."
    )
    max_rounds: int = Field(
        16, ge=1, le=1000, description="Times that a run asks the model before it must end."
    )
    event_days: float = Field(
        1, gt=0, le=3650, description="The stream of a run that has ended can be read so long."
    )
    functions: dict[FunctionName, FunctionConfig] = Field(
        {}, description="Functions that runs call here, by their names; nothing else is."
    )


class FilesConfig(Strict):
    """`/v1/files` and `/v1/uploads`."""

    max_file_bytes: int = Field(
        512 * 1024 * 1024, ge=1, description="The longest file, of one upload or of many parts."
    )
    app_bytes: int = Field(
        100 * 1024**3, ge=1, description="All files of an app together; more are a 400."
    )
    stall_seconds: Positive = Field(
        60, description="An upload that sends nothing for so long is ended."
    )
    sweep_seconds: Positive = Field(
        30, description="How often contents that belong to no file any more are removed."
    )
    loose_seconds: Positive = Field(
        3600, description="What was begun and belongs to no file is given up after so long."
    )


class RetrievalConfig(Strict):
    """Vector stores: what becomes of their files, and how they are searched."""

    ingests: int = Field(
        2, ge=0, le=256, description="Files each gateway process takes in at once; 0: none."
    )
    worker_ingests: int = Field(
        4, ge=0, le=256, description="The same of each `python -m api_server worker`."
    )
    embedding_model: ModelId | None = Field(
        None, description="Its id; else the first model that serves embeddings."
    )
    document_prefix: str | None = Field(
        None, max_length=200, description="Before each text to embed; null: what the model wants."
    )
    query_prefix: str | None = Field(
        None, max_length=200, description="Before each question; null: what the model wants."
    )
    extract_seconds: Positive = Field(
        120, description="To read the text of one file; one that takes longer fails."
    )
    extract_mib: int = Field(
        1024, ge=64, description="Memory to read the text of one file; one that needs more fails."
    )
    max_text_bytes: int = Field(32 * 1024 * 1024, ge=1, description="The longest text of one file.")
    app_chunks: int = Field(
        1_000_000, ge=1, description="Chunks in all vector stores of an app; more are a 400."
    )
    ingest_seconds: Positive = Field(3600, description="To take one file in, embeddings included.")
