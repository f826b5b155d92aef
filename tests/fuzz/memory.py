"""Files of a data set in memory: what an archive's tree is, without the archive."""

from __future__ import annotations

from collections.abc import Mapping

from heatbox.data.files.trees import Tree
from heatbox.errors import InputError


class MemoryTree(Tree):
    """Names and contents; a name is a relative path."""

    where = "memory"

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.content = files

    def _below(self, folder: str) -> list[list[str]]:
        above = f"{folder}/" if folder else ""
        return [name.removeprefix(above).split("/") for name in self.content if name.startswith(above)]

    def files(self, folder: str = "") -> list[str]:
        return sorted(parts[0] for parts in self._below(folder) if len(parts) == 1)

    def folders(self, folder: str = "") -> list[str]:
        return sorted({parts[0] for parts in self._below(folder) if len(parts) > 1})

    def has(self, name: str) -> bool:
        return name in self.content

    def read(self, name: str) -> bytes:
        if name not in self.content:
            raise InputError(f"{self.where}: has no file {name!r}")
        return self.content[name]
