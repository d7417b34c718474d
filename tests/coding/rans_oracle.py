"""A second implementation of the entropy coder, in plain Python integers, written from the format's description.

It must give the same bytes as the native coder.
"""

import math

from dkic.entropy.tables import Tables

STATE_MIN = 2**31


def order(length: int) -> int:
    return max(1, length.bit_length() - 5)


def steps_of(symbol: int, index: int, tables: Tables) -> list[tuple[int, int]]:
    """The parts that code one symbol, as (start, frequency), in the decoder's order."""
    row = [int(f) for f in tables.frequencies[index, : tables.length[index]]]
    number, escape = symbol - int(tables.offset[index]), len(row) - 1
    if 0 <= number < escape:
        return [(sum(row[:number]), row[number])]
    distance = 2 * (number - escape) if number >= escape else -2 * number - 1
    k = order(len(row))
    digits = f"{distance + 2**k:b}"[1:]
    steps = [(sum(row[:escape]), row[escape])]
    pieces = ["1"] * (len(digits) - k) + ["0"]
    head = len(digits) % 16
    pieces += [digits[:head]] * (head > 0) + [digits[i : i + 16] for i in range(head, len(digits), 16)]
    return steps + [(int(p, 2) << (16 - len(p)), 1 << (16 - len(p))) for p in pieces]


def choose_lanes(symbols: list[int], indexes: list[int], tables: Tables) -> int:
    """The largest of 1, 2, 4, 8 for which 16,000 bytes a lane are coded; costs in 1/2048 bit, floored."""
    cost = 0
    for symbol, index in zip(symbols, indexes, strict=True):
        frequency = steps_of(symbol, index, tables)[0][1]
        cost += math.floor((16 - math.log2(frequency)) * 2048)
    return max([1] + [lanes for lanes in (2, 4, 8) if cost >= lanes * 16000 * 8 * 2048])


def encode(symbols: list[int], indexes: list[int], tables: Tables, lanes: int = 0) -> bytes:
    if not symbols:
        return b""
    lanes = lanes or choose_lanes(symbols, indexes, tables)
    states, words = [STATE_MIN] * lanes, []
    for i in reversed(range(len(symbols))):
        x = states[i % lanes]
        for start, frequency in reversed(steps_of(symbols[i], indexes[i], tables)):
            if x >= frequency << 47:
                words.append(x % 2**32)
                x >>= 32
            x = x // frequency * 2**16 + start + x % frequency
        states[i % lanes] = x
    first = max(5, (states[0].bit_length() + 7) // 8)
    parts = [bytes([lanes.bit_length() - 1]), states[0].to_bytes(first, "little")]
    parts += [x.to_bytes(8, "little") for x in states[1:]]
    return b"".join(parts + [word.to_bytes(4, "little") for word in reversed(words)])


def decode(data: bytes, indexes: list[int], tables: Tables) -> list[int]:
    """The symbols of a valid stream. Damage is not detected, except data that is left at the end."""
    if not data:
        assert not indexes
        return []
    lanes = 2 ** data[0]
    first = 5 + (len(data) - 8 * lanes + 2) % 4
    ends = [1 + first + 8 * lane for lane in range(lanes)]
    starts = [1, *ends[:-1]]
    states = [int.from_bytes(data[start:end], "little") for start, end in zip(starts, ends, strict=True)]
    words = [int.from_bytes(data[i : i + 4], "little") for i in range(ends[-1], len(data), 4)]

    def step(lane: int, parts: list[int]) -> int:
        x = states[lane]
        slot, number, start = x % 2**16, 0, 0
        while slot >= start + parts[number]:
            start, number = start + parts[number], number + 1
        x = parts[number] * (x // 2**16) + slot - start
        states[lane] = x * 2**32 + words.pop(0) if x < STATE_MIN else x
        return number

    symbols = []
    for i, index in enumerate(indexes):
        lane, length, offset = i % lanes, int(tables.length[index]), int(tables.offset[index])
        number = step(lane, [int(f) for f in tables.frequencies[index, :length]])
        if number == length - 1:
            k = bits = order(length)
            while step(lane, [2**15, 2**15]):
                bits += 1
            value, left = 1, bits
            while left:
                piece = left % 16 or 16
                x = states[lane]  # as `step` with 2**piece equal parts, without listing them
                part = 2 ** (16 - piece)
                value, left = value * 2**piece + x % 2**16 // part, left - piece
                x = part * (x // 2**16) + x % part
                states[lane] = x * 2**32 + words.pop(0) if x < STATE_MIN else x
            distance = value - 2**k
            number = length - 1 + distance // 2 if distance % 2 == 0 else -1 - distance // 2
        symbols.append(offset + number)
    assert not words and states == [STATE_MIN] * lanes
    return symbols
