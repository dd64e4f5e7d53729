"""The kernels' primitives in plain Python: slow, short, written from the definitions, and so the oracle of their tests.

Same names and meaning as in `pinstripe.kernels`, but buffers are returned, not filled.
"""

from collections import Counter
from collections.abc import Sequence

from pinstripe.kernels import lz4_bound
from pinstripe.kernels import lz4_compress as lz4_compress_kernel

POLYNOMIAL = 0x9A6C9329AC4BC9B5
ONES = (1 << 64) - 1

CODEC_RAW, CODEC_LZ4, CODEC_ZERO, CODEC_PLANES = range(4)
PLANE_RAW, PLANE_LZ4, PLANE_CONSTANT = range(3)


def _after_byte(register: int) -> int:
    for _ in range(8):
        register = (register >> 1) ^ (POLYNOMIAL if register & 1 else 0)
    return register


_TABLE = [_after_byte(byte) for byte in range(256)]


def crc64(data: bytes, crc: int = 0) -> int:
    """CRC-64/NVME, byte by byte."""
    register = crc ^ ONES
    for byte in data:
        register = (register >> 8) ^ _TABLE[(register ^ byte) & 0xFF]
    return register ^ ONES


def _apply(matrix: list[int], vector: int) -> int:
    result = 0
    for column in matrix:
        if vector & 1:
            result ^= column
        vector >>= 1
    return result


def _append_zeros(register: int, length: int) -> int:
    """The register after `length` zero bytes: each is the same linear map; its powers come by squaring, as in zlib."""
    matrix = [_after_byte(1 << bit) for bit in range(64)]
    while length:
        if length & 1:
            register = _apply(matrix, register)
        matrix = [_apply(matrix, column) for column in matrix]
        length >>= 1
    return register


def crc64_combine(crc_a: int, crc_b: int, len_b: int) -> int:
    """The checksum of A followed by B, from both and B's length."""
    return _append_zeros(crc_a, len_b) ^ crc_b


def crc64_zeros(length: int, crc: int = 0) -> int:
    """The checksum of what stands behind `crc`, followed by zeros."""
    return _append_zeros(crc ^ ONES, length) ^ ONES


def crc64_fold(crcs: Sequence[int], lengths: Sequence[int], crc: int = 0) -> int:
    """The checksum of all pieces, in order, behind `crc`."""
    for piece, length in zip(crcs, lengths, strict=True):
        crc = crc64_combine(crc, piece, length)
    return crc


def lz4_compress(data: bytes) -> bytes:
    """One LZ4 block of `data`: greedy, each match found through a dictionary of the last place of every four bytes."""
    out = bytearray()
    last_place: dict[bytes, int] = {}
    literals = place = 0

    def emit(end: int, distance: int, match: int) -> None:
        out.append(min(end - literals, 15) << 4 | (min(match - 4, 15) if match else 0))
        _emit_length(out, end - literals)
        out.extend(data[literals:end])
        if match:
            out.extend(distance.to_bytes(2, "little"))
            _emit_length(out, match - 4)

    while place < len(data) - 12:  # the format: no match begins in the last 12 bytes, and the last 5 are literals
        four = data[place : place + 4]
        found = last_place.get(four)
        last_place[four] = place
        if found is None or place - found > 0xFFFF:
            place += 1
            continue
        match = 4
        while place + match < len(data) - 5 and data[found + match] == data[place + match]:
            match += 1
        emit(place, place - found, match)
        place += match
        literals = place
    emit(len(data), 0, 0)
    return bytes(out)


