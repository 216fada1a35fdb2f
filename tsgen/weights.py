"""One safetensors file: its header checked to the last byte, its tensors read and hashed at once.

The file is 8 bytes n, little endian; n bytes of JSON, {name: {dtype, shape, data_offsets}}; data.
Each byte of data belongs to exactly one tensor. What is hashed is what is returned: no second read
that could see another file, and no copy, so that loading needs the size of the file in memory.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import IO, Any

import safetensors.torch
import torch
from torch import Tensor

from tsgen import strict_json
from tsgen.errors import FileError, bad_value

# The format allows headers of 100 MB, but a hostile one takes 30 times its size once parsed. Ours
# take 100 bytes a tensor; a state of training of the preset "base" has 1,004 tensors.
MAX_HEADER = 2 * 2**20  # bytes
MAX_TENSORS = 10_000
MAX_DIMS = 32
CHUNK = 4 * 2**20  # bytes read, then hashed while they are in the cache

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


@dataclass(frozen=True)
class Entry:
    """One tensor of a header. begin, end: bytes from the end of the header."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def encode(tensors: dict[str, Tensor]) -> bytes:
    """The tensors as a safetensors file; equal tensors give equal bytes.

    tensors: any shape and device, of the dtypes in DTYPES; they may share memory.
    raises:  ArgumentError
    """
    plain: dict[str, Tensor] = {}
    storages: set[int] = set()
    try:
        for name, tensor in tensors.items():
            alone = tensor.detach().cpu().contiguous()
            if alone.untyped_storage().data_ptr() in storages:  # safetensors refuses to share
                alone = alone.clone()
            storages.add(alone.untyped_storage().data_ptr())
            plain[name] = alone
        # the format that other readers of a model.safetensors ask for
        data: bytes = safetensors.torch.save(plain, metadata={"format": "pt"})
    except Exception as error:  # sparse, on the meta device, no tensor at all, ...
        raise bad_value("tensors", "a dict of dense tensors", error) from error
    return data


def load(stream: IO[bytes], n_bytes: int, sha256: str, where: str) -> dict[str, Tensor]:
    """The tensors of a file, each with memory of its own.

    stream: the file, at its beginning.  n_bytes: its size.  sha256: of all of it, 64 hex digits.
    where: its name, for errors.
    raises:  FileError for anything but a well-formed file of that size and hash
    """
    digest = hashlib.sha256()
    prefix = bytearray(min(8, n_bytes))
    fill(stream, memoryview(prefix), digest, where)
    n_header = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or not 2 <= n_header <= min(MAX_HEADER, n_bytes - 8):
        wanted = f"a safetensors header of at most {MAX_HEADER} bytes, inside the {n_bytes} bytes"
        raise FileError(f"{where}: wanted {wanted} of the file, got {n_header}")
    header = bytearray(n_header)
    fill(stream, memoryview(header), digest, where)
    entries = parse_header(bytes(header), n_bytes - 8 - n_header, where)
    tensors: dict[str, Tensor] = {}
    for entry in entries:
        flat = torch.empty(entry.end - entry.begin, dtype=torch.uint8, device="cpu")
        fill(stream, flat.numpy().data, digest, where)
        if entry.dtype == torch.bool and bool((flat > 1).any()):
            raise FileError(f"{where}: tensor {short(entry.name)}: wanted bytes 0 and 1 as bool")
        tensors[entry.name] = flat.view(entry.dtype).reshape(entry.shape)
    if digest.hexdigest() != sha256:
        wanted = f"the sha256 {sha256[:12]}... that config.json names"
        raise FileError(
            f"{where}: wanted {wanted}, got {digest.hexdigest()[:12]}...: it is damaged"
        )
    return tensors


def fill(stream: IO[bytes], buffer: memoryview, digest: hashlib._Hash, where: str) -> None:
    """Read exactly as much as `buffer` holds, and hash it."""
    for start in range(0, len(buffer), CHUNK):
        part = buffer[start : start + CHUNK]
        n_read = stream.readinto(part)  # type: ignore[attr-defined]
        if n_read != len(part):
            raise FileError(f"{where}: ended while it was read")
        digest.update(part)


def parse_header(raw: bytes, n_data: int, where: str) -> list[Entry]:
    """The tensors that a header lists, in the order of their data.

    raw: the JSON.  n_data: bytes after it, which the tensors must cover without gap or overlap.
    raises:  FileError
    """
    if raw[:1] != b"{":
        raise FileError(f"{where}: wanted a safetensors header, got {short(raw[:8])}")
    values = strict_json.parse(raw, f"{where}: header")
    metadata = values.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FileError(f"{where}: header: wanted texts in __metadata__, got {short(metadata)}")
    if len(values) > MAX_TENSORS:
        raise FileError(f"{where}: wanted at most {MAX_TENSORS} tensors, got {len(values)}")
    entries = [parse_entry(name, value, where) for name, value in values.items()]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    at = 0
    for entry in entries:
        if entry.begin != at:
            problem = "overlap" if entry.begin < at else "a gap"
            raise FileError(
                f"{where}: tensor {short(entry.name)}: {problem} at byte {at} of the data"
            )
        at = entry.end
    if at != n_data:
        raise FileError(f"{where}: wanted {at} bytes of data as its header says, got {n_data}")
    return entries


def parse_entry(name: str, value: Any, where: str) -> Entry:
    """One tensor of a header, checked by itself."""
    where = f"{where}: tensor {short(name)}"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise FileError(f"{where}: wanted dtype, shape and data_offsets, got {short(value)}")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FileError(f"{where}: wanted a dtype of {', '.join(DTYPES)}, got {short(dtype)}")
    if not sizes(shape) or len(shape) > MAX_DIMS or math.prod(max(n, 1) for n in shape) >= 2**60:
        raise FileError(f"{where}: wanted a shape that fits in memory, got {short(shape)}")
    if not sizes(offsets) or len(offsets) != 2:
        raise FileError(f"{where}: wanted two data_offsets, got {short(offsets)}")
    n_bytes = math.prod(shape) * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != n_bytes:
        wanted = f"data_offsets {n_bytes} bytes apart for {short(shape)} of {dtype}"
        raise FileError(f"{where}: wanted {wanted}, got {short(offsets)}")
    return Entry(name, DTYPES[dtype], tuple(shape), offsets[0], offsets[1])


def sizes(value: object) -> bool:
    """Whether this is a list of whole numbers from 0 to 2**63 - 1."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)


def short(value: object) -> str:
    """A value from a stranger, for a message: in quotes, escaped, not long."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
