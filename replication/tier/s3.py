"""The tier in an S3-compatible bucket: one attempt per call, short time-outs, plain signed requests.

The only home of boto3. Set up so that http and https send the same: the body's SHA-256 in the signature, its CRC-32 in
a header that the server must check, no chunked trailer and no 100-continue (both are botocore's ways over https). An
echoed checksum proves nothing, and an ETag is no digest: our own BLAKE3 goes along as metadata and is compared on GET.
"""

import base64
import configparser
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import boto3
import botocore.handlers
import botocore.session
from blake3 import blake3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, SSLError
from urllib3.exceptions import HTTPError

from replication.tier.bodies import Body, BodyFacts, open_body
from replication.tier.port import (
    AlreadyThere,
    ChecksumRefused,
    NoRoom,
    NotThere,
    ObjectDamaged,
    ObjectInfo,
    Page,
    Refused,
    TierError,
    Unreachable,
    check_key,
)

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

_T = TypeVar("_T")

_DIGEST: Final = "perenne-blake3"
_PAGE_KEYS: Final = 1000
SINGLE_PUT_LIMIT: Final = 5 * 1024**3
"""No S3 server takes more in one PUT; uploads in parts are not built."""
_CHECKSUM: Final = frozenset(
    {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "ContentSHA256Mismatch"}
)
_FULL: Final = frozenset({"InsufficientStorage", "QuotaExceeded", "XMinioStorageFull", "ServiceQuotaExceeded"})
_LATER: Final = frozenset(
    {"SlowDown", "RequestTimeout", "TooManyRequests", "ThrottlingException", "OperationAborted", "IncompleteBody"}
)
_NEXT_STEP: Final[Mapping[str, str]] = {
    "InvalidAccessKeyId": "Compare the access key in tier.credentials_file, or AWS_ACCESS_KEY_ID, with the store's.",
    "SignatureDoesNotMatch": "Compare the secret key in tier.credentials_file, or AWS_SECRET_ACCESS_KEY, with the"
    " store's.",
    "ExpiredToken": "Give a new session token.",
    "AccessDenied": "Allow this key GetObject, PutObject, DeleteObject and ListBucket on the bucket.",
    "RequestTimeTooSkewed": "Set the clock of this machine: NTP.",
    "NoSuchBucket": "Check tier.bucket, or make it: perenne tier prepare.",
    "PermanentRedirect": "Check tier.region and tier.endpoint.",
    "AuthorizationHeaderMalformed": "Check tier.region.",
    "NotImplemented": "This store cannot do it: see docs/tier.md for what the tier needs.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """An access key; the secrets are kept out of every text."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """Which bucket, and how. prefix: put before every key, with its own `/`. ca_file: PEM, instead of the public CAs.

    encryption: "" (the bucket's default), "AES256" or "aws:kms". lock_days: object lock in compliance mode for what is
    put with `lock`; 0 for none. storage_class: "" for the bucket's default. connections: requests in flight.
    """

    endpoint: str
    bucket: str
    prefix: str = ""
    region: str = "us-east-1"
    ca_file: Path | None = None
    encryption: str = ""
    kms_key: str = ""
    lock_days: int = 0
    storage_class: str = ""
    connections: int = 8
    connect_timeout_s: float = 1.0
    read_timeout_s: float = 3.0


def read_credentials(file: Path | None, environment: Mapping[str, str]) -> Credentials:
    """From `file` (an AWS credentials file, profile `default`), else from AWS_ACCESS_KEY_ID and its companions.

    Nothing else is asked: no home directory, no metadata service. Raises Refused; the text never quotes a value.
    """
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    if file is None:
        values = {name: environment.get(name.upper(), "") for name in names}
        where, step = "the environment", "Set tier.credentials_file, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
    else:
        parser = configparser.ConfigParser(interpolation=None)
        where, step = str(file), "Write [default] with aws_access_key_id = … and aws_secret_access_key = …."
        try:
            parser.read_string(file.read_text(encoding="utf-8"))
            values = {name: parser.get("default", name, fallback="") for name in names}
        except OSError as error:
            raise Refused(f"credentials cannot be read from {file}: {error.strerror}", "Check its path.") from error
        except (configparser.Error, UnicodeDecodeError):
            raise Refused(f"{file} is no credentials file", step) from None  # the parser's words quote its lines
    access, secret, token = (values[name].strip() for name in names)
    if not access or not secret:
        raise Refused(f"no access key and secret key in {where}", step)
    return Credentials(access_key=access, secret_key=secret, session_token=token or None)


class S3Store:
    """One bucket. Holds at most `settings.connections` connections."""

    def __init__(self, settings: S3Settings, credentials: Credentials) -> None:
        self._settings = settings
        self._client = _client(settings, credentials)
        self._options: dict[str, Any] = {}
        if settings.encryption:
            self._options["ServerSideEncryption"] = settings.encryption
        if settings.kms_key:
            self._options["SSEKMSKeyId"] = settings.kms_key
        if settings.storage_class:
            self._options["StorageClass"] = settings.storage_class

    @property
    def description(self) -> str:
        return f"{self._settings.endpoint}/{self._settings.bucket}/{self._settings.prefix}"

    def put(self, key: str, body: Body, facts: BodyFacts, *, only_if_absent: bool, lock: bool) -> None:
        if facts.size > SINGLE_PUT_LIMIT:
            raise Refused(f"{key} has {facts.size} bytes, more than one PUT takes", "Uploads in parts are not built.")
        options = dict(self._options)
        if only_if_absent:
            options["IfNoneMatch"] = "*"
        if lock and self._settings.lock_days:
            options["ObjectLockMode"] = "COMPLIANCE"
            options["ObjectLockRetainUntilDate"] = datetime.now(UTC) + timedelta(days=self._settings.lock_days)
        with open_body(body) as source:
            self._ask(
                f"PUT {key}",
                lambda: self._client.put_object(
                    Bucket=self._settings.bucket,
                    Key=self._name(key),
                    Body=body if isinstance(body, bytes) else source,
                    ChecksumCRC32=base64.b64encode(facts.crc32.to_bytes(4, "big")).decode(),
                    Metadata={_DIGEST: facts.digest.hex()},
                    **options,
                ),
            )

    def get(self, key: str) -> bytes:
        def read() -> tuple[bytes, str | None]:
            answer = self._client.get_object(Bucket=self._settings.bucket, Key=self._name(key))
            return answer["Body"].read(), answer["Metadata"].get(_DIGEST)

        data, digest = self._ask(f"GET {key}", read)
        if digest is not None and blake3(data).hexdigest() != digest:
            raise ObjectDamaged(f"{key}: {len(data)} bytes came that do not match the digest kept beside them")
        return data

    def get_range(self, key: str, offset: int, size: int) -> bytes:
        def read() -> bytes:
            wanted = f"bytes={offset}-{offset + size - 1}"
            answer = self._client.get_object(Bucket=self._settings.bucket, Key=self._name(key), Range=wanted)
            if not answer.get("ContentRange", "").startswith(f"bytes {offset}-"):
                raise Refused("the store does not honour Range", _NEXT_STEP["NotImplemented"])
            return answer["Body"].read()

        try:
            data = self._ask(f"GET {key} from {offset} on", read)
        except _PastTheEnd:
            return b""
        if len(data) > size:
            raise ObjectDamaged(f"{key}: {len(data)} bytes came where {size} were asked for")
        return data

    def head(self, key: str) -> ObjectInfo:
        answer = self._ask(
            f"HEAD {key}", lambda: self._client.head_object(Bucket=self._settings.bucket, Key=self._name(key))
        )
        digest = answer["Metadata"].get(_DIGEST)
        return ObjectInfo(answer["ContentLength"], bytes.fromhex(digest) if digest is not None else None)

    def list_page(self, prefix: str, after: str) -> Page:
        options: dict[str, Any] = {"StartAfter": self._settings.prefix + after} if after else {}
        answer = self._ask(
            f"LIST {prefix}",
            lambda: self._client.list_objects_v2(
                Bucket=self._settings.bucket, Prefix=self._settings.prefix + prefix, MaxKeys=_PAGE_KEYS, **options
            ),
        )
        own = len(self._settings.prefix)
        keys = tuple(item.get("Key", "")[own:] for item in answer.get("Contents", []))
        return Page(keys, answer["IsTruncated"])

    def delete(self, key: str) -> None:
        self._ask(
            f"DELETE {key}", lambda: self._client.delete_object(Bucket=self._settings.bucket, Key=self._name(key))
        )

    def prepare(self) -> str:
        """Make the bucket where there is none; with object lock if the settings want it."""
        bucket, locked = self._settings.bucket, self._settings.lock_days > 0
        try:
            self._ask("HEAD of the bucket", lambda: self._client.head_bucket(Bucket=bucket))
        except NotThere:
            self._ask(
                "making the bucket",
                lambda: self._client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=locked),
            )
            return f"made the bucket {bucket}" + (" with object lock" if locked else "")
        return f"the bucket {bucket} is there"

    def close(self) -> None:
        self._client.close()

    def _name(self, key: str) -> str:
        return self._settings.prefix + check_key(key)

    def _ask(self, what: str, call: Callable[[], _T]) -> _T:
        try:
            return call()
        except ClientError as error:
            raise _refusal(what, error) from error
        except SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error) or "certificate verify failed" in str(error):
                step = "Set tier.ca_file to the PEM file of the authority that signed it."
                raise Refused(f"{self._settings.endpoint} shows a certificate that is not trusted", step) from error
            raise Unreachable(f"{what}: {_brief(error)}") from error
        except (BotoCoreError, HTTPError, OSError) as error:
            raise Unreachable(f"{what}: no answer from {self._settings.endpoint} ({_brief(error)})") from error


class _PastTheEnd(TierError):
    """A range that begins behind the end of its object."""


def _client(settings: S3Settings, credentials: Credentials) -> "S3Client":
    """Raises Refused when the settings cannot work."""
    config = Config(
        connect_timeout=settings.connect_timeout_s,
        read_timeout=settings.read_timeout_s,
        tcp_keepalive=True,
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=settings.connections,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        signature_version="s3v4",
        proxies={},
        s3={"addressing_style": "path", "payload_signing_enabled": True},
    )
    if settings.ca_file is not None and not os.access(settings.ca_file, os.R_OK):
        raise Refused(f"{settings.ca_file} cannot be read", "Check tier.ca_file.")
    # What ~/.aws and AWS_PROFILE say is somebody else's business.
    nowhere = {name: (None, None, os.devnull, None) for name in ("config_file", "credentials_file")}
    core = botocore.session.Session(session_vars={**nowhere, "profile": (None, None, None, None)})
    try:
        session: Any = boto3.Session(botocore_session=core)  # its stub knows the services that are not installed
        client = session.client(
            "s3",
            aws_access_key_id=credentials.access_key,
            aws_secret_access_key=credentials.secret_key,
            aws_session_token=credentials.session_token,
            region_name=settings.region,
            endpoint_url=settings.endpoint,
            verify=str(settings.ca_file) if settings.ca_file is not None else True,
            config=config,
        )
    except (ValueError, BotoCoreError) as error:
        raise Refused(f"{settings.endpoint!r} is no endpoint: {_brief(error)}", "Check tier.endpoint.") from error
    # It would wait for a 100-continue before each body: a round trip, and a stall where a proxy swallows it.
    client.meta.events.unregister("before-call.s3", botocore.handlers.add_expect_header)
    return cast("S3Client", client)


def _refusal(what: str, error: ClientError) -> TierError:
    """Sort an answer by what the caller does next."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = f"{what}: the store says {status} {code}".rstrip()
    if code == "NoSuchBucket":
        return Refused(f"{what}: there is no such bucket", _NEXT_STEP[code])
    if code in _FULL or status == 507:
        return NoRoom(said, "Make room, or raise the quota.")
    if code in _CHECKSUM or (status == 400 and "checksum" in str(error).lower()):
        return ChecksumRefused(said)
    if code in _LATER or status in (408, 409, 425, 429) or (status >= 500 and status != 501):
        return Unreachable(said)
    if status == 404:
        return NotThere(said)
    if status == 412:
        return AlreadyThere(said)
    if status == 416:
        return _PastTheEnd(said)
    step = _NEXT_STEP.get(code, "")
    if not step:
        by_status = {301: "PermanentRedirect", 401: "InvalidAccessKeyId", 403: "AccessDenied", 501: "NotImplemented"}
        step = _NEXT_STEP.get(by_status.get(status, ""), "Compare the [tier] section with docs/tier.md.")
    return Refused(said, step)


def _brief(error: BaseException) -> str:
    """Its kind and first line, without the address, which the caller names."""
    text = str(error).splitlines()
    return f"{type(error).__name__}: {text[0][:160]}" if text else type(error).__name__