def _emit_length(out: bytearray, length: int) -> None:
    if length >= 15:
        out.extend(b"\xff" * ((length - 15) // 255))
        out.append((length - 15) % 255)


def lz4_decompress(block: bytes, room: int) -> bytes:
    """The raw bytes of an LZ4 block.

    Raises
    ------
    ValueError
        It is none, or holds more than `room` bytes.
    """
    out = bytearray()
    place = 0

    def take(count: int) -> bytes:
        nonlocal place
        if place + count > len(block):
            raise ValueError("the block ends too early")
        place += count
        return block[place - count : place]

    def length_from(nibble: int) -> int:
        length = nibble
        while nibble == 15:
            more = take(1)[0]
            length += more
            if more != 255:
                break
        return length

    while True:
        token = take(1)[0]
        out += take(length_from(token >> 4))
        if len(out) > room:
            raise ValueError("longer than the room for it")
        if place == len(block):
            return bytes(out)
        distance = int.from_bytes(take(2), "little")
        if not 0 < distance <= len(out):
            raise ValueError("a match begins before the first byte")
        match = length_from(token & 15) + 4
        if len(out) + match > room:
            raise ValueError("longer than the room for it")
        for _ in range(match):
            out.append(out[-distance])


def shuffle(data: bytes, width: int) -> bytes:
    """Byte 0 of every element, then byte 1 of every element, ..., then the bytes that are no whole element."""
    whole = len(data) // width * width
    return b"".join(data[byte:whole:width] for byte in range(width)) + data[whole:]


def unshuffle(data: bytes, width: int) -> bytes:
    """The inverse of `shuffle`."""
    count = len(data) // width
    elements = (data[i : count * width : count] for i in range(count))
    return b"".join(elements) + data[count * width :]


def planes_compress(data: bytes, width: int) -> bytes:
    """A block as byte planes; the same bytes as the kernel's, for the same LZ4."""
    count = len(data) // width
    kinds, out = 0, b""
    for number in range(width):
        plane = data[number : count * width : width]
        packed = bytearray(max(0, count - 5))  # smaller than the plane, with its length before it
        size = lz4_compress_kernel(plane, packed)
        if count and plane == plane[:1] * count:
            kinds |= PLANE_CONSTANT << 2 * number
            out += plane[:1]
        elif size:
            kinds |= PLANE_LZ4 << 2 * number
            out += size.to_bytes(4, "little") + packed[:size]
        else:
            out += plane
    return kinds.to_bytes(2, "little") + out + data[count * width :]


def planes_decompress(stored: bytes, length: int, width: int) -> bytes:
    """The `length` raw bytes of a block of planes.

    Raises
    ------
    ValueError
        It is none, or holds another number of bytes.
    """
    count, place = length // width, 0

    def take(size: int) -> bytes:
        nonlocal place
        place += size
        if place > len(stored):
            raise ValueError("the planes end too early")
        return stored[place - size : place]

    kinds = int.from_bytes(take(2), "little")
    if kinds >> 2 * width or not count:
        raise ValueError("more kinds than planes, or no plane")
    planes = b""
    for number in range(width):
        kind = kinds >> 2 * number & 3
        if kind == PLANE_RAW:
            plane = take(count)
        elif kind == PLANE_CONSTANT:
            plane = take(1) * count
        elif kind == PLANE_LZ4:
            size = int.from_bytes(take(4), "little")
            if size >= count:
                raise ValueError("an LZ4 plane that is not smaller than a raw one")
            plane = lz4_decompress(take(size), count)
        else:
            raise ValueError("an unknown kind of plane")
        if len(plane) != count:
            raise ValueError("a plane of another length")
        planes += plane
    tail = take(length % width)
    if place != len(stored):
        raise ValueError("bytes after the planes")
    return unshuffle(planes + tail, width)


def probe(data: bytes, width: int = 0) -> tuple[int, int]:
    """The codec and the shuffle's width for a block, by a sample; the same decision as the kernel's, for the same LZ4."""
    if not any(data):
        return CODEC_ZERO, 0
    sample = data
    if len(data) > 4096:
        starts = [(len(data) - 1024) // 3 * piece // 8 * 8 for piece in range(4)]
        sample = b"".join(data[start : start + 1024] for start in starts)
    best, best_width = _compressed_bytes(sample), 0
    if width != 1 and _is_uneven(sample):
        for candidate in [width] if width in (2, 4, 8) else [2, 4, 8]:
            size = len(planes_compress(sample, candidate))
            if size < best - best // 64:
                best, best_width = size, candidate
    if best < len(sample) - len(sample) // 20:
        return (CODEC_PLANES, best_width) if best_width else (CODEC_LZ4, 0)
    return CODEC_RAW, 0


def _compressed_bytes(data: bytes) -> int:
    return min(lz4_compress_kernel(data, bytearray(lz4_bound(len(data)))), len(data))


def _is_uneven(sample: bytes) -> bool:
    groups = range(0, len(sample) - 7, 16)
    count = len(groups)
    squares = (sum(n * n for n in Counter(sample[i + byte] for i in groups).values()) for byte in range(8))
    return any(total > 2 * (count + count * count // 256) for total in squares)


def copy_extents(
    src: bytes, src_offsets: Sequence[int], dst: bytes, dst_offsets: Sequence[int], lengths: Sequence[int]
) -> bytes:
    """What `dst` becomes when every extent is copied, in order.

    Raises
    ------
    IndexError
        An extent is negative, or leaves its buffer.
    """
    extents = list(zip(src_offsets, dst_offsets, lengths, strict=True))
    for start, to, length in extents:
        if min(start, to, length) < 0 or start + length > len(src) or to + length > len(dst):
            raise IndexError((start, to, length))
    out = bytearray(dst)
    for start, to, length in extents:
        out[to : to + length] = src[start : start + length]
    return bytes(out)
