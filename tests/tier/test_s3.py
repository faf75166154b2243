"""Goal: what leaves for a bucket is one plain signed request, and no secret is ever told.

Method: the requests of the real client, over http and https, against SeaweedFS; its own view of what was kept.
"""

import io
import logging
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from perenne.local.seaweedfs import ACCESS_KEY, SECRET_KEY, Store
from replication.tier.bodies import FilePart, body_facts
from replication.tier.port import AlreadyThere, NotThere, Refused
from replication.tier.s3 import Credentials, S3Store, read_credentials
from tests.tier.rig import CREDENTIALS, settings

KEY = "log/000000000001/a.tar"
FACTS = body_facts(b"x" * 5000)


def client_of(store: S3Store) -> Any:
    return store._client  # pyright: ignore[reportPrivateUsage]


def put(store: S3Store, key: str = KEY, *, lock: bool = False) -> None:
    store.put(key, b"x" * 5000, FACTS, only_if_absent=True, lock=lock)


@pytest.mark.parametrize("secure", [False, True])
def test_a_put_is_one_plain_signed_request(
    seaweedfs: Store, authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secure: bool
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_PROFILE", "somebody-elses")
    endpoint = seaweedfs.https_endpoint if secure else seaweedfs.endpoint
    store = S3Store(settings(endpoint, authority if secure else None), CREDENTIALS)
    store.prepare()
    sent: list[Any] = []

    def note(request: Any, **_: object) -> None:
        sent.append(request)

    client_of(store).meta.events.register("before-send.s3.PutObject", note)
    (tmp_path / "segment").write_bytes(b"x" * 5000)
    put(store)
    store.put("log/2", FilePart(tmp_path / "segment", 0, 5000), FACTS, only_if_absent=True, lock=False)
    with pytest.raises(AlreadyThere):
        put(store)
    assert len(sent) == 3, "no attempt of botocore's own"
    for request in sent:
        headers = {name.lower(): value for name, value in request.headers.items()}
        decoded = {name: value.decode() if isinstance(value, bytes) else str(value) for name, value in headers.items()}
        assert "expect" not in decoded
        assert "content-encoding" not in decoded, "no aws-chunked"
        assert "x-amz-trailer" not in decoded
        assert len(decoded["x-amz-content-sha256"]) == 64, "the body is signed"
        assert decoded["x-amz-checksum-crc32"]
        assert decoded["if-none-match"] == "*"
        assert decoded["content-length"] == "5000"
        assert decoded["x-amz-meta-perenne-blake3"] == FACTS.digest.hex()
    store.close()


def test_object_lock_retains_what_is_put_with_it_and_nothing_else(seaweedfs: Store) -> None:
    store = S3Store(settings(seaweedfs.endpoint, bucket="locked", lock_days=3), CREDENTIALS)
    assert store.prepare() == "made the bucket locked with object lock"
    assert store.prepare() == "the bucket locked is there"
    put(store, lock=True)
    put(store, "log/small")
    client, place = client_of(store), {"Bucket": "locked", "Key": store.description.split("/locked/")[1] + KEY}
    assert client.get_object_retention(**place)["Retention"]["Mode"] == "COMPLIANCE"
    with pytest.raises(ClientError):
        client.get_object_retention(Bucket="locked", Key=place["Key"].replace(KEY, "log/small"))
    version = client.list_object_versions(Bucket="locked", Prefix=place["Key"])["Versions"][0]["VersionId"]
    with pytest.raises(ClientError):
        client.delete_object(**place, VersionId=version)
    store.delete(KEY)
    with pytest.raises(NotThere):
        store.get(KEY)
    assert client.get_object(**place, VersionId=version)["Body"].read() == b"x" * 5000, "the version outlives a delete"
    store.close()


def test_encryption_and_storage_class_go_with_each_object(seaweedfs: Store) -> None:
    store = S3Store(settings(seaweedfs.endpoint, encryption="AES256", storage_class="STANDARD_IA"), CREDENTIALS)
    store.prepare()
    put(store)
    place = {"Bucket": "perenne", "Key": store.description.split("/perenne/")[1] + KEY}
    kept = client_of(store).head_object(**place)
    assert (kept["ServerSideEncryption"], kept["StorageClass"]) == ("AES256", "STANDARD_IA")
    assert store.get(KEY) == b"x" * 5000
    store.close()


def test_credentials_come_from_the_file_or_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = 100%secret\n")
    assert read_credentials(file, {}) == Credentials(access_key="a", secret_key="100%secret")
    environment = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"}
    assert read_credentials(None, environment) == Credentials(access_key="a", secret_key="s", session_token="t")


@pytest.mark.parametrize(
    "text", ["", "[default]\naws_access_key_id = a\n", "secret-without-section\n", "[default\nsecret"]
)
def test_a_bad_credentials_file_is_explained_and_not_quoted(tmp_path: Path, text: str) -> None:
    file = tmp_path / "credentials"
    file.write_text(text)
    with pytest.raises(Refused, match=r"\[default\]") as raised:
        read_credentials(file, {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s"})
    chain: BaseException | None = raised.value
    while chain is not None:
        assert "secret-without" not in str(chain)
        chain = chain.__cause__


def test_no_secret_is_told_by_a_log_at_any_level_or_by_a_repr(seaweedfs: Store) -> None:
    heard = io.StringIO()
    handler, root = logging.StreamHandler(heard), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        store = S3Store(settings(seaweedfs.endpoint), CREDENTIALS)
        put(store)
        store.close()
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    assert "PutObject" in heard.getvalue(), "botocore was heard"
    assert SECRET_KEY not in heard.getvalue() + repr(CREDENTIALS)
    assert ACCESS_KEY in repr(CREDENTIALS)
