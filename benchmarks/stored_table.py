"""Tables of the documentation as CSV files: lines `# fact: ...` on how a table was measured, then a header and rows of text."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class StoredTable:
    """A table and how it was measured. versions: of PyTorch and of the packages that were compared."""

    command: str
    machine: str
    versions: str
    commit: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @classmethod
    def parse(cls, text: str) -> "StoredTable":
        """The table in `text`. Raises ValueError if a fact is missing, or if a row does not have one cell for each column."""
        lines = text.splitlines()
        facts = dict(line.removeprefix("# ").split(": ", 1) for line in lines if line.startswith("# "))
        if tuple(facts) != FACTS:
            raise ValueError(f"its facts must be {', '.join(FACTS)}, and are {', '.join(facts) or 'missing'}")
        columns, *rows = csv.reader(line for line in lines if not line.startswith("# "))
        if bad := [row for row in rows if len(row) != len(columns)]:
            raise ValueError(f"a row must have {len(columns)} cells; {bad[0]} has {len(bad[0])}")
        return cls(**facts, columns=tuple(columns), rows=tuple(map(tuple, rows)))

    def text(self) -> str:
        """The file's text."""
        file = io.StringIO()
        file.writelines(f"# {fact}: {getattr(self, fact)}\n" for fact in FACTS)
        csv.writer(file, lineterminator="\n").writerows((self.columns, *self.rows))
        return file.getvalue()

    def rows_of(self, value: str) -> "StoredTable":
        """The rows whose first cell is `value`, without that cell. Raises ValueError if there are none."""
        rows = tuple(row[1:] for row in self.rows if row[0] == value)
        if not rows:
            raise ValueError(f"no row has {self.columns[0]} {value!r}")
        return replace(self, columns=self.columns[1:], rows=rows)

    def markdown(self) -> str:
        """The table in Markdown, and a line with its facts."""
        lines = [_line(self.columns), _line(["---"] * len(self.columns)), *map(_line, self.rows)]
        return "\n".join([*lines, "", f"*`{self.command}`; {self.machine}, {self.versions}, commit {self.commit}.*"])


FACTS = tuple(field.name for field in fields(StoredTable) if field.type is str)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
