"""Machine code of a kernel, read from `cuobjdump -sass`: instructions and loops."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Loop:
    """A loop: instructions [first, last], where the last branches back to the first."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True)
class Code:
    """A kernel's instructions in the order of their addresses."""

    instructions: list[str]
    loops: list[Loop]

    def count(self, opcode: str, loop: Loop | None = None) -> int:
        """The number of instructions that match the regular expression `opcode`, in the loop or in total."""
        within = self.instructions[loop.first : loop.last + 1] if loop else self.instructions
        return sum(re.search(opcode, text) is not None for text in within)

    def innermost(self, opcode: str, count: int) -> Loop:
        """The shortest loop with at least the given number of instructions that match `opcode`."""
        return min((loop for loop in self.loops if self.count(opcode, loop) == count), key=len)


def parse(sass: str) -> dict[str, Code]:
    """By the kernels' mangled names."""
    return {text.split(maxsplit=1)[0]: _code(text) for text in sass.split("Function : ")[1:]}


def _code(text: str) -> Code:
    found = [(int(address, 16), line) for address, line in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", text)]
    index = {address: i for i, (address, _) in enumerate(found)}
    loops = []
    for i, (address, line) in enumerate(found):
        target = re.search(r"\bBRA\b.*\b0x([0-9a-f]+)\s*$", line)
        if target and int(target[1], 16) < address:
            loops.append(Loop(index[int(target[1], 16)], i))
    return Code([line for _, line in found], loops)
