"""A cache in an object store: a local S3 server that the test starts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from mskd.cache.files import RemoteFiles
from mskd.cache.quantisation import MarginCode
from mskd.cache.store import EncodedArray, TargetStore, stored_content, use_pipeline, write_store
from mskd.cache.verification import Expected, check_store, remove_faulty
from mskd.config.loading import parse_study
from mskd.errors import ConfigError, MissingArtefactError, MskdError

PLACE = "s3://targets/mskd/liver/fold0-seed0/liver/b00/a.zarr"
CODE = MarginCode(4)


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadedMotoServer]:
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def s3(server: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port()),
    }.items():
        monkeypatch.setenv(name, value)
    fsspec.filesystem("s3").clear_instance_cache()
    files = fsspec.filesystem("s3")
    if files.exists("targets"):
        files.rm("targets", recursive=True)
    files.mkdir("targets")
    yield files
    files.clear_instance_cache()


def margins(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 4, (1, 20, 18, 16)).astype(np.float32)


def write(place: str | Path = PLACE, seed: int = 0, key: str = "k") -> str:
    encoded = EncodedArray(CODE.encode(margins(seed)), CODE, (1, 1, 1), (8, 8, 8), None, (8, 8, 8), {})
    return write_store(place, {"logits": encoded}, key=key, level=3, affine=np.eye(4), attributes={"case": "liver/a"})


def expected(tmp_path: Path, content: str) -> Expected:
    manifest = tmp_path / "b00.json"
    manifest.write_text("{}")
    return Expected("liver", "fold0-seed0", "liver/a", PLACE, manifest, "k", "k", content)


def test_holds_what_a_folder_holds(s3: Any, tmp_path: Path) -> None:
    assert write() == write(tmp_path / "a.zarr")
    remote, local = TargetStore(PLACE, "liver/a"), TargetStore(tmp_path / "a.zarr", "liver/a")
    np.testing.assert_array_equal(remote.read("logits"), local.read("logits"))
    box = (slice(3, 9), slice(0, 5), slice(7, 16))
    np.testing.assert_array_equal(remote.read("logits", box), local.read("logits", box))
    assert remote.files.names() == local.files.names()
    assert [remote.files.digest(name) for name in remote.files.names()] == [
        local.files.digest(name) for name in local.files.names()
    ]
    assert stored_content(PLACE, "k") == local.content
    assert stored_content(PLACE, "another") is None


def test_no_store_before_its_seal(s3: Any, tmp_path: Path) -> None:
    """A job killed while it uploads leaves objects, but nothing that counts; the next one writes over them."""
    content = write()
    s3.rm_file(f"{PLACE}/zarr.json")
    assert stored_content(PLACE, "k") is None
    with pytest.raises(MissingArtefactError, match="liver/a"):
        TargetStore(PLACE, "liver/a")
    assert check_store(expected(tmp_path, content)) is not None
    assert write() == content
    assert check_store(expected(tmp_path, content)) is None


def test_seal_is_written_last_and_removed_first(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, str]] = []
    for action in ("_pipe_file", "_rm_file"):
        real = getattr(type(s3), action)

        async def noted(
            self: Any, path: str, *rest: Any, _real: Any = real, _action: str = action, **named: Any
        ) -> Any:
            done.append((_action, path.rsplit("a.zarr/", 1)[1]))
            return await _real(self, path, *rest, **named)

        monkeypatch.setattr(type(s3), action, noted)
    s3.clear_instance_cache()  # instances keep the methods that they were made with
    write()
    write(seed=1)
    actions = [(action, name == "zarr.json") for action, name in done]
    n = actions.index(("_pipe_file", True))
    assert actions[n + 1] == ("_rm_file", True)
    assert actions[-1] == ("_pipe_file", True)
    assert actions.count(("_pipe_file", True)) == 2
    np.testing.assert_array_equal(TargetStore(PLACE, "-").read("logits"), CODE.decode(CODE.encode(margins(1))))


def test_every_damaged_object_is_found_when_it_is_opened(s3: Any, tmp_path: Path) -> None:
    content = write()
    rng = np.random.default_rng(3)
    for name in RemoteFiles(PLACE).names():
        intact = s3.cat_file(f"{PLACE}/{name}")
        for _ in range(4):
            damaged = bytearray(intact)
            place = int(rng.integers(len(damaged)))
            damaged[place] ^= 1 << int(rng.integers(8))
            s3.pipe_file(f"{PLACE}/{name}", bytes(damaged))
            if name == "zarr.json" and same_json(intact, bytes(damaged)):
                continue
            with pytest.raises(MissingArtefactError, match="mskd cache verify"):
                TargetStore(PLACE, "liver/a")
        s3.pipe_file(f"{PLACE}/{name}", intact)
    assert check_store(expected(tmp_path, content)) is None


def same_json(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


def test_repair_removes_the_store_and_its_manifest(s3: Any, tmp_path: Path) -> None:
    said = expected(tmp_path, write())
    s3.pipe_file(f"{PLACE}/logits/c/0/0/0/0", b"?")
    fault = check_store(said)
    assert fault is not None
    assert fault.kind == "damaged"
    assert remove_faulty([fault]) == [PLACE, str(said.manifest)]
    assert not s3.find("targets/mskd")
    missing = check_store(said)
    assert missing is not None
    assert missing.kind == "missing"
    stale = check_store(replace(said, content=write(seed=1)[:-1]))
    assert stale is not None
    assert stale.kind == "stale"


def test_an_unreachable_service_is_no_missing_store(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else `verify --repair` would have everything made again whenever the network is down."""
    content = write()

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("403 Forbidden")

    monkeypatch.setattr(type(s3), "find", refuse)
    for action in (lambda: check_store(expected(tmp_path, content)), lambda: stored_content(PLACE, "k"), write):
        with pytest.raises(MskdError, match=r"(read|remove) s3://(.|\n)*403 Forbidden(.|\n)*credentials"):
            action()


@pytest.mark.parametrize("root", ["http://host/mskd", "memory://mskd", "sftp://host/mskd"])
def test_stores_that_promise_too_little_are_refused(root: str) -> None:
    study = {"study": "s", "organs": ["liver"], "cache": {"root": root}}
    study["datasets"] = {"liver": {"adapter": "msd", "path": "x", "label_map": {1: "liver"}}}
    with pytest.raises(ConfigError, match=r"cache\.root(.|\n)*s3"):
        parse_study(study)


def test_pipeline_in_rust_reads_and_writes_the_same(tmp_path: Path) -> None:
    pytest.importorskip("zarrs", reason="zarrs is not installed")
    written = write(tmp_path / "python.zarr")
    try:
        use_pipeline("zarrs", 1)
        assert write(tmp_path / "rust.zarr") == written
        by_rust = TargetStore(tmp_path / "python.zarr", "liver/a").read("logits")
    finally:
        use_pipeline("zarr", 1)
    np.testing.assert_array_equal(by_rust, CODE.decode(CODE.encode(margins())))
    np.testing.assert_array_equal(TargetStore(tmp_path / "rust.zarr", "liver/a").read("logits"), by_rust)
