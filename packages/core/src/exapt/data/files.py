"""Which reader or writer a file needs, and the care that core takes of every output file."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from exapt.errors import ComponentError, DataError, OutputError, listed
from exapt.plugins import Plugins, current
from exapt.recipe import validated
from exapt.specs import Annotating, Options, ReaderSpec, WriterSpec

if TYPE_CHECKING:
    import pyarrow as pa

    from exapt.data.tables import Reader, Writer
    from exapt.plugins import Offer

F = TypeVar("F", ReaderSpec, WriterSpec)


def open_table(
    path: str | Path,
    format: str = "",  # noqa: A002
    plugins: Plugins | None = None,
    options: Mapping[str, Any] | None = None,
) -> Reader:
    """Open a table with the reader of that name or, without one, the reader that the file's suffix tells.

    A folder is a table where a reader knows it by the files in it. ``options`` are the reader's own. Raises
    ``DataError`` for a file that is not there or that no installed reader reads, ``RecipeError`` for an option that the
    reader does not have.
    """
    path = Path(path)
    spec = reader_of(path, format, plugins)
    return spec.build(validated(spec.options, options or {}, f"reader '{spec.name}'"), path)


def reader_of(path: Path, format: str = "", plugins: Plugins | None = None) -> ReaderSpec:  # noqa: A002
    """Return what ``open_table`` reads a file or a folder with."""
    plugins = plugins or current()
    named = plugins.get(ReaderSpec, format).spec if format else None
    if _is_folder(path):
        fits = _by_members(path, plugins)
        return named or _only(fits, ReaderSpec, path)
    _check_readable(path)
    name = path.name.lower()
    return named or _by_suffix(plugins, ReaderSpec, path, {name, name.removesuffix(".gz")})


def _is_folder(path: Path) -> bool:
    with suppress(OSError):
        return path.is_dir()
    return False


def _by_members(path: Path, plugins: Plugins) -> list[Offer[ReaderSpec]]:
    offers = plugins.offers(ReaderSpec)
    names = [file.name.lower() for file in visible_files(path)]
    fits = [offer for offer in offers if _has_member(names, offer.spec.members)]
    if fits:
        return fits
    members = {member for offer in offers for member in offer.spec.members}
    known = f", and holds none of {listed(members)}" if members else ""
    raise DataError(f"'{path}' is a folder, not a file{known}.")


def _has_member(names: Iterable[str], members: Sequence[str]) -> bool:
    return any(fnmatchcase(name, member.lower()) for name in names for member in members)


def visible_files(folder: Path) -> list[Path]:
    """Return the files in a folder whose names do not begin with a dot, by name; raises ``DataError``."""
    try:
        return sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    except OSError as error:
        raise DataError(f"'{folder}' cannot be read: {error.strerror}.") from None


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb"):
            return
    except FileNotFoundError:
        raise DataError(f"there is no file '{path}'.") from None
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror}.") from None


def _by_suffix(plugins: Plugins, kind: type[F], path: Path, names: set[str]) -> F:
    """Return the only component whose suffix is the longest that any of the names ends in."""
    fits = {
        (len(suffix), offer.info.distribution, offer.spec.name): offer
        for offer in plugins.offers(kind)
        for suffix in offer.spec.suffixes
        if any(name.endswith(suffix.lower()) for name in names)
    }
    longest = max((length for length, _, _ in fits), default=0)
    found = [offer for (length, _, _), offer in sorted(fits.items(), key=lambda fit: fit[0]) if length == longest]
    if not found:
        raise _unfit(plugins, kind, path)
    return _only(found, kind, path)


def _only(found: Sequence[Offer[F]], kind: type[F], path: Path) -> F:
    if len(found) > 1:
        choices = " and ".join(f"'{offer.info.distribution}:{offer.spec.name}'" for offer in found)
        raise ComponentError(f"{path.name} suits the {kind.kind}s {choices}; name one of them as the format.")
    return found[0].spec


def _unfit(plugins: Plugins, kind: type[F], path: Path) -> DataError | OutputError:
    known = listed({suffix for offer in plugins.offers(kind) for suffix in offer.spec.suffixes})
    if kind is ReaderSpec:
        return DataError(
            f"no installed reader reads '{path.name}': its name must end in {known} (or one of these and .gz), "
            "or the format be named. See 'exapt list readers'."
        )
    return OutputError(
        f"no installed writer writes '{path.name}': its name must end in {known}, or the format be named."
    )


def table_sha256(path: str | Path, format: str = "") -> str:  # noqa: A002
    """Return the sha256 of a table as it lies on the disk, in hexadecimal: of its file or, of several, names and contents.

    Raises ``DataError`` like ``open_table``, which reads it with the same ``format``.
    """
    path = Path(path)
    files = _files(path, reader_of(path, format))
    if files == [path]:
        return _sha256(path)
    parts = "".join(f"{file.name} {_sha256(file)}\n" for file in files)
    return hashlib.sha256(parts.encode()).hexdigest()


def _files(path: Path, spec: ReaderSpec) -> list[Path]:
    if spec.files is not None:
        return sorted(spec.files(path))
    if not _is_folder(path):
        return [path]
    return visible_files(path)


def _sha256(path: Path) -> str:
    _check_readable(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class AtomicWriter:
    """A file that is there when it is whole, or not at all.

    It is written in a hidden folder beside its place, which takes the writer's own scratch files too; leaving the
    ``with`` block moves it into place, and leaving by an exception throws it all away.
    """

    def __init__(self, path: Path, spec: WriterSpec, options: Options, in_place: bool = False) -> None:
        self.path, self._in_place = path, in_place
        self._spec, self._options = spec, options
        self.annotates = isinstance(options, Annotating)
        """Whether what is written goes into a copy of the table that it is about."""
        self._rows = 0

    def __enter__(self) -> Self:
        with writing(self.path):
            self._folder = Path(tempfile.mkdtemp(prefix=f".{self.path.name[:100]}.", dir=self.path.parent))
            try:
                self._begin()
            except BaseException:
                self._clear()
                raise
        return self

    def _begin(self) -> None:
        self._draft = self._folder / self.path.name
        # A writer may leave a file that its owner alone can read; the mode of this one honours the umask, or stays.
        self._draft.touch()
        self._mode = stat.S_IMODE((self.path if self._in_place else self._draft).stat().st_mode)
        self._writer: Writer = self._spec.build(self._options, self._draft)

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows; all batches have the schema of the first."""
        self._rows += batch.num_rows
        with writing(self.path):
            self._writer.write(batch)

    def add_facts(self, facts: Mapping[str, Any]) -> None:
        """Add to where answers come from what is known only now, if the writer keeps it."""
        if isinstance(self._options, Annotating):
            self._options.facts.update(facts)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._clear()

    def _finish(self) -> None:
        if not self._rows:
            raise OutputError(f"there are no rows to write to '{self.path}'.")
        with writing(self.path):
            self._writer.close()
            self._draft.chmod(self._mode)
            self._draft.replace(self.path)

    def _clear(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise ``OutputError`` for what the system says against writing to ``path``."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write '{path}': {error.strerror or error}.") from None


