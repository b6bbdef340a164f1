"""Comparison with MMseqs2 (Steinegger and Soeding 2017, https://doi.org/10.1038/nbt.3988)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import numpy.typing as npt

from exapt.data.homology import Alignment, Judge
from exapt.errors import DataError

Rows = npt.NDArray[np.int64]

_PROGRAM: Final = "mmseqs"
_COLUMNS: Final = "query,target,fident,alnlen,gapopen,qcov,tcov,qlen,tlen,evalue"
# Repeats of DNA are masked unless said otherwise, and with them what consists of repeats. Those of proteins stay masked:
# the program's E-values do not know how often such letters score high by chance.
_KIND: Final = {
    "dna": ("--dbtype", "2", "--search-type", "3", "--strand", "2", "--mask", "0"),
    "protein": ("--dbtype", "1", "-s", "7.5"),
}
# A word of DNA is 15 letters long unless said otherwise, which few relatives below 90 % have in common; shorter ones find
# more, and cost more the more data there are.
_WORDS: Final = (6, 9)
_EXPECTED: Final = 16
"""Words of chance that a letter may have, which the length of words is chosen for."""
_MOST: Final = 1000
"""Hits of one sequence that are looked at, the best ones."""
_LEAST: Final = 14
"""Letters below which the program cannot look at a sequence."""
# What is too much to be significant in the end, but for short sequences with many equal letters.
_LOOSE: Final = 1e3


# What the program says, and fails, where all that is searched consists of repeats or is unknown: there is nothing to find.
_NO_WORD: Final = "No k-mer could be extracted"


def installed() -> bool:
    """Return whether the program is on PATH."""
    return shutil.which(_PROGRAM) is not None


class Mmseqs:
    """Compares sequences with the program ``mmseqs``."""

    def __init__(self, sequences: Sequence[str], judge: Judge) -> None:
        if not installed():
            raise DataError("split.engine is 'mmseqs', but there is no program 'mmseqs' on PATH: install MMseqs2.")
        self._sequences, self._judge = sequences, judge
        version = subprocess.run([_PROGRAM, "version"], capture_output=True, text=True, check=False)
        self.name = f"MMseqs2 {version.stdout.strip()}"

    def links(self) -> Iterator[tuple[int, int]]:
        """Yield related pairs."""
        every = np.arange(len(self._sequences))
        for query, target, found in self._found(every, every):
            if query != target and self._judge.related(found):
                yield query, target

    def hits(self, queries: Rows, targets: Rows) -> Iterator[tuple[int, int, float]]:
        """Yield query, target and identity of significant pairs."""
        for query, target, found in self._found(queries, targets):
            if self._judge.significant(found):
                yield query, target, found.identity

    def _found(self, queries: Rows, targets: Rows) -> Iterator[tuple[int, int, Alignment]]:
        queries, targets = self._long(queries), self._long(targets)
        if not len(queries) or not len(targets):
            return
        # E-values are of the searched part; ours are of all sequences, so that they mean the same everywhere.
        share = self._judge.letters / sum(len(self._sequences[target]) for target in targets.tolist())
        with TemporaryDirectory(prefix="exapt-") as name:
            folder = Path(name)
            _write(folder / "queries.fasta", self._sequences, queries)
            _write(folder / "targets.fasta", self._sequences, targets)
            self._search(folder, _LOOSE / share)
            with (folder / "hits.tsv").open(encoding="utf-8") as lines:
                for line in lines:
                    yield _read(line, share)

    def _long(self, numbers: Rows) -> Rows:
        return np.array([number for number in numbers.tolist() if len(self._sequences[number]) >= _LEAST], np.int64)

    def _search(self, folder: Path, evalue: float) -> None:
        kind = _KIND[self._judge.rule.kind]
        if self._judge.rule.kind == "dna":
            kind = (*kind, "-k", str(_word(self._judge.letters)))
        files = [str(folder / file) for file in ("queries.fasta", "targets.fasta", "hits.tsv", "work")]
        command = [_PROGRAM, "easy-search", *files, *kind, "-e", str(evalue), "--max-seqs", str(_MOST)]
        command += ["--format-output", _COLUMNS, "--alignment-mode", "3", "-v", "1"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = f"{done.stdout}\n{done.stderr}".strip().splitlines()
        if done.returncode and any(_NO_WORD in line for line in said):
            (folder / "hits.tsv").touch()
        elif done.returncode:
            raise DataError(f"mmseqs failed: {said[-1] if said else f'exit code {done.returncode}'}")


def _word(letters: int) -> int:
    """Return how many letters of DNA a word has, in data of so many letters."""
    low, high = _WORDS
    return int(np.clip(np.ceil(np.log(max(1, letters) / _EXPECTED) / np.log(4)), low, high))


def _write(path: Path, sequences: Sequence[str], numbers: Rows) -> None:
    path.write_text("".join(f">{number}\n{sequences[number]}\n" for number in numbers.tolist()), encoding="utf-8")


def _read(line: str, share: float) -> tuple[int, int, Alignment]:
    query, target, identity, columns, gaps, *rest = line.split("\t")
    # Its own count of equal letters is 0 unless whole paths are kept, which takes much longer.
    matches = round(float(identity) * int(columns))
    ours, theirs, query_length, target_length, evalue = map(float, rest)
    shorter = int(min(query_length, target_length))
    found = Alignment(matches, int(columns), gaps == "0", max(ours, theirs), shorter, evalue * share)
    return int(query), int(target), found
