"""Raw data in a store that speaks the protocol of S3, here moto's server.

pip install 'moto[server]' s3fs
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from responders.errors import InputError
from responders.sources import convert
from tests.responders.sources.raw import NAMES, make

pytest.importorskip("upath")
s3fs = pytest.importorskip("s3fs")
moto = pytest.importorskip("moto.server")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().makedirs("bucket", exist_ok=True)  # moto keeps its buckets in memory
    yield server
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("source", NAMES)
def test_a_folder_in_s3_is_read_like_the_disk(
    source: str, server: Any, tmp_path: Path, logs: Path
) -> None:
    """All formats, beside the empty object that stands for a folder."""
    raw = make(source, tmp_path / "raw")
    store = s3fs.S3FileSystem()
    store.put(str(raw), f"bucket/{source}", recursive=True)
    store.touch(f"bucket/{source}/")
    remote, local = (
        convert(source, f"s3://bucket/{source}/", logs / "remote"),
        convert(source, raw, logs / "local"),
    )
    pd.testing.assert_frame_equal(remote.to_frame(), local.to_frame())
    assert remote.card["files"] == local.card["files"]


def test_faults_of_s3(server: Any, logs: Path) -> None:
    with pytest.raises(InputError, match="there is no file or folder s3://bucket/nothing"):
        convert("csv", "s3://bucket/nothing", logs / "log")
    store = s3fs.S3FileSystem()
    with store.open("bucket/own.csv", "w") as file:
        file.write("session,item,click\n1,2,0\n")
    store.ls("bucket")
    server.stop()
    with pytest.raises(InputError, match=r"s3://bucket/own\.csv .*Could not connect"):
        convert("csv", "s3://bucket/own.csv", logs / "log")
    assert not list(logs.iterdir())