def open_writer(
    path: str | Path,
    format: str = "",  # noqa: A002
    plugins: Plugins | None = None,
    *,
    overwrite: bool = False,
    about: Mapping[str, Any] | None = None,
) -> AtomicWriter:
    """Prepare a file for answers or embeddings, with the writer of that name or of the file's suffix.

    ``about`` holds the options of a writer that puts answers back beside what they are ``Annotating``, all but
    ``replace``. Raises ``OutputError`` for a folder that is not there, a file that is, and a suffix that no installed
    writer has.
    """
    path = Path(path)
    plugins = plugins or current()
    named = plugins.get(WriterSpec, format).spec if format else None
    spec = named or _by_suffix(plugins, WriterSpec, path, {path.name.lower()})
    back = issubclass(spec.options, Annotating)
    if back and about is None:
        raise OutputError(f"the writer '{spec.name}' adds embeddings and predictions to the table that they are about.")
    # A copy with more in it may take the place of what it is a copy of; nothing is lost by that.
    in_place = back and about is not None and path.resolve() == Path(about["source"]).resolve()
    # Its place is what a link leads to, which stays a link.
    path = path.resolve() if in_place else path
    with writing(path):
        check_free(path, overwrite or in_place)
    options = spec.options.model_validate({**(about or {}), "replace": overwrite} if back else {})
    return AtomicWriter(path, spec, options, in_place)


def own_place(table: Path, format: str = "", plugins: Plugins | None = None) -> Path | None:  # noqa: A002
    """Return the table's own path, if a writer of its suffix, or of that name, puts answers back into tables."""
    plugins = plugins or current()
    try:
        spec = (
            plugins.get(WriterSpec, format).spec
            if format
            else _by_suffix(plugins, WriterSpec, table, {table.name.lower()})
        )
    except (OutputError, ComponentError):
        return None
    return table if issubclass(spec.options, Annotating) else None


def check_free(path: Path, overwrite: bool) -> None:
    """Raise ``OutputError`` if a file cannot be made at ``path``: no such folder, or something stands there already."""
    if not path.parent.is_dir():
        raise OutputError(f"there is no folder '{path.parent}' to write '{path.name}' to.")
    if path.is_dir():
        raise OutputError(f"'{path}' is a folder, not a file.")
    if os.path.lexists(path) and not overwrite:
        raise OutputError(f"'{path}' exists already. Remove it, or name another file.")
