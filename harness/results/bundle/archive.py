"""A bundle as a zip file, the same bytes for the same files."""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

from ...store.files import write_atomically

FOLDER = "assay-results"
EPOCH = (1980, 1, 1, 0, 0, 0)  # of every file in it: the earliest that the format knows
MODE = 0o644 << 16  # whatever the umask


def write_archive(files: Mapping[str, bytes], path: Path) -> None:
    """Write a zip of one folder, with the checksums of its files."""
    sums = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted({**files, "SHA256SUMS": sums.encode()}.items()):
            entry = zipfile.ZipInfo(f"{FOLDER}/{name}", EPOCH)
            entry.external_attr, entry.compress_type, entry.create_system = MODE, zipfile.ZIP_DEFLATED, 3
            archive.writestr(entry, data)
    write_atomically(path, buffer.getvalue())
