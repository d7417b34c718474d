"""The files in a Qt binary resource file (.rcc), as the packages of Qt programs ship photographs.

python -m benchmarks.unpack_rcc FILE... OUT    # OUT/<path in the resource>
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import click

COMPRESSED, DIRECTORY = 1, 2  # flags of a node; zlib is the only compression read here


def files(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Path and content of each file; `ValueError` for another format. Layout: Qt's rcc.cpp (RCCResourceLibrary::writeHeader,
    RCCFileInfo::writeDataInfo)."""
    if data[:4] != b"qres":
        raise ValueError("not a Qt resource file")
    version, tree, contents, names = struct.unpack_from(">4I", data, 4)
    if version not in (1, 2, 3):
        raise ValueError(f"version {version} of Qt resource files is not supported")
    size = 14 if version == 1 else 22

    def below(node: int, parent: str) -> Iterator[tuple[str, bytes]]:
        at = tree + node * size
        name, flags = struct.unpack_from(">IH", data, at)
        (length,) = struct.unpack_from(">H", data, names + name)
        own = data[names + name + 6 :][: 2 * length].decode("utf-16-be") if node else ""
        path = f"{parent}/{own}" if parent else own
        if flags & DIRECTORY:
            count, first = struct.unpack_from(">II", data, at + 6)
            for child in range(first, first + count):
                yield from below(child, path)
            return
        if flags & ~COMPRESSED:
            raise ValueError(f"{path}: compressed by an unsupported method")
        (offset,) = struct.unpack_from(">I", data, at + 10)
        (length,) = struct.unpack_from(">I", data, contents + offset)
        content = data[contents + offset + 4 :][:length]
        yield path, zlib.decompress(content[4:]) if flags & COMPRESSED else content

    yield from below(0, "")


@click.command()
@click.argument("sources", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
def main(sources: tuple[Path, ...], out: Path) -> None:
    """Write the files in SOURCES to OUT."""
    for source in sources:
        try:
            for path, content in files(source.read_bytes()):
                target = out / path
                if not target.resolve().is_relative_to(out.resolve()):
                    raise ValueError(f"{path} leads out of the folder")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
        except (struct.error, zlib.error, UnicodeDecodeError) as error:
            raise click.ClickException(f"{source}: damaged: {error}") from None
        except ValueError as error:
            raise click.ClickException(f"{source}: {error}") from None


if __name__ == "__main__":
    main()
