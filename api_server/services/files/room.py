"""Everything of files for one process: what routes ask, and what runs beside."""

from dataclasses import dataclass

from api_server.services.files.bucket import Bucket
from api_server.services.files.service import FileRules, FileService
from api_server.services.files.sweep import Sweep
from api_server.services.files.uploads import UploadService
from api_server.services.jobs.room import Besides
from api_server.stores.files import FileStore
from api_server.stores.objects import Objects
from api_server.stores.postgres import Postgres
from api_server.stores.uploads import UploadStore


@dataclass(frozen=True)
class Files:
    """The services, and the sweep as loops of the job room."""

    service: FileService
    uploads: UploadService
    sweep: Sweep

    @property
    def besides(self) -> Besides:
        return Besides(loops=(self.sweep.run, self.sweep.watch))


def furnish_files(postgres: Postgres, objects: Objects, bucket: str, rules: FileRules) -> Files:
    """`bucket`: its name; it is made when it is needed."""
    store, upload_store, named = FileStore(postgres), UploadStore(postgres), Bucket(objects, bucket)
    service = FileService(store, named, rules)
    return Files(
        service=service,
        uploads=UploadService(upload_store, service),
        sweep=Sweep(
            store,
            upload_store,
            named,
            sweep_seconds=rules.sweep_seconds,
            loose_seconds=rules.loose_seconds,
            is_up=lambda: objects.dependency.is_up,
        ),
    )
