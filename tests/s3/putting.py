"""Putting objects as others do: with the checksum that S3 makes itself, in parts, as FSx does."""

from __future__ import annotations

import base64
from typing import Any

from pinstripe.kernels import crc64

__all__ = ["FSX", "checksum_of", "put", "put_in_parts"]

FSX = {
    "file-permissions": "0100640",
    "file-owner": "500",
    "file-group": "501",
    "file-atime": "1595002920000000001ns",
    "file-mtime": "1595002920123456789ns",
    "user-agent": "aws-fsx-lustre",
}


def checksum_of(data: bytes) -> str:
    """Return the CRC-64/NVME as headers have it."""
    return base64.b64encode(crc64(data).to_bytes(8, "big")).decode()


def put(client: Any, bucket: str, key: str, data: bytes = b"", **more: Any) -> str:
    """Put an object with its checksum of the whole; return the ETag."""
    done = client.put_object(Bucket=bucket, Key=key, Body=data, ChecksumCRC64NVME=checksum_of(data), **more)
    return str(done["ETag"].strip('"'))


def put_in_parts(client: Any, bucket: str, key: str, data: bytes, part_bytes: int = 5 << 20) -> str:
    """Put an object by a multipart upload, without a checksum of the whole."""
    upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    parts = []
    for number, begin in enumerate(range(0, len(data), part_bytes), 1):
        body = data[begin : begin + part_bytes]
        done = client.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=body)
        parts.append({"PartNumber": number, "ETag": done["ETag"]})
    done = client.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})
    return str(done["ETag"].strip('"'))
