"""Where a Geneformer's files lie: in a folder, a repository of the hub, or, as published, a folder inside one."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, replace
from pathlib import Path

from exapt.weights import Files

_ON_HUB = re.compile(r"([\w-][\w.-]*/[\w.-]+)((?:/[\w-][\w.-]*)*)/?")


@dataclass(frozen=True)
class Published(Files):
    """Files whose source may also be ``OWNER/NAME/FOLDER``, and whose names may lead out of that folder by ``../``."""

    def find(self, name: str) -> Path | None:
        """Return a file, downloaded if need be; None if the checkpoint, or the repository around it, has no such file."""
        hub = _ON_HUB.fullmatch(self.source)
        if hub is None or Path(self.source).is_dir():
            return super().find(name)
        inside = posixpath.normpath(f"{hub[2]}/{name}".lstrip("/"))
        return None if inside.startswith("../") else super(Published, replace(self, source=hub[1])).find(inside)


def files(source: str, revision: str) -> Published:
    """Return the files of a Geneformer checkpoint."""
    return Published(source, revision, "geneformer", "Geneformer")
